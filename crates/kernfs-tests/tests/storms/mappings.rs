//! Mappings that are made at once, and outlived by nobody: hidden, shown, removed.

use std::sync::Mutex;

use kernfs::{
    Caller, Errno, File, FileOps, FileOptions, Kind, Mapping, Mode, OpenFlags, OpenOp, Ops, ReadOp,
    Tree,
};
use kernfs_tests::{Mounted, Needs, Owner, Subject, errno, flags};

use super::{steps, storm};

/// A file of declared size.
struct Sevens;

impl FileOps for Sevens {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::READ.union(Ops::MMAP);

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let len = op.max_len();
        op.push(&vec![7; len]);
        Ok(())
    }
}

const PAGE: usize = 4096;
const SIZE: u64 = PAGE as u64;

#[test]
fn mappings_in_process() {
    let tree = Tree::new();
    let add = || -> File<Sevens> {
        tree.root().add_file("f", FileOptions::new(Mode::RO).size(SIZE), Sevens).unwrap()
    };
    let mut file = Some(add());
    let client = tree.client(Caller::OWNER);
    // Dead ones, which have to stay so.
    let dead: Mutex<Vec<Mapping>> = Mutex::default();
    let own = |dice: &mut fastrand::Rng| match dice.u32(0..4) {
        0 | 1 => {
            file.as_ref().unwrap().hide().wait().unwrap();
            std::thread::yield_now();
            file.as_ref().unwrap().show();
        }
        2 => {
            let _ = file.take().unwrap().remove().unwrap();
            file = Some(add());
        }
        _ => std::thread::yield_now(),
    };
    let map = |dice: &mut fastrand::Rng| {
        let maps = [(); 2].map(|()| {
            let held = client.open("/f", OpenFlags::READ).ok()?;
            held.map(0, SIZE, false).inspect_err(|errno| assert_eq!(*errno, Errno::ENODEV)).ok()
        });
        for map in maps.into_iter().flatten() {
            for _ in 0..dice.u32(1..6) {
                let mut buf = [0; 8];
                match map.read_at(&mut buf, dice.u64(0..SIZE - 8)) {
                    Ok(()) => assert_eq!(buf, [7; 8]),
                    Err(errno) => {
                        assert_eq!(errno, Errno::ENODEV);
                        let mut dead = dead.lock().unwrap();
                        dead.truncate(16);
                        dead.push(map);
                        break;
                    }
                }
            }
        }
    };
    let look = |_: &mut fastrand::Rng| {
        for map in &*dead.lock().unwrap() {
            assert_eq!(map.read_at(&mut [0; 8], 0), Err(Errno::ENODEV), "alive again");
        }
        std::thread::yield_now();
    };
    storm("mappings, in process", vec![steps(own), steps(map), steps(map), steps(look)]);
}

#[test]
fn mappings_through_a_mount() {
    let subject = match Mounted::subject() {
        Ok(subject) if subject.can().contains(Needs::MAPPED_FILE) => subject,
        Ok(_) => return eprintln!("skipped: the mount refuses to map files"),
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let device = Mutex::new(subject.device().unwrap());
    let own = |_: &mut fastrand::Rng| {
        let fresh = subject.device().unwrap();
        let old = std::mem::replace(&mut *device.lock().unwrap(), fresh);
        subject.unregister(&old).unwrap();
    };
    let map = |dice: &mut fastrand::Rng| {
        let known = device.lock().unwrap().clone();
        let (name, size) = known.mapped.clone().unwrap();
        let path = format!("{}/{name}", known.dir);
        let opens = [(); 2].map(|()| subject.open(&path, flags::O_RDONLY).ok());
        let opens: Vec<_> = opens.into_iter().flatten().collect();
        let size = usize::try_from(size).unwrap();
        assert_eq!(size, 2 * PAGE);
        let maps: Vec<_> = opens.iter().filter_map(|fd| subject.mmap(*fd, size).ok()).collect();
        // Page by page: while the removal is on its way, one may be gone and another not yet.
        let mut dead = vec![[false; 2]; maps.len()];
        for _ in 0..dice.u32(1..20) {
            for (map, dead) in maps.iter().zip(&mut dead) {
                let at = dice.usize(0..size);
                let is_dead = &mut dead[at / PAGE];
                match subject.map_read(*map, at, 1) {
                    Ok(bytes) => {
                        assert!(!*is_dead, "alive again");
                        assert_eq!(bytes, [(at % 251) as u8]);
                    }
                    Err(number) => {
                        assert_eq!(number, errno::EFAULT);
                        *is_dead = true;
                    }
                }
            }
        }
        maps.iter().for_each(|map| subject.munmap(*map).unwrap());
        opens.iter().for_each(|fd| subject.close(*fd).unwrap());
    };
    storm("mappings, mounted", vec![steps(own), steps(map), steps(map)]);
}
