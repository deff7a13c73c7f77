//! A range of what nobody can write.

use kernfs_attr::{Attr, Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(ro, range = 0..=5000)]
    target: Attr<u32>,
    #[attr(ro, store = Self::spin_up)]
    speed: Attr<u32>,
}

fn main() {}
