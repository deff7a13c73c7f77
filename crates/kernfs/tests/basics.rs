//! The promise in its shortest form; the properties in full are tested in `kernfs-tests`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kernfs::{
    Caller, Errno, Events, FileOps, Kind, Mode, OpenFlags, OpenOp, Ops, ReadOp, Tree, WriteOp,
};

#[derive(Default)]
struct Counts {
    released: AtomicUsize,
    freed: AtomicUsize,
}

struct Knob {
    counts: Arc<Counts>,
    value: AtomicUsize,
}

impl FileOps for Knob {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        let counts = Arc::clone(&self.counts);
        op.on_free(move || {
            counts.freed.fetch_add(1, Ordering::SeqCst);
        });
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(format!("{}\n", self.value.load(Ordering::SeqCst)).as_bytes());
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let value = op.text()?.parse().map_err(|_| Errno::EINVAL)?;
        self.value.store(value, Ordering::SeqCst);
        Ok(op.data().len())
    }

    fn release(&self, (): ()) {
        self.counts.released.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_owner_takes_its_knob_back_while_others_hold_it() {
    let counts = Arc::new(Counts::default());
    let tree = Tree::new();
    let knob = Knob { counts: Arc::clone(&counts), value: AtomicUsize::new(1) };
    let knob = tree.root().add_file("knob", Mode::RW, knob).unwrap();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/knob", OpenFlags::READ_WRITE).unwrap();
    assert_eq!(held.write_at(b"42\n", 0), Ok(3));
    assert_eq!(held.read_to_string().unwrap(), "42\n");
    assert_eq!(held.ready(Events::all()), Events::DEFAULT);
    let sleeper = {
        let held = held.clone();
        thread::spawn(move || held.wait(Events::PRI))
    };
    let knob = knob.remove().unwrap();
    assert_eq!(knob.value.load(Ordering::SeqCst), 42);
    assert_eq!(sleeper.join().unwrap(), Events::PRI | Events::ERR);
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    assert_eq!(held.ready(Events::all()), Events::SEVERED);
    assert_eq!(counts.released.load(Ordering::SeqCst), 1);
    assert_eq!(counts.freed.load(Ordering::SeqCst), 0);
    assert_eq!(client.open("/knob", OpenFlags::READ).unwrap_err(), Errno::ENOENT);
    drop(held);
    assert_eq!(counts.freed.load(Ordering::SeqCst), 1);
    assert_eq!(tree.usage().open_files, 0);
}

struct Silent;

impl FileOps for Silent {
    type Open = ();
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        Err(Errno::EAGAIN)
    }
}

#[test]
fn a_blocked_reader_is_let_go() {
    let tree = Tree::new();
    let file = tree.root().add_file("events", Mode::RO, Silent).unwrap();
    let held = tree.client(Caller::OWNER).open("/events", OpenFlags::READ).unwrap();
    let reader = {
        let held = held.clone();
        thread::spawn(move || held.read_at(&mut [0; 16], 0))
    };
    thread::sleep(std::time::Duration::from_millis(20));
    let _silent = file.remove().unwrap();
    assert_eq!(reader.join().unwrap(), Err(Errno::ENODEV));
}
