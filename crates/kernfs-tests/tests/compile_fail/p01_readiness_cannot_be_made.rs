//! P1: what pollers wait on belongs to kernfs; a driver has no way to make or to exchange one.
use kernfs::Readiness;

fn exchange(mine: &mut Readiness, other: Readiness) {
    let _: Readiness = Readiness::new();
    let _: Readiness = Default::default();
    mine.0 = other.0;
}

fn main() {}
