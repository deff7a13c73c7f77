//! Options that there are not, or twice.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(rw, min = 0)]
    target: Attr<u32>,
    #[attr(rw, ro)]
    speed: Attr<u32>,
    #[attr(rw, mode = 644)]
    label: Attr<u32>,
    #[group(rw)]
    limits: (),
}

fn main() {}
