//! A group is not one.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[group]
    limits: Attr<u32>,
}

fn main() {}
