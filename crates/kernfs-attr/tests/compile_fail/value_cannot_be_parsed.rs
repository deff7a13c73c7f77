//! A type that nobody has told how to parse.

use kernfs_attr::{Attr, Attributes};

struct Rpm(u32);

#[derive(Attributes)]
struct Fan {
    #[attr(rw)]
    speed: Attr<Rpm>,
}

fn main() {}
