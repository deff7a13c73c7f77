//! A method shows the value, and nothing takes it.

use kernfs_attr::{Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(rw, show = Self::speed)]
    speed: u32,
    #[attr(wo, show = Self::speed)]
    reset: (),
}

fn main() {}
