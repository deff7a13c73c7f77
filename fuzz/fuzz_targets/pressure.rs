//! Any sequence of writes, polls, reads and severings of pressure files while time goes on, on a
//! virtual clock.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use kernfs::{Caller, Errno, Events, File, OpenFile, OpenFlags, Tree};
use kernfs_fuzz::{Trigger, model};
use kernfs_psi::{
    Engine, Group, PressureFile, Privilege, Resource, Stall, Task, VirtualClock, pressure_file,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut world = World::new();
    for step in steps {
        world.take(step);
        world.check();
    }
    world.end();
});

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Open {
        file: u8,
        is_privileged: bool,
        is_for_writing: bool,
    },
    Write {
        open: u8,
        text: &'a [u8],
    },
    /// A text that is likely to be a trigger.
    Trigger {
        open: u8,
        is_full: bool,
        threshold: u16,
        window: u8,
    },
    Poll {
        open: u8,
        events: u8,
    },
    Read {
        open: u8,
    },
    Close {
        open: u8,
    },
    Stall {
        resource: u8,
    },
    Work,
    Rest {
        task: u8,
    },
    /// Time passes, in steps of 16 ms, and triggers are evaluated on the way, or only then.
    Run {
        steps: u8,
    },
    Jump {
        steps: u8,
    },
    Feed {
        resource: u8,
        millis: u8,
    },
    Hide {
        file: u8,
    },
    Show {
        file: u8,
    },
    Disable,
    Enable,
}

/// An open file, with what is known of it.
struct Held {
    open: OpenFile,
    file: usize,
    privilege: Privilege,
    is_for_writing: bool,
    trigger: Option<Trigger>,
    polled: Duration,
    /// The last event that was polled came after this.
    event_after: Option<Duration>,
}

struct World {
    clock: VirtualClock,
    engine: Engine,
    group: Group,
    tree: Tree,
    files: Vec<(Resource, File<PressureFile>)>,
    is_hidden: [bool; 4],
    held: Vec<Held>,
    tasks: Vec<Task>,
    totals: [Duration; 4],
}

