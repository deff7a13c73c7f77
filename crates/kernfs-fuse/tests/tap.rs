//! Seeing what clients do before it is done, and interfering.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use kernfs::{Dir, Draining, Errno, Mode, Tree, show};
use kernfs_fuse::{Call, CallKind, Course, Tap};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use support::{Mounted, eventually};

const TEXT: &str = "0123456789\n";

/// A tap that notes all calls, and does something before those that a test wants.
struct Recorder {
    calls: Mutex<Vec<(CallKind, String)>>,
    interfere: Box<dyn Fn(&Call<'_>) -> Course + Send + Sync>,
}

impl Recorder {
    fn new(interfere: impl Fn(&Call<'_>) -> Course + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { calls: Mutex::new(Vec::new()), interfere: Box::new(interfere) })
    }

    fn take(&self) -> Vec<(CallKind, String)> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn count(&self, kind: CallKind, path: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| **call == (kind, path.into())).count()
    }
}

impl Tap for Recorder {
    fn before(&self, call: &Call<'_>) -> Course {
        let path = String::from_utf8(call.path()).unwrap();
        self.calls.lock().unwrap().push((call.kind, path));
        (self.interfere)(call)
    }
}

/// A tree with `/device/value` in it.
fn tree() -> (Tree, Dir) {
    let tree = Tree::new();
    let device = tree.root().add_dir("device", Mode::DIR).unwrap();
    device.add_file("value", Mode::RW, show(|op| op.push(TEXT.as_bytes()))).unwrap().keep();
    (tree, device)
}

fn mount(tree: &Tree, tap: &Arc<Recorder>) -> Option<Mounted> {
    let tap = Arc::clone(tap);
    Mounted::with(tree, |options| options.tap(tap))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap()).unwrap()
}

#[test]
fn every_call_is_told_each_time_before_it_is_carried_out() {
    let (tree, _device) = tree();
    let tap = Recorder::new(|_| Course::Proceed);
    let Some(mount) = mount(&tree, &tap) else { return };
    for _ in 0..3 {
        tap.take();
        assert_eq!(fs::read_to_string(mount.at("device/value")).unwrap(), TEXT);
        let calls = tap.take();
        let below: Vec<_> = calls.iter().filter(|(_, path)| path == "/device/value").collect();
        let kinds: Vec<_> = below.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds[..2], [CallKind::Lookup, CallKind::GetAttr], "{kinds:?}");
        for (kind, least) in [(CallKind::Open, 1), (CallKind::Read, 2), (CallKind::Close, 1)] {
            assert!(kinds.iter().filter(|it| **it == kind).count() >= least, "{kind} {kinds:?}");
        }
        assert_eq!(calls.iter().filter(|it| it.0 == CallKind::Lookup).count(), 2, "{calls:?}");
    }
    assert_eq!(fs::read_dir(mount.at("device")).unwrap().count(), 1);
    assert_eq!(tap.count(CallKind::OpenDir, "/device"), 1);
    assert!(tap.count(CallKind::ReadDir, "/device") >= 2);
}

#[test]
fn a_caller_is_told_by_its_thread() {
    let (tree, _device) = tree();
    let tid = Arc::new(Mutex::new(0));
    let tap = {
        let tid = Arc::clone(&tid);
        Recorder::new(move |call| {
            if call.kind == CallKind::Read {
                *tid.lock().unwrap() = call.caller.pid;
            }
            Course::Proceed
        })
    };
    let Some(mount) = mount(&tree, &tap) else { return };
    let mut cat = Command::new("cat");
    let mut child = cat.arg(mount.at("device/value")).stdout(Stdio::null()).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(*tid.lock().unwrap(), child.id());
}

#[test]
fn a_call_can_be_failed() {
    let (tree, _device) = tree();
    let tap = Recorder::new(|call| match call.kind {
        CallKind::Read if call.offset >= 4 => Course::Fail(Errno::EIO),
        CallKind::ReadDir => Course::Fail(Errno::ENODEV),
        CallKind::Lookup if call.name == Some("gone".as_ref()) => Course::Fail(Errno::EACCES),
        CallKind::Close => Course::Fail(Errno::EIO),
        _ => Course::Proceed,
    });
    let Some(mount) = mount(&tree, &tap) else { return };
    let file = File::open(mount.at("device/value")).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(errno(&file.read_exact_at(&mut bytes, 4).unwrap_err()), Errno::EIO);
    let listed = fs::read_dir(mount.at("device")).and_then(|mut list| list.next().unwrap());
    assert_eq!(errno(&listed.unwrap_err()), Errno::ENODEV);
    assert_eq!(errno(&fs::metadata(mount.at("gone")).unwrap_err()), Errno::EACCES);
    // An error of close(2) has no meaning that anybody could act upon.
    support::sys::close(file).unwrap();
}

#[test]
fn a_read_can_be_shortened_and_goes_on_where_it_was() {
    let (tree, _device) = tree();
    let tap = Recorder::new(|_| Course::Shorten(4));
    let Some(mount) = mount(&tree, &tap) else { return };
    let mut file = File::open(mount.at("device/value")).unwrap();
    let mut bytes = [0; 100];
    assert_eq!(file.read(&mut bytes).unwrap(), 4);
    assert_eq!(&bytes[..4], b"0123");
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, &TEXT[4..]);
}

