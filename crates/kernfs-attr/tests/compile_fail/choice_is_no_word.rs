//! What cannot be one word of several.

use kernfs_attr::{Choice};

#[derive(Choice, Clone, Copy, PartialEq)]
enum Level {
    Off,
    Custom(u8),
}

#[derive(Choice, Clone, Copy, PartialEq)]
enum Policy {
    Always,
    #[choice(name = "when asked")]
    Ask,
}

#[derive(Choice, Clone, Copy, PartialEq)]
enum Mode {
    Auto,
    #[choice(name = "auto")]
    Automatic,
}

#[derive(Choice, Clone, Copy, PartialEq)]
struct Speed;

#[derive(Choice, Clone, Copy, PartialEq)]
enum Nothing {}

fn main() {}
