//! Fields without names cannot be files.

use kernfs_attr::{Attributes};

#[derive(Attributes)]
struct Fan(u32);

#[derive(Attributes)]
enum Engine {
    Idle,
}

fn main() {}
