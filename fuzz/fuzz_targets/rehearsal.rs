//! Any texts written to the files of a control tree: each is taken or refused as a number or a
//! share is, and what a file shows can be written to it.

#![no_main]

use arbitrary::Arbitrary;
use kernfs::{Caller, Client, Errno, OpenFlags};
use kernfs_cgroup::Hierarchy;
use kernfs_cgroup::rehearsal::ControlTree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|writes: Vec<Write>| {
    let hierarchy = Hierarchy::new().expect("a hierarchy");
    let control = ControlTree::new(&hierarchy).expect("a control tree");
    hierarchy.root().make_child("a").expect("a group");
    let client = control.tree().client(Caller::OWNER);
    for Write { file, text } in writes {
        write(&client, &hierarchy, file, &text);
    }
});

#[derive(Arbitrary, Debug)]
struct Write {
    file: u8,
    text: Vec<u8>,
}

const FILES: [&str; 6] =
    ["cpu.stall", "memory.stall", "io.stall", "memory.current", "memory.events", "sever"];

fn write(client: &Client, hierarchy: &Hierarchy, file: u8, text: &[u8]) {
    let name = FILES[usize::from(file) % FILES.len()];
    let path = format!("/a/{name}");
    let open = client.open(&path, OpenFlags::WRITE).expect("the file");
    match open.write(text) {
        Ok(written) => assert_eq!(written, text.len()),
        Err(errno) => assert!(matches!(errno, Errno::EINVAL | Errno::ERANGE | Errno::E2BIG)),
    }
    if hierarchy.group("/a").is_none() {
        assert_eq!(name, "sever");
        hierarchy.root().make_child("a").expect("the same name again");
    } else if name != "sever" {
        let read = || client.open(&path, OpenFlags::READ).and_then(|open| open.read_to_string());
        let shown = read().expect("text");
        let open = client.open(&path, OpenFlags::WRITE).expect("the file");
        assert_eq!(open.write(shown.as_bytes()), Ok(shown.len()), "{shown:?}");
        assert_eq!(read().as_ref(), Ok(&shown));
    }
}
