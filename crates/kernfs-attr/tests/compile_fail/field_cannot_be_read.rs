//! A field is no attribute.

use kernfs_attr::{Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(ro)]
    speed: std::sync::Mutex<u32>,
}

fn main() {}
