//! Two files have one name.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(rw)]
    target: Attr<u32>,
    #[attr(ro, name = "target")]
    speed: Attr<u32>,
}

fn main() {}
