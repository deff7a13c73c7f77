//! Files that are ended from inside their own operations, while others end them too.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernfs::{
    Caller, Client, Dir, Draining, Errno, Events, File, FileOps, Mode, OpenFile, OpenFlags, OpenOp,
    Ops, ReadOp, Tree, WriteOp,
};
use kernfs_tests::probe::{Log, Ticket, Watched};

use super::{steps, storm};

/// Where the owner's handle is, for operations too: whoever takes it out ends the file.
type Slot = Arc<Mutex<Option<File<Ending>>>>;

/// A driver whose file ends itself when that is written to it.
struct Ending {
    watched: Watched,
    slot: Slot,
    dir: Arc<Dir>,
}

impl Ending {
    /// Ends the file in one of the ways that do not wait.
    fn end(&self, how: &[u8]) -> Option<Draining> {
        let slot = self.slot.lock().unwrap();
        match how {
            b"hide" => slot.as_ref().map(File::hide),
            b"by name" => self.dir.sever_child("f").ok(),
            _ => {
                let file = { slot }.take();
                file.map(|file| file.sever().detach())
            }
        }
    }
}

impl FileOps for Ending {
    type Open = Ticket;
    const OPS: Ops = Ops::READ.union(Ops::WRITE);

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Ticket, Errno> {
        self.watched.open(op)
    }

    fn read(&self, ticket: &mut Ticket, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.watched.read(ticket, op)
    }

    /// Goes on with the open file after the file has ended, as who gave up its protection did.
    fn write(&self, ticket: &mut Ticket, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        if let Some(draining) = self.end(op.data()) {
            op.answer_after(draining);
        }
        self.watched.write(ticket, op)
    }

    fn release(&self, ticket: Ticket) {
        self.watched.release(ticket);
    }
}

#[test]
fn files_that_end_themselves() {
    let tree = Tree::new();
    let dir = Arc::new(tree.root().add_dir("d", Mode::DIR).unwrap());
    let (slot, logs) = (Slot::default(), Mutex::new(Vec::<Arc<Log>>::new()));
    // Duplicates, on their way from one client to another.
    let passed = Mutex::new(Vec::new());
    let client = tree.client(Caller::OWNER);
    let mut threads = vec![steps(|dice| own(&dir, &slot, &logs, dice))];
    for _ in 0..3 {
        threads.push(steps(|dice| use_it(&client, &passed, dice)));
    }
    storm("files that end themselves", threads);
    drop(passed);
    drop(slot.lock().unwrap().take().map(File::sever));
    drop(slot);
    let dir = Arc::into_inner(dir);
    tree.remove().unwrap();
    drop(dir);
    let logs = logs.into_inner().unwrap();
    assert!(logs.len() > 1, "nothing ended");
    for log in logs {
        log.assert_ended(Log::count(&log.opened));
        assert_eq!(Log::count(&log.dropped), 1, "the driver");
    }
}

/// Adds the file where there is none; hides and shows it, or takes it away.
fn own(dir: &Arc<Dir>, slot: &Slot, logs: &Mutex<Vec<Arc<Log>>>, dice: &mut fastrand::Rng) {
    let mut held = slot.lock().unwrap();
    if held.as_ref().is_none_or(File::is_removed) {
        // What was removed by name may have somebody inside still; this waits for it.
        let gone = held.take();
        drop(held);
        gone.into_iter().for_each(take_back);
        let log = Log::new();
        let watched = Watched::new(&log);
        let driver = Ending { watched, slot: Arc::clone(slot), dir: Arc::clone(dir) };
        match dir.add_file("f", Mode::RW, driver) {
            Ok(file) => {
                *slot.lock().unwrap() = Some(file);
                logs.lock().unwrap().push(log);
            }
            // An operation has taken the handle out, and has not severed the file yet.
            Err(rejected) => assert_eq!(rejected.errno(), Errno::EEXIST),
        }
        return;
    }
    match dice.u32(0..4) {
        0 => {
            let draining = held.as_ref().unwrap().hide();
            drop(held);
            draining.wait().unwrap();
        }
        1 => held.as_ref().unwrap().show(),
        2 => {
            let file = held.take().unwrap();
            drop(held);
            take_back(file);
        }
        _ => {
            drop(held);
            std::thread::sleep(Duration::from_micros(dice.u64(0..300)));
        }
    }
}

fn take_back(file: File<Ending>) {
    let driver = file.remove().unwrap();
    driver.watched.log.gone.store(true, SeqCst);
}

fn use_it(client: &Client, passed: &Mutex<Vec<OpenFile>>, dice: &mut fastrand::Rng) {
    let held = match passed.lock().unwrap().pop() {
        Some(held) if dice.bool() => held,
        _ => match client.open("/d/f", OpenFlags::READ_WRITE) {
            Ok(held) => held,
            Err(errno) => {
                assert!([Errno::ENOENT, Errno::ENODEV].contains(&errno), "{errno}");
                return;
            }
        },
    };
    let known = |done: Result<usize, Errno>, what: &str| {
        assert!(matches!(done, Ok(_) | Err(Errno::ENODEV)), "{what}: {done:?}");
    };
    for _ in 0..dice.u32(1..5) {
        match dice.u32(0..8) {
            0 => known(held.write(b"hide"), "hide"),
            1 => known(held.write(b"by name"), "by name"),
            2 => known(held.write(b"by handle"), "by handle"),
            3 => known(held.write(b"nothing"), "nothing"),
            4 | 5 => known(held.read_at(&mut [0; 64], 0), "read"),
            6 => {
                let events = held.wait_timeout(Events::PRI, Duration::from_micros(50));
                assert!((Events::PRI | Events::ERR).contains(events));
            }
            _ => passed.lock().unwrap().push(held.clone()),
        }
    }
}
