//! Lookup among siblings, beside std's `HashMap` with the same names.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, RwLock};

use kernfs::{Caller, Inode, Mode, Tree};

use crate::drivers::{Constant, owner};
use crate::measure::{Case, Effort, interleave};
use crate::table::Row;

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let mut rows = among(effort, 1000);
    rows.extend(among(effort, 1_000_000));
    rows
}

type Map = HashMap<Box<[u8]>, Arc<u64>>;

/// How many names of all are looked up, over and over.
const ASKED: usize = 1 << 16;

fn among(effort: Effort, full: usize) -> Vec<Row> {
    let siblings = effort.size(full);
    let tree = Tree::new();
    let mut map = Map::new();
    for number in 0..siblings {
        let name = name(number);
        tree.root().add_file(&name, Mode::RO, Constant).expect("the name is free").keep();
        map.insert(name.into(), Arc::new(number as u64));
    }
    let asked: Vec<_> = shuffled(siblings).into_iter().take(ASKED).map(name).collect();
    let root = owner(&tree).root();
    let locked = RwLock::new(map.clone());

    let mut kernfs_names = asked.iter().cycle();
    let mut locked_names = asked.iter().cycle();
    let mut map_names = asked.iter().cycle();
    let samples = interleave(
        effort,
        vec![
            Case::new(format!("HashMap, {siblings} names, Arc cloned"), || {
                let name = map_names.next().expect("a cycle has no end");
                black_box(map.get(&**name).map(Arc::clone));
            }),
            Case::new(format!("RwLock<HashMap>, {siblings} names, Arc cloned"), || {
                let name = locked_names.next().expect("a cycle has no end");
                let map = locked.read().expect("nobody panics");
                black_box(map.get(&**name).map(Arc::clone));
            }),
            Case::new(format!("lookup among {siblings} siblings"), || {
                let name = kernfs_names.next().expect("a cycle has no end");
                black_box(find(&root, name));
            }),
        ],
    );
    let [map, locked, kernfs] = &samples[..] else {
        unreachable!("there are three cases");
    };
    vec![
        Row::time(map),
        Row::time(locked).ratio(locked.over(map), "HashMap"),
        Row::time(kernfs)
            .ratio(kernfs.over(locked), "RwLock<HashMap>")
            .ratio(kernfs.over(map), "HashMap"),
    ]
}

fn find(dir: &Inode, name: &[u8]) -> Inode {
    dir.lookup(&Caller::OWNER, name).expect("it was added")
}

fn name(number: usize) -> Vec<u8> {
    format!("device-{number:08}").into_bytes()
}

/// The numbers below `count`, always in the same order without order (Fisher and Yates, with the
/// generator of Marsaglia).
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(at, (state % (at as u64 + 1)) as usize);
    }
    numbers
}
