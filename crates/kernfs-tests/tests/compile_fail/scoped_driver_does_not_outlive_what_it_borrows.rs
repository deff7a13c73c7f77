//! A driver exposed in a scope cannot borrow from inside of the scope.
use kernfs::{Mode, Tree, show};

fn main() {
    let tree = Tree::new();
    let _ = tree.root().scope(|scope| {
        let text = String::from("1200");
        let rpm = &text;
        scope.expose("rpm", Mode::RO, show(move |op| op.push(rpm.as_bytes()))).unwrap();
    });
}
