//! P10: an open file has no way to its state but through operations.
use kernfs::OpenFile;

fn state(file: &OpenFile) {
    file.state();
    file.0.open;
}

fn main() {}
