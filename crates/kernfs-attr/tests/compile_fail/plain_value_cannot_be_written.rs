//! A constant is declared as writable.

use kernfs_attr::{Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(rw)]
    label: String,
}

fn main() {}
