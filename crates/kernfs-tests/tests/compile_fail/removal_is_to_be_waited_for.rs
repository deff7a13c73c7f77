//! A removal that nobody waits for is an oversight.
#![deny(unused_must_use)]
use kernfs::{File, Show};

fn forget<F>(file: File<Show<F>>) {
    file.sever();
}

fn main() {}
