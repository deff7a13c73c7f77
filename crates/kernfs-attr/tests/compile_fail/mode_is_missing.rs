//! A file does not say who can use it.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(range = 0..=5000)]
    target: Attr<u32>,
    #[attr]
    speed: Attr<u32>,
}

fn main() {}
