//! Any sequence of steps on a tree and on the model of it: both do the same.

#![no_main]

#[path = "../../crates/kernfs/tests/model/worlds.rs"]
mod worlds;

use libfuzzer_sys::fuzz_target;

use self::worlds::{Step, compare};

fuzz_target!(|steps: Vec<Step>| compare(&steps));