/// Severs a directory at the n-th call on it or below, from inside the tap.
struct Severer {
    device: Mutex<Option<Dir>>,
    left: Mutex<usize>,
    draining: Mutex<Option<Draining>>,
    at: Mutex<Option<CallKind>>,
}

impl Severer {
    fn before(&self, call: &Call<'_>) {
        if !call.path().starts_with(b"/device") {
            return;
        }
        let mut left = self.left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
        } else if let Some(device) = self.device.lock().unwrap().take() {
            *self.draining.lock().unwrap() = Some(device.sever());
            *self.at.lock().unwrap() = Some(call.kind);
        }
    }
}

#[test]
fn severing_before_any_call_is_exact_and_never_hangs() {
    let mut kinds = Vec::new();
    for n in 0.. {
        let (tree, device) = tree();
        let severer = Arc::new(Severer {
            device: Mutex::new(Some(device)),
            left: Mutex::new(n),
            draining: Mutex::new(None),
            at: Mutex::new(None),
        });
        let tap = {
            let severer = Arc::clone(&severer);
            Recorder::new(move |call| {
                severer.before(call);
                Course::Proceed
            })
        };
        let Some(mount) = mount(&tree, &tap) else { return };
        let script = "ls \"$1\" && cat \"$1/value\" && ls \"$1\" && exec cat \"$1/value\"";
        let output = Command::new("sh").args(["-c", script, "sh"]).arg(mount.at("device")).output();
        let output = output.unwrap();
        let draining = severer.draining.lock().unwrap().take();
        let Some(draining) = draining else {
            assert!(output.status.success(), "{n}: {output:?}");
            break;
        };
        draining.wait_timeout(support::PATIENCE).expect("it drains");
        let kind = severer.at.lock().unwrap().unwrap();
        kinds.push(kind);
        // The call itself met the severing already, except where nothing is asked of the node.
        let said = String::from_utf8(output.stderr).unwrap();
        let fails = !matches!(kind, CallKind::GetAttr | CallKind::Close | CallKind::OpenDir);
        if fails {
            assert!(!output.status.success(), "{n} {kind}: {said}");
            let errors = ["No such device", "No such file or directory"];
            assert!(errors.iter().any(|error| said.contains(error)), "{n} {kind}: {said}");
        }
        eventually("all to be gone", || tree.usage().nodes == 1);
        mount.unmount_clean(&tree);
    }
    for kind in [CallKind::Lookup, CallKind::GetAttr, CallKind::Open, CallKind::Read] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert!(kinds.contains(&CallKind::OpenDir) && kinds.contains(&CallKind::ReadDir), "{kinds:?}");
}

#[test]
fn what_watchers_are_told_by_is_no_call_of_a_client() {
    let tree = Tree::new();
    let value = tree.root().add_file("value", Mode::RW, show(|op| op.push(b"text"))).unwrap();
    let tap = Recorder::new(|_| Course::Proceed);
    let Some(mount) = mount(&tree, &tap) else { return };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let path = mount.at("value");
    inotify::add_watch(&watch, &path, WatchFlags::MODIFY | WatchFlags::DELETE_SELF).unwrap();
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    tap.take();
    value.notify();
    eventually("an event", || events.next().is_ok_and(|e| e.events() == ReadFlags::MODIFY));
    let _ = value.remove().unwrap();
    eventually("an event", || events.next().is_ok_and(|e| e.events() == ReadFlags::DELETE_SELF));
    assert_eq!(tap.take(), []);
}

/// In the flags of a thread in `/proc/TID/stat`: it is on its way out (`PF_EXITING`).
const EXITING: u64 = 4;

fn is_exiting(tid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap();
    // Behind the name, which may contain anything, flags are the seventh.
    let flags = stat.rsplit(')').next().unwrap().split_whitespace().nth(6).unwrap();
    flags.parse::<u64>().unwrap() & EXITING != 0
}

#[test]
fn a_close_by_the_end_of_a_process_is_told_while_it_ends() {
    let (tree, _device) = tree();
    let last_closes = Arc::new(Mutex::new(BTreeMap::new()));
    let tap = {
        let last_closes = Arc::clone(&last_closes);
        Recorder::new(move |call| {
            if call.kind == CallKind::Close {
                let exiting = is_exiting(call.caller.pid);
                last_closes.lock().unwrap().insert(call.open.unwrap(), exiting);
            }
            Course::Proceed
        })
    };
    let Some(mount) = mount(&tree, &tap) else { return };
    let script = "exec 3<\"$1/value\"; exec 3<&-; exec 4<\"$1/value\"";
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", script, "sh"]).arg(mount.at("device")).status().unwrap();
    assert!(status.success());
    let last_closes: Vec<_> = last_closes.lock().unwrap().values().copied().collect();
    assert_eq!(last_closes, [false, true]);
}
