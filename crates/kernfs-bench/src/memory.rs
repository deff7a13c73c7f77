//! How much memory nodes and open files take.

use kernfs::{Mode, OpenFlags, Tree};

use crate::counting::{Allocated, count};
use crate::drivers::{Constant, owner};
use crate::measure::{Effort, Figures};
use crate::table::Row;

/// Names of 64 bytes.
fn name(number: usize) -> String {
    format!("{number:064}")
}

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let files = effort.size(100_000);
    let dirs = effort.size(10_000);
    let opens = effort.size(10_000);
    let tree = Tree::new();
    let root = tree.root();

    let flat = root.add_dir("files", Mode::DIR).expect("the name is free");
    let ((), of_files) = count(|| {
        for number in 0..files {
            flat.add_file(name(number), Mode::RO, Constant).expect("the name is free").keep();
        }
    });
    // Ten attributes to a device, as is usual in sysfs.
    let devices = root.add_dir("devices", Mode::DIR).expect("the name is free");
    let ((), of_devices) = count(|| {
        for number in 0..files / 10 {
            let device = devices.add_dir(name(number), Mode::DIR).expect("the name is free");
            for number in 0..10 {
                device.add_file(name(number), Mode::RO, Constant).expect("the name is free").keep();
            }
            device.keep();
        }
    });
    let nested = root.add_dir("dirs", Mode::DIR).expect("the name is free");
    let ((), of_dirs) = count(|| {
        for number in 0..dirs {
            nested.add_dir(name(number), Mode::DIR).expect("the name is free").keep();
        }
    });
    root.add_file("file", Mode::RO, Constant).expect("the name is free").keep();
    let inode = owner(&tree).lookup("/file").expect("it was added");
    let mut held = Vec::with_capacity(opens);
    let ((), of_opens) = count(|| {
        held.extend(
            (0..opens)
                .map(|_| inode.open(owner(&tree).caller(), OpenFlags::READ).expect("it is there")),
        );
    });
    let mut buf = [0; 64];
    let ((), of_reads) = count(|| {
        for file in &held {
            file.read_at(&mut buf, 0).expect("it is readable");
        }
    });
    vec![
        row(format!("file, 64-byte name, of {files} in a directory"), of_files, files),
        row(
            "file, 64-byte name, with a tenth of its directory".into(),
            of_devices,
            files / 10 * 10,
        ),
        row(format!("empty directory, 64-byte name, of {dirs}"), of_dirs, dirs),
        row(format!("open file, of {opens}, never read"), of_opens, opens),
        row("what the first read of 18 bytes adds to it".into(), of_reads, opens),
    ]
}

fn row(what: String, allocated: Allocated, among: usize) -> Row {
    let each = |total: isize| total as f64 / among as f64;
    Row::bytes(what, each(allocated.bytes))
        .ratio(Figures::exact(each(allocated.blocks)), "blocks")
        .note(format!("{:.0} bytes as glibc rounds them", each(allocated.rounded)))
}
