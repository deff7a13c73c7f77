//! What is promised of memory; a process of its own, for the allocator counts all of it.

use kernfs_bench::{MOST_BYTES, bytes_of_a_served_file};

#[test]
fn a_served_file_costs_less_than_a_kilobyte_beyond_its_content() {
    let bytes = bytes_of_a_served_file(2000);
    assert!(bytes < MOST_BYTES, "{bytes} bytes for each file");
}
