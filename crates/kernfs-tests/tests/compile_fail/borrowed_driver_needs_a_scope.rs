//! Outside of a scope a driver must own what it uses.
use kernfs::{Mode, Tree, show};

fn add(tree: &Tree, rpm: &str) {
    let _ = tree.root().add_file("rpm", Mode::RO, show(move |op| op.push(rpm.as_bytes())));
}

fn main() {}
