//! Adding and removing a file.

use std::collections::HashMap;
use std::hint::black_box;

use kernfs::{Mode, Tree};

use crate::drivers::Constant;
use crate::measure::{Case, Effort, interleave};
use crate::read::unit;
use crate::table::{Row, rows_over_first};

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let siblings = effort.size(100_000);
    let (empty, full) = (Tree::new(), Tree::new());
    let mut map: HashMap<Box<[u8]>, Box<u64>> = HashMap::new();
    for number in 0..siblings {
        let name = format!("device-{number:08}");
        full.root().add_file(&name, Mode::RO, Constant).expect("the name is free").keep();
        map.insert(name.into_bytes().into(), Box::new(0));
    }
    let samples = interleave(
        effort,
        vec![
            unit(),
            Case::new(format!("HashMap of {siblings}: insert and remove"), || {
                map.insert(black_box(b"rpm").as_slice().into(), Box::new(0));
                black_box(map.remove(black_box(b"rpm").as_slice()));
            }),
            Case::new("add_file and remove, empty directory", || {
                let file = empty.root().add_file("rpm", Mode::RO, Constant);
                black_box(file.expect("the name is free").remove().expect("not inside"));
            }),
            Case::new(format!("add_file and remove, among {siblings} siblings"), || {
                let file = full.root().add_file("rpm", Mode::RO, Constant);
                black_box(file.expect("the name is free").remove().expect("not inside"));
            }),
        ],
    );
    rows_over_first(&samples, "rmw")
}
