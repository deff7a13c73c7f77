//! Front ends that come and go while there is news, and names that change while they are read.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use kernfs::{Ack, Caller, Change, Errno, Events, FrontEnd, Mode, OpenFlags, Severed, Tree, show};

use super::{steps, storm};

/// A front end whose acknowledgements are given by somebody else.
struct Front {
    acks: Mutex<Sender<Ack>>,
    heard: AtomicUsize,
}

impl FrontEnd for Front {
    fn severed(&self, severed: &Severed<'_>, ack: Ack) {
        assert!(severed.inos().len() > 0);
        self.heard.fetch_add(1, SeqCst);
        // Dropped here, it is given as well.
        let _ = self.acks.lock().unwrap().send(ack);
    }

    fn changed(&self, _: &Change) {
        self.heard.fetch_add(1, SeqCst);
    }
}

#[test]
fn front_ends_come_and_go_while_there_is_news() {
    let tree = Tree::new();
    let (send, acks) = channel();
    let acknowledger = std::thread::spawn(move || acks.into_iter().for_each(drop));
    let send = Mutex::new(send);
    let add = || tree.root().add_file("f", Mode::RO, show(|op| op.push(b"1\n"))).unwrap();
    let fresh = add();
    let notifier = Mutex::new(fresh.notifier());
    let mut file = Some(fresh);
    let client = tree.client(Caller::OWNER);
    let own = |dice: &mut fastrand::Rng| match dice.u32(0..5) {
        0 => file.as_ref().unwrap().hide().wait().unwrap(),
        1 => file.as_ref().unwrap().show(),
        2 => {
            let gone = file.take().unwrap();
            let _ = gone.remove().unwrap();
            let fresh = add();
            *notifier.lock().unwrap() = fresh.notifier();
            file = Some(fresh);
        }
        _ => file.as_ref().unwrap().notify(),
    };
    let front = |_: &mut fastrand::Rng| {
        let acks = Mutex::new(send.lock().unwrap().clone());
        let front = Arc::new(Front { acks, heard: AtomicUsize::new(0) });
        let guard = tree.register(Arc::clone(&front) as Arc<dyn FrontEnd>);
        let mut changes = tree.changes(4);
        std::thread::yield_now();
        while changes.try_recv().is_some() {}
        drop(changes);
        drop(guard);
    };
    let notify = |dice: &mut fastrand::Rng| {
        let notifier = notifier.lock().unwrap().clone();
        if dice.bool() { notifier.notify() } else { notifier.announce() }
    };
    let poll = |_: &mut fastrand::Rng| {
        if let Ok(held) = client.open("/f", OpenFlags::READ) {
            let _ = held.read_to_vec();
            let events = held.ready(Events::PRI);
            assert!(events.is_empty() || events == Events::PRI | Events::ERR, "{events:?}");
        }
    };
    storm("front ends and news", vec![steps(own), steps(front), steps(notify), steps(poll)]);
    drop(send);
    acknowledger.join().unwrap();
}

#[test]
fn names_change_while_they_are_read() {
    let tree = Tree::new();
    let dirs = ["one", "two"].map(|name| tree.root().add_dir(name, Mode::DIR).unwrap());
    let file = dirs[0].add_file("a", Mode::RO, show(|op| op.push(b"1\n"))).unwrap();
    let link = tree.root().add_link("link", &file).unwrap();
    let client = tree.client(Caller::OWNER);
    let held = client.open("/one/a", OpenFlags::READ).unwrap();
    let own = |dice: &mut fastrand::Rng| {
        let (dir, name) = (dice.usize(0..2), if dice.bool() { "a" } else { "b" });
        file.rename(&dirs[dir], name).unwrap();
    };
    let paths = ["one/a", "one/b", "two/a", "two/b"];
    let read = |dice: &mut fastrand::Rng| {
        let text = client.lookup_link("/link").unwrap().readlink().unwrap();
        assert!(paths.iter().any(|path| path.as_bytes() == text), "{}", text.escape_ascii());
        let path = held.inode().path();
        assert!(paths.iter().any(|known| path == format!("/{known}").as_bytes()));
        assert_eq!(held.read_to_string().as_deref(), Ok("1\n"), "it is the same file");
        // It is somewhere, though never in the place where one has just looked.
        match client.lookup(format!("/{}", paths[dice.usize(0..4)])) {
            Ok(inode) => assert_eq!(inode.ino(), held.inode().ino()),
            Err(errno) => assert_eq!(errno, Errno::ENOENT),
        }
    };
    storm("names", vec![steps(own), steps(read), steps(read)]);
    drop(link);
}