impl World {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let engine = Engine::builder().clock(clock.clone()).build();
        let group = engine.root().child();
        let tree = Tree::new();
        let files = Resource::ALL.map(|resource| {
            let driver = pressure_file(&group, resource);
            let name = resource.to_string();
            let file = tree.root().add_file(name, driver.options(), driver);
            (resource, file.unwrap_or_else(|rejected| panic!("{rejected}")))
        });
        Self {
            clock,
            engine,
            group,
            tree,
            files: files.into(),
            is_hidden: [false; 4],
            held: Vec::new(),
            tasks: Vec::new(),
            totals: [Duration::ZERO; 4],
        }
    }

    fn now(&self) -> Duration {
        kernfs::Clock::monotonic(&self.clock)
    }

    fn resource(at: u8) -> Resource {
        Resource::ALL[usize::from(at) % 4]
    }

    fn held(&mut self, at: u8) -> Option<&mut Held> {
        let at = usize::from(at).checked_rem(self.held.len())?;
        Some(&mut self.held[at])
    }

    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Open { file, is_privileged, is_for_writing } => {
                self.open(usize::from(file) % 4, is_privileged, is_for_writing);
            }
            Step::Write { open, text } => self.write(open, text),
            Step::Trigger { open, is_full, threshold, window } => {
                let word = if is_full { "full" } else { "some" };
                let window = u64::from(window) * 50_000;
                let text = format!("{word} {threshold}00 {window}");
                self.write(open, text.as_bytes());
            }
            Step::Poll { open, events } => self.poll(open, events),
            Step::Read { open } => self.read(open),
            Step::Close { open } => {
                if let Some(at) = usize::from(open).checked_rem(self.held.len()) {
                    drop(self.held.swap_remove(at));
                }
            }
            Step::Stall { resource } => {
                self.tasks.push(self.group.stall(Self::resource(resource)));
            }
            Step::Work => self.tasks.push(self.group.work()),
            Step::Rest { task } => {
                if let Some(at) = usize::from(task).checked_rem(self.tasks.len()) {
                    drop(self.tasks.swap_remove(at));
                }
            }
            Step::Run { steps } => {
                self.clock.run(&self.engine, Duration::from_millis(u64::from(steps) * 16));
            }
            Step::Jump { steps } => {
                self.clock.advance(Duration::from_millis(u64::from(steps) * 16));
            }
            Step::Feed { resource, millis } => {
                let time = Duration::from_millis(millis.into());
                self.group.feed(Self::resource(resource), Stall::Full, time);
            }
            Step::Hide { file } => self.hide(usize::from(file) % 4),
            Step::Show { file } => {
                let file = usize::from(file) % 4;
                self.files[file].1.show();
                self.is_hidden[file] = false;
            }
            Step::Disable => self.group.disable(),
            Step::Enable => self.group.enable(),
        }
    }

    fn open(&mut self, file: usize, is_privileged: bool, is_for_writing: bool) {
        let (caller, privilege) = match is_privileged {
            true => (Caller::OWNER, Privilege::Privileged),
            false => (Caller::OWNER.with_capable(|_, _| false), Privilege::Unprivileged),
        };
        let flags = if is_for_writing { OpenFlags::READ_WRITE } else { OpenFlags::READ };
        let open = self.tree.client(caller).open(self.files[file].0.to_string(), flags);
        assert_eq!(open.is_err(), self.is_hidden[file]);
        let polled = self.now();
        self.held.extend(open.ok().map(|open| Held {
            open,
            file,
            privilege,
            is_for_writing,
            trigger: None,
            polled,
            event_after: None,
        }));
    }

    fn write(&mut self, open: u8, text: &[u8]) {
        let now = self.now();
        let Some(held) = self.held(open) else { return };
        let fits = model(text, Resource::ALL[held.file], held.privilege);
        let expected = if !held.is_for_writing {
            Err(Errno::EBADF)
        } else if text.len() > 4096 {
            Err(Errno::E2BIG)
        } else if held.open.is_severed() {
            Err(Errno::ENODEV)
        } else if text.is_empty() {
            Ok(0)
        } else if held.trigger.is_some() {
            Err(Errno::EBUSY)
        } else {
            fits.map(|_| text.len()).ok_or(Errno::EINVAL)
        };
        assert_eq!(held.open.write(text), expected);
        if expected == Ok(text.len()) && !text.is_empty() {
            (held.trigger, held.polled) = (fits, now);
        }
    }

    fn poll(&mut self, open: u8, events: u8) {
        let now = self.now();
        let Some(held) = self.held(open) else { return };
        let interest = Events::from_bits_truncate(events.into());
        let ready = held.open.ready(interest);
        let Some(trigger) = held.trigger.filter(|_| !held.open.is_severed()) else {
            assert_eq!(ready, Events::SEVERED & (interest | Events::ERR));
            return;
        };
        assert!((Events::DEFAULT | Events::PRI).contains(ready));
        if ready.contains(Events::PRI) {
            let quiet = Duration::from_micros(trigger.window);
            assert!(held.event_after.is_none_or(|before| now - before >= quiet));
            held.event_after = Some(held.polled);
        } else if !interest.contains(Events::PRI) {
            // It may have taken an event that nobody has seen.
            held.event_after = None;
        }
        held.polled = now;
    }

    fn read(&mut self, open: u8) {
        let Some(held) = self.held(open) else { return };
        let mut text = [0; 512];
        match held.open.read_at(&mut text, 0) {
            Ok(len) => {
                let lines = if Resource::ALL[held.file] == Resource::Irq { 1 } else { 2 };
                assert_eq!(text[..len].iter().filter(|&&byte| byte == b'\n').count(), lines);
            }
            Err(errno) => assert_eq!((errno, held.open.is_severed()), (Errno::ENODEV, true)),
        }
    }

    fn hide(&mut self, file: usize) {
        self.files[file].1.hide().wait().expect("nobody is inside");
        self.is_hidden[file] = true;
        assert!(self.held.iter().all(|held| held.file != file || held.open.is_severed()));
    }

    fn check(&mut self) {
        let set = |held: &&Held| held.trigger.is_some() && !held.open.is_severed();
        assert_eq!(self.group.triggers(), self.held.iter().filter(set).count());
        for (resource, before) in Resource::ALL.into_iter().zip(&mut self.totals) {
            let pressure = self.group.pressure(resource);
            let total = pressure.full.total();
            assert!(total >= *before, "a total went back");
            assert!(pressure.full.avg10() <= 10_000);
            *before = total;
        }
    }

    /// The tree goes first, then the open files; no trigger is left of either.
    fn end(self) {
        let Self { tree, held, group, engine, .. } = self;
        tree.remove().expect("nobody is inside");
        assert_eq!(group.triggers(), 0);
        assert!(held.iter().all(|held| held.open.ready(Events::all()) == Events::SEVERED));
        assert_eq!(engine.advance(), None, "something is left to be evaluated");
    }
}
