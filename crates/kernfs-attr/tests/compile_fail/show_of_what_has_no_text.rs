//! A method returns something without a text.

use kernfs_attr::{Attributes};

#[derive(Attributes)]
struct Fan {
    #[attr(ro, show = Self::speed)]
    speed: (),
}

impl Fan {
    fn speed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

fn main() {}
