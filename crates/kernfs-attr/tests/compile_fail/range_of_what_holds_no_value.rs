//! A range of bytes.

use kernfs_attr::{Attributes, Binary};

#[derive(Attributes)]
struct Fan {
    #[attr(rw, range = 0..=5000)]
    eeprom: Binary,
}

fn main() {}
