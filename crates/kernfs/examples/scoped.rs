//! A scoped driver: a value on the stack is exposed while it works, without `Arc` or `'static`.

use std::sync::atomic::{AtomicUsize, Ordering};

use kernfs::{Caller, Errno, Mode, OpenFlags, Tree, show};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    let words: Vec<&str> = "the quick brown fox".split(' ').collect();
    let done = AtomicUsize::new(0);
    // Borrows what lives in this frame.
    let progress = show(|op| {
        let done = done.load(Ordering::Relaxed);
        op.push(format!("{done} of {}\n", words.len()).as_bytes());
    });

    let held = tree.root().scope(|scope| {
        scope.expose("progress", Mode::RO, progress)?;
        let held = client.open("/progress", OpenFlags::READ)?;
        for word in &words {
            println!("working on {word}");
            done.fetch_add(1, Ordering::Relaxed);
            print!("a client reads: {}", held.read_to_string()?);
        }
        Ok::<_, Errno>(held)
    })??;

    // Nobody can reach what was borrowed any more, though the file is still open.
    println!("after the scope: {:?}", held.read_to_string());
    assert_eq!(held.read_to_string(), Err(Errno::ENODEV));
    Ok(())
}
