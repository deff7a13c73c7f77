//! A name is none.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(rw, name = "fan1/target")]
    target: Attr<u32>,
    #[attr(rw, name = "")]
    speed: Attr<u32>,
}

fn main() {}
