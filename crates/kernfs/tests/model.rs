//! The core against a model that states the contract in plain sequential terms.
//!
//! `PROPTEST_CASES=100000 cargo test -p kernfs --test model` tries harder.
#![cfg(not(any(loom, shuttle)))]

#[path = "model/worlds.rs"]
mod worlds;

use proptest::prelude::*;

use self::worlds::{At, Pick, Step, Way, compare};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_core_does_what_the_model_says(steps in prop::collection::vec(step(), 1..80)) {
        compare(&steps);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let index = || any::<u8>().prop_map(Pick);
    let way = prop_oneof![Just(Way::ByHandle), Just(Way::ByName), Just(Way::DropHandle)];
    let at = prop_oneof![Just(At::Start), Just(At::Next), (0..9u8).prop_map(At::Offset)];
    prop_oneof![
        3 => (index(), index()).prop_map(|(dir, name)| Step::AddFile(dir, name)),
        1 => (index(), index()).prop_map(|(dir, name)| Step::AddDir(dir, name)),
        1 => Just(Step::MakeDetached),
        1 => (index(), index(), index())
            .prop_map(|(dir, to, name)| Step::Attach { dir, to, name }),
        2 => (index(), index(), index())
            .prop_map(|(node, to, name)| Step::Rename { node, to, name }),
        1 => index().prop_map(Step::Hide),
        1 => index().prop_map(Step::Show),
        2 => index().prop_map(Step::Notify),
        2 => (index(), way).prop_map(|(node, way)| Step::Sever(node, way)),
        1 => (index(), index()).prop_map(|(dir, name)| Step::Mkdir(dir, name)),
        1 => (index(), index()).prop_map(|(dir, name)| Step::Rmdir(dir, name)),
        5 => index().prop_map(Step::Open),
        1 => index().prop_map(Step::Reopen),
        4 => (index(), at, 0..9u8).prop_map(|(open, at, len)| Step::Read { open, at, len }),
        2 => (index(), any::<u8>()).prop_map(|(open, value)| Step::Write(open, value)),
        3 => index().prop_map(Step::Enter),
        3 => index().prop_map(Step::Leave),
        2 => index().prop_map(Step::Poll),
        2 => index().prop_map(Step::Wait),
        1 => index().prop_map(Step::GiveUp),
        2 => index().prop_map(Step::Close),
        2 => index().prop_map(Step::TakeBack),
    ]
}
