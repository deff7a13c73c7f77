//! One thread: the unit, a gate, guarded reads, and open, read, close.

use std::hint::black_box;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kernfs::{Mode, OpenFlags, Tree};

use crate::drivers::{Constant, Empty, NUMBER, Number, TEXT, owner};
use crate::measure::{Case, Effort, interleave};
use crate::table::{Row, rows_over_first};

/// What a guarded read shall cost at most, in read-modify-writes.
const GUARDED_READ: f64 = 3.5;

/// One uncontended atomic read-modify-write.
pub(crate) fn unit<'a>() -> Case<'a> {
    let word = AtomicU64::new(0);
    Case::new("atomic read-modify-write (rmw)", move || {
        black_box(word.fetch_add(1, Ordering::AcqRel));
    })
}

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let tree = Tree::new();
    let root = tree.root();
    root.add_file("constant", Mode::RW, Constant).expect("the name is free").keep();
    root.add_file("number", Mode::RO, Number(NUMBER)).expect("the name is free").keep();
    root.add_file("empty", Mode::RO, Empty).expect("the name is free").keep();
    let client = owner(&tree);
    let inode = client.lookup("/constant").expect("it was added");
    let open = |path, flags| client.open(path, flags).expect("it was added");
    let constant = open("/constant", OpenFlags::READ_WRITE);
    let number = open("/number", OpenFlags::READ);
    let empty = open("/empty", OpenFlags::READ);

    let locked = Mutex::new(Some(*TEXT));
    let mut locked_buf = [0; 64];
    let mut formatted = Vec::new();
    let mut buf = [0; 64];
    let mut number_buf = [0; 64];
    let mut empty_buf = [0; 64];
    let mut opened_buf = [0; 64];
    let mut walked_buf = [0; 64];
    assert_eq!(constant.read_at(&mut buf, 0), Ok(TEXT.len()));
    assert_eq!(number.read_at(&mut number_buf, 0), Ok(TEXT.len()));
    assert_eq!((&buf, &buf[..TEXT.len()]), (&number_buf, &TEXT[..]));

    let samples = interleave(
        effort,
        vec![
            unit(),
            Case::new("std Mutex<Option<[u8; 18]>>, copied out", || {
                let guard = locked.lock().expect("nobody panics");
                if let Some(text) = black_box(&*guard) {
                    locked_buf[..text.len()].copy_from_slice(text);
                }
                drop(guard);
                black_box(&mut locked_buf);
            }),
            Case::new("formatting a u64 of 17 digits alone", || {
                formatted.clear();
                let _ = writeln!(black_box(&mut formatted), "{}", black_box(NUMBER));
            }),
            Case::new("enter and leave: write of 1 byte", || {
                let _ = black_box(constant.write_at(black_box(b"x"), 0));
            }),
            Case::new("enter and leave: binary read of nothing", || {
                let _ = black_box(empty.read_at(black_box(&mut empty_buf), 0));
            }),
            Case::new("guarded read, 18 bytes of text", || {
                let _ = black_box(constant.read_at(black_box(&mut buf), 0));
            }),
            Case::new("guarded read, 18 bytes formatted from a u64", || {
                let _ = black_box(number.read_at(black_box(&mut number_buf), 0));
            }),
            Case::new("open, read, close of an inode", || {
                let file = inode.open(client.caller(), OpenFlags::READ).expect("it is there");
                let _ = black_box(file.read_at(black_box(&mut opened_buf), 0));
            }),
            Case::new("open by path, read, close", || {
                let file = client.open("/constant", OpenFlags::READ).expect("it is there");
                let _ = black_box(file.read_at(black_box(&mut walked_buf), 0));
            }),
        ],
    );
    let mut rows = rows_over_first(&samples, "rmw");
    for row in &mut rows {
        if row.what == "guarded read, 18 bytes of text" {
            row.target = Some(GUARDED_READ);
        }
    }
    rows
}
