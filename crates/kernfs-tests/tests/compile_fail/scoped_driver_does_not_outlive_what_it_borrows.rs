//! A driver exposed in a scope cannot borrow what may end before the scope.
use kernfs::{Mode, Scope, show};

fn expose<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, rpm: &str) {
    let _ = scope.expose("rpm", Mode::RO, show(move |op| op.push(rpm.as_bytes())));
}

fn main() {}
