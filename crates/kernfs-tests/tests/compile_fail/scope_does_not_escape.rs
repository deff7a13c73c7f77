//! A scope cannot be carried out of its closure, to expose borrowed drivers later.
use kernfs::{Scope, Tree};

fn main() {
    let tree = Tree::new();
    let mut escaped: Option<&Scope<'_, '_>> = None;
    let _ = tree.root().scope(|scope| escaped = Some(scope));
    drop(escaped);
}
