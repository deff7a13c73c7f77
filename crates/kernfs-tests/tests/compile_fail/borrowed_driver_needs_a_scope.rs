//! Outside of a scope a driver must own what it uses.
use kernfs::{Mode, Tree, show};

fn main() {
    let tree = Tree::new();
    let text = String::from("1200");
    let rpm = &text;
    let _file = tree.root().add_file("rpm", Mode::RO, show(move |op| op.push(rpm.as_bytes())));
}
