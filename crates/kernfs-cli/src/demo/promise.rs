//! The six points of the promise, each held against what was observed.

use std::time::Duration;

use serde::Serialize;

use crate::demo::{Facts, Row};

/// How much longer than its slowest callback a removal may take. It waits for nobody else, but
/// on a busy machine its thread has to wait for a processor.
const OVERHEAD: Duration = Duration::from_secs(1);

/// A point of the promise, and whether it held.
#[derive(Debug, Serialize)]
pub(crate) struct Point {
    /// Its number, from 1.
    pub(crate) point: usize,
    /// What is promised.
    pub(crate) says: &'static str,
    /// Whether it held.
    pub(crate) held: bool,
    /// What was seen of it.
    pub(crate) seen: String,
}

/// Judges all points.
pub(crate) fn judge(rows: &[Row], facts: &Facts) -> Vec<Point> {
    let judged = [
        ("no callback runs, or ever will", at_rest(facts)),
        ("every descriptor is dead for ever", dead(rows, facts)),
        ("everyone who slept is awake", awake(rows)),
        ("all was released, exactly once", released(facts)),
        ("the owner has its drivers back", given_back(facts)),
        ("it waited for own callbacks only", waited_for_own(facts)),
    ];
    let points = judged.into_iter().zip(1..);
    points.map(|((says, (held, seen)), point)| Point { point, says, held, seen }).collect()
}

fn at_rest(facts: &Facts) -> (bool, String) {
    let running = facts.removal.balance.running;
    let late = facts.end.late;
    let seen = format!("{running} running at return, {late} called since");
    (running == 0 && late == 0, seen)
}

fn dead(rows: &[Row], facts: &Facts) -> (bool, String) {
    let all = promised(rows).count();
    // Who comes by a path is to find what is new there.
    let old = promised(rows).filter(|row| !row.role.comes_late()).count();
    let (after, reused) = (facts.dead_after, facts.reuse.dead);
    let answered = rows.iter().filter(|row| !row.role.sleeps()).all(Row::is_as_expected);
    let shown = facts.reuse.dead_when_shown;
    if answered && after == all && reused == old && shown {
        return (true, format!("{after} of {all}, also reused and shown again"));
    }
    (false, format!("{after} of {all}; reused {reused} of {old}; shown {} of 1", u8::from(shown)))
}

fn awake(rows: &[Row]) -> (bool, String) {
    let sleepers: Vec<_> = promised(rows).filter(|row| row.role.sleeps()).collect();
    let awake = sleepers.iter().filter(|row| row.is_as_expected()).count();
    (awake == sleepers.len(), format!("{awake} of {}", sleepers.len()))
}

fn promised(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| !row.role.is_best_effort())
}

fn released(facts: &Facts) -> (bool, String) {
    let (then, end) = (&facts.removal.balance, &facts.end);
    let held = then.released_once == then.opens
        && then.freed_once == 0
        && (end.opens, end.released_once, end.freed_once) == (then.opens, then.opens, then.opens)
        && end.freed_too_early == 0
        && facts.left_open == 0;
    let seen = format!(
        "{} of {}, freed once closed: {} of {}",
        then.released_once, then.opens, end.freed_once, end.opens
    );
    (held, seen)
}

fn given_back(facts: &Facts) -> (bool, String) {
    let (back, all) = (facts.removal.drivers_back, facts.removal.drivers);
    let served = facts.reuse.served;
    let again = if served { "serves again" } else { "serves no more" };
    (back == all && served, format!("{back} of {all}; one {again}"))
}

fn waited_for_own(facts: &Facts) -> (bool, String) {
    let removal = &facts.removal;
    // Had it waited for a holder, it had waited until it was given up: they close nothing before.
    let nobody_closed = removal.held == removal.balance.opens;
    let Some(left) = removal.driver_left else {
        return (false, "the driver never left".into());
    };
    let after = removal.removed.saturating_sub(left);
    let seen = format!("back {} µs after them, {} still open", after.as_micros(), removal.held);
    (nobody_closed && after <= OVERHEAD && left <= removal.removed, seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::tests::{facts, rows};

    fn held(rows: &[Row], facts: &Facts) -> Vec<bool> {
        judge(rows, facts).iter().map(|point| point.held).collect()
    }

    /// Checks that only one point fails when something is spoilt.
    fn fails(point: usize, spoil: impl FnOnce(&mut Vec<Row>, &mut Facts)) {
        let (mut rows, mut facts) = (rows(), facts());
        spoil(&mut rows, &mut facts);
        let expected: Vec<_> = (1..=6).map(|n| n != point).collect();
        assert_eq!(held(&rows, &facts), expected);
    }

    #[test]
    fn all_points_hold_when_all_went_well() {
        assert_eq!(held(&rows(), &facts()), [true; 6]);
    }

    #[test]
    fn a_callback_that_runs_or_comes_late_breaks_the_first() {
        fails(1, |_, facts| facts.removal.balance.running = 1);
        fails(1, |_, facts| facts.end.late = 1);
    }

    #[test]
    fn a_descriptor_that_lives_breaks_the_second() {
        fails(2, |_, facts| facts.dead_after -= 1);
        fails(2, |_, facts| facts.reuse.dead -= 1);
        fails(2, |_, facts| facts.reuse.dead_when_shown = false);
        fails(2, |rows, _| rows[0].got = None);
    }

    #[test]
    fn a_sleeper_that_sleeps_on_breaks_the_third() {
        fails(3, |rows, _| rows[1].got = None);
    }

    #[test]
    fn a_watcher_that_is_not_told_breaks_nothing() {
        let (mut rows, facts) = (rows(), facts());
        let watcher = rows.iter_mut().find(|row| row.role.is_best_effort());
        watcher.unwrap().got = None;
        assert_eq!(held(&rows, &facts), [true; 6]);
    }

    #[test]
    fn wrong_releases_and_frees_break_the_fourth() {
        fails(4, |_, facts| facts.removal.balance.released_once -= 1);
        fails(4, |_, facts| facts.removal.balance.freed_once = 1);
        fails(4, |_, facts| facts.end.freed_once -= 1);
        fails(4, |_, facts| facts.end.freed_too_early = 1);
        fails(4, |_, facts| facts.left_open = 1);
    }

    #[test]
    fn a_driver_that_is_kept_back_breaks_the_fifth() {
        fails(5, |_, facts| facts.removal.drivers_back -= 1);
        fails(5, |_, facts| facts.reuse.served = false);
    }

    #[test]
    fn waiting_for_anybody_else_breaks_the_sixth() {
        fails(6, |_, facts| facts.removal.held -= 1);
        fails(6, |_, facts| facts.removal.removed += OVERHEAD * 2);
        fails(6, |_, facts| facts.removal.driver_left = None);
        fails(6, |_, facts| facts.removal.driver_left = Some(facts.removal.removed * 2));
    }
}
