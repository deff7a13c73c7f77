//! An event file: each reader gets every event once, blocks when there is none, and is let go.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::thread;

use kernfs::{Caller, Errno, FileOps, Kind, Mode, OpenFlags, OpenOp, Ops, ReadOp, Tree};

/// All events so far.
#[derive(Default)]
struct Events(Mutex<VecDeque<String>>);

impl FileOps for Events {
    /// How many events this reader has had.
    type Open = usize;
    const KIND: Kind = Kind::Stream;
    const OPS: Ops = Ops::READ;

    fn open(&self, _: &mut OpenOp<'_>) -> Result<usize, Errno> {
        Ok(0)
    }

    fn read(&self, had: &mut usize, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let events = self.0.lock().unwrap();
        // Nothing yet: the reader waits for the next notification.
        let event = events.get(*had).ok_or(Errno::EAGAIN)?;
        op.push(event.as_bytes());
        *had += 1;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Tree::new();
    let file = tree.root().add_file("events", Mode::RO, Events::default())?;
    let held = tree.client(Caller::OWNER).open("/events", OpenFlags::READ)?;
    let reader = thread::spawn(move || {
        let mut event = [0; 64];
        loop {
            match held.read_at(&mut event, 0) {
                Ok(len) => println!("event: {}", String::from_utf8_lossy(&event[..len])),
                Err(errno) => return errno,
            }
        }
    });
    for event in ["add disk0", "change disk0", "remove disk0"] {
        file.0.lock().unwrap().push_back(event.into());
        file.notify();
    }
    let events = file.remove()?;
    println!("the owner has {} events back", events.0.into_inner()?.len());
    let errno = reader.join().expect("the reader does not panic");
    println!("the reader was let go: {errno}");
    assert_eq!(errno, Errno::ENODEV);
    Ok(())
}
