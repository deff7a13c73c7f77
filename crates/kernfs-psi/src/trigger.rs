//! Triggers: what may be written to a pressure file, and when it fires.

use std::time::Duration;

use kernfs::{Errno, Events, Notifier, Readiness};
use slab::Slab;

use crate::state::{Resource, Stall, State, StateMask};

/// What a trigger waits for: more than `threshold` of a stall within `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    stall: Stall,
    threshold_us: u32,
    window_us: u32,
}

impl Condition {
    /// Returns which stall is watched.
    #[must_use]
    pub fn stall(self) -> Stall {
        self.stall
    }

    /// Returns how much of it fires the trigger: above 0, at most the window.
    #[must_use]
    pub fn threshold(self) -> Duration {
        Duration::from_micros(self.threshold_us.into())
    }

    /// Returns within how much time, which is also the least time between events: above 0, at most
    /// 10 s.
    #[must_use]
    pub fn window(self) -> Duration {
        Duration::from_micros(self.window_us.into())
    }
}

/// Whose trigger it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// Of one with CAP_SYS_RESOURCE: any window, evaluated ten times in each.
    Privileged,
    /// Of anybody else: windows are multiples of 2 s, and evaluated with the averages.
    Unprivileged,
}

/// The longest window (`WINDOW_MAX_US`); there is no shortest any more.
const WINDOW_MAX_US: u32 = 10_000_000;
/// Windows of the unprivileged are multiples of this, since they are evaluated at each [`PERIOD`]
/// of the averages.
///
/// [`PERIOD`]: crate::PERIOD
const UNPRIVILEGED_STEP_US: u32 = 2_000_000;
/// How often a privileged trigger is evaluated in each window (`UPDATES_PER_WINDOW`).
const UPDATES_PER_WINDOW: u64 = 10;
/// The least time between evaluations in nanoseconds, whatever the window: as a jiffy does it in
/// Linux.
const UPDATE_FLOOR: u64 = 1_000_000;

/// Parses what is written to a pressure file (`psi_trigger_create`): `some 150000 1000000`, with
/// threshold and window in microseconds.
///
/// As the kernel's scanf does: no space before the word, any or no white space after it, digits
/// only, numbers wrap at 32 bits, a NUL ends the text, and whatever follows is ignored.
///
/// # Errors
///
/// EINVAL: anything else; a threshold of 0 or above the window; a window of 0 or above 10 s; without
/// privilege a window that is no multiple of 2 s; `some` of irq.
///
/// # Examples
///
/// ```
/// use kernfs::Errno;
/// use kernfs_psi::{Privilege, Resource, parse_trigger};
/// use std::time::Duration;
///
/// let condition = parse_trigger(b"some 150000 1000000\n", Resource::Io, Privilege::Privileged)?;
/// assert_eq!(condition.threshold(), Duration::from_millis(150));
/// let refused = parse_trigger(b"some 150000 1000000\n", Resource::Io, Privilege::Unprivileged);
/// assert_eq!(refused, Err(Errno::EINVAL));
/// # Ok::<(), Errno>(())
/// ```
pub fn parse_trigger(
    text: &[u8],
    resource: Resource,
    privilege: Privilege,
) -> Result<Condition, Errno> {
    let condition = scan(text).ok_or(Errno::EINVAL)?;
    let Condition { stall, threshold_us, window_us } = condition;
    let is_valid = State::of(resource, stall).is_some()
        && (1..=WINDOW_MAX_US).contains(&window_us)
        && (1..=window_us).contains(&threshold_us)
        && (privilege == Privilege::Privileged || window_us % UNPRIVILEGED_STEP_US == 0);
    if is_valid { Ok(condition) } else { Err(Errno::EINVAL) }
}

/// Does `sscanf(text, "some %u %u")`, or the same with `full`.
fn scan(text: &[u8]) -> Option<Condition> {
    let text = text.split(|&byte| byte == 0).next()?;
    let (stall, rest) = match text.split_at_checked(4)? {
        (b"some", rest) => (Stall::Some, rest),
        (b"full", rest) => (Stall::Full, rest),
        _ => return None,
    };
    let (threshold_us, rest) = scan_number(rest)?;
    let (window_us, _) = scan_number(rest)?;
    Some(Condition { stall, threshold_us, window_us })
}

/// Does `%u` after a space: skips white space and takes digits; overflow wraps.
fn scan_number(text: &[u8]) -> Option<(u32, &[u8])> {
    let start = text.iter().position(|&byte| !is_space(byte))?;
    let text = &text[start..];
    let len = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(len);
    let value =
        |value: u32, digit: &u8| value.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
    (len > 0).then(|| (digits.iter().fold(0, value), rest))
}

/// White space as the kernel's `isspace` has it: of ASCII, and the no-break space of Latin 1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

/// Who hears of a trigger: pollers of the open file that it is set on, and who watches the file.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) readiness: Readiness,
    pub(crate) notifier: Notifier,
}

/// Announces the triggers that have fired; no lock is held (`update_triggers`).
///
/// Pollers of other open files are not woken, as in Linux they are, to find nothing. Who watches a
/// file hears of it once, and not again before somebody has polled the event.
pub(crate) fn announce(fired: &[Listener]) {
    let mut told: Vec<&Notifier> = Vec::new();
    for Listener { readiness, notifier } in fired {
        if readiness.set_once(Events::PRI) && !told.contains(&notifier) {
            told.push(notifier);
        }
    }
    for notifier in told {
        notifier.announce();
    }
}

/// The triggers of a group, and when they are to be evaluated.
#[derive(Default)]
pub(crate) struct Watches {
    watches: Slab<Watch>,
    /// Set while privileged triggers are evaluated again and again.
    polling: Option<Polling>,
}

/// Goes on for as long as watched states do, and one (shortest) window more.
struct Polling {
    until: u64,
    next: u64,
}

impl Watches {
    pub(crate) fn len(&self) -> usize {
        self.watches.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub(crate) fn insert(&mut self, watch: Watch, now: u64) -> usize {
        if let (Some(polling), Privilege::Privileged) = (&mut self.polling, watch.privilege) {
            polling.next = polling.next.min(now + update_interval(watch.window.size));
        }
        self.watches.insert(watch)
    }

    pub(crate) fn remove(&mut self, key: usize) -> Option<Watch> {
        self.watches.try_remove(key)
    }

    /// Returns the states that are watched.
    pub(crate) fn states(&self) -> StateMask {
        self.watches
            .iter()
            .fold(StateMask::EMPTY, |states, (_, watch)| states.with(watch.state.mask()))
    }

    /// Tells whether a watched state goes on, or did since the last evaluation.
    pub(crate) fn any_goes_on(&self, active: StateMask, total: &[u64; State::COUNT]) -> bool {
        self.watches.iter().any(|(_, watch)| watch.goes_on(active, total))
    }

    /// Evaluates the unprivileged triggers at the end of a period of the averages
    /// (`psi_avgs_work`), as of that very time: a late evaluation shifts nothing.
    pub(crate) fn period_over(&mut self, at: u64, total: &[u64; State::COUNT]) {
        for (_, watch) in &mut self.watches {
            if watch.privilege == Privilege::Unprivileged {
                watch.update(at, total);
            }
        }
    }

    /// Evaluates the privileged triggers if it is time (`psi_rtpoll_work`), and returns when the
    /// next evaluation of any is due; `None` when nothing goes on that is watched.
    pub(crate) fn evaluate(
        &mut self,
        now: u64,
        active: StateMask,
        total: &[u64; State::COUNT],
        period_end: u64,
    ) -> Option<u64> {
        let mut shortest = u64::MAX;
        let mut stalls = false;
        let mut due = u64::MAX;
        for (_, watch) in &self.watches {
            let goes_on = watch.goes_on(active, total);
            match watch.privilege {
                Privilege::Privileged => {
                    shortest = shortest.min(watch.window.size);
                    stalls |= goes_on;
                }
                Privilege::Unprivileged if goes_on || watch.pending || watch.fired => {
                    due = due.min(period_end);
                }
                Privilege::Unprivileged => {}
            }
        }
        self.polling = match self.polling.take() {
            None if stalls => {
                self.start_windows(now);
                let next = now + update_interval(shortest);
                Some(Polling { until: now + shortest, next })
            }
            Some(Polling { next, .. }) if stalls => Some(Polling { until: now + shortest, next }),
            polling => polling.filter(|polling| now <= polling.until && shortest != u64::MAX),
        };
        let is_time = self.polling.as_ref().is_some_and(|polling| now >= polling.next);
        for (_, watch) in &mut self.watches {
            if watch.privilege == Privilege::Privileged {
                if is_time || watch.pending {
                    watch.update(now, total);
                }
                // A breach in the quiet time is delivered at its end, whatever goes on then.
                due = due.min(watch.quiet_until().filter(|_| watch.pending).unwrap_or(u64::MAX));
            }
        }
        if let Some(polling) = &mut self.polling {
            if is_time {
                polling.next = now + update_interval(shortest);
            }
            due = due.min(polling.next);
        }
        (due != u64::MAX).then_some(due)
    }

    /// Takes the triggers that have fired, to be announced without a lock held.
    pub(crate) fn take_fired(&mut self) -> Vec<Listener> {
        let watches = self.watches.iter_mut();
        let fired = watches.filter_map(|(_, watch)| {
            std::mem::take(&mut watch.fired).then(|| watch.listener.clone())
        });
        fired.collect()
    }

    /// Begins all windows of privileged triggers anew, since a quiet time is over
    /// (`init_rtpoll_triggers`); what has stalled since then counts.
    fn start_windows(&mut self, now: u64) {
        for (_, watch) in &mut self.watches {
            if watch.privilege == Privilege::Privileged {
                watch.window = Window::new(watch.window.size, now, watch.seen);
            }
        }
    }
}

fn update_interval(window: u64) -> u64 {
    (window / UPDATES_PER_WINDOW).max(UPDATE_FLOOR)
}

/// One trigger, as its group sees it (`struct psi_trigger`).
pub(crate) struct Watch {
    state: State,
    privilege: Privilege,
    threshold: u64,
    window: Window,
    /// The total at the last evaluation.
    seen: u64,
    last_event: Option<u64>,
    /// A breach that is not reported yet: at most one event per window.
    pending: bool,
    /// An event that is not announced yet.
    fired: bool,
    listener: Listener,
}

impl Watch {
    pub(crate) fn new(
        state: State,
        condition: Condition,
        privilege: Privilege,
        listener: Listener,
        now: u64,
        total: u64,
    ) -> Self {
        let nanos = |micros: u32| u64::from(micros) * 1000;
        Self {
            state,
            privilege,
            threshold: nanos(condition.threshold_us),
            window: Window::new(nanos(condition.window_us), now, total),
            seen: total,
            last_event: None,
            pending: false,
            fired: false,
            listener,
        }
    }

    /// Tells whether the state goes on, or did since the last evaluation.
    fn goes_on(&self, active: StateMask, total: &[u64; State::COUNT]) -> bool {
        active.meets(self.state.mask()) || self.seen != total[self.state.index()]
    }

    /// Returns until when there must be no other event.
    fn quiet_until(&self) -> Option<u64> {
        self.last_event.map(|last| last + self.window.size)
    }

    /// Fires if the growth has reached the threshold and no event came within a window before
    /// (`update_triggers`).
    fn update(&mut self, now: u64, total: &[u64; State::COUNT]) {
        let total = total[self.state.index()];
        if self.seen != total {
            self.seen = total;
            let growth = self.window.update(now, total);
            self.pending |= growth >= self.threshold;
        }
        if self.pending && self.quiet_until().is_none_or(|end| now >= end) {
            self.pending = false;
            self.fired = true;
            self.last_event = Some(now);
        }
    }
}

/// Growth within a window that slides, without the history of it (`struct psi_window`).
#[derive(Debug)]
struct Window {
    size: u64,
    start: u64,
    start_total: u64,
    previous_growth: u64,
}

impl Window {
    fn new(size: u64, start: u64, start_total: u64) -> Self {
        Self { size, start, start_total, previous_growth: 0 }
    }

    /// Returns the growth since the start, and the share of the previous window's that is still in
    /// sight if it came evenly; begins anew after the end (`window_update`).
    ///
    /// Linux cuts what remains of the window to 32 bits of nanoseconds; here all of it counts.
    fn update(&mut self, now: u64, total: u64) -> u64 {
        let elapsed = now.saturating_sub(self.start);
        let growth = total.saturating_sub(self.start_total);
        if elapsed > self.size {
            self.start = now;
            self.start_total = total;
            self.previous_growth = growth;
            return growth;
        }
        let remaining = u128::from(self.size - elapsed);
        let in_sight = u128::from(self.previous_growth) * remaining / u128::from(self.size);
        growth.saturating_add(u64::try_from(in_sight).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOME: fn(u32, u32) -> Result<Condition, Errno> =
        |threshold_us, window_us| Ok(Condition { stall: Stall::Some, threshold_us, window_us });
    const EINVAL: Result<Condition, Errno> = Err(Errno::EINVAL);

    #[test]
    fn text_is_taken_row_by_row_as_the_kernel_takes_it() {
        let good = SOME(150_000, 2_000_000);
        let rows: &[(&[u8], Result<Condition, Errno>)] = &[
            (b"some 150000 2000000", good),
            (b"some 150000 2000000\n", good),
            (b"some 150000 2000000\0", good),
            (b"some 150000 2000000\n\0", good),
            (b"some150000 2000000", good),
            (b"some   150000   2000000", good),
            (b"some\t150000\t\t2000000", good),
            (b"some 150000\n2000000", good),
            (b"some\xa0150000 2000000", good),
            (b"some 000150000 0002000000", good),
            (b"some 150000 2000000 junk", good),
            (b"some 150000 2000000junk", good),
            (b"some 150000 2000000\0junk", good),
            (b"some 4294967297 2000000", SOME(1, 2_000_000)),
            (b"some 18446744073709551617 2000000", SOME(1, 2_000_000)),
            (b"some 4294967296 2000000", EINVAL),
            (b" some 150000 2000000", EINVAL),
            (b"Some 150000 2000000", EINVAL),
            (b"SOME 150000 2000000", EINVAL),
            (b"some 150000", EINVAL),
            (b"some 150000\0 2000000", EINVAL),
            (b"some", EINVAL),
            (b"som", EINVAL),
            (b"some +5 2000000", EINVAL),
            (b"some -1 2000000", EINVAL),
            (b"some 0x10 2000000", EINVAL),
            (b"some 1.5 2000000", EINVAL),
            (b"some 150000,2000000", EINVAL),
            (b"most 150000 2000000", EINVAL),
            (b"garbage", EINVAL),
            (b"", EINVAL),
            (b"\n", EINVAL),
            (b"some 0 2000000", EINVAL),
            (b"some 2000001 2000000", EINVAL),
            (b"some 150000 0", EINVAL),
            (b"some 0 0", EINVAL),
            (b"some 150000 10000001", EINVAL),
            (b"some 2000000 2000000", SOME(2_000_000, 2_000_000)),
            (b"some 1 10000000", SOME(1, 10_000_000)),
        ];
        for (text, expected) in rows {
            for privilege in [Privilege::Privileged, Privilege::Unprivileged] {
                let shown = text.escape_ascii();
                assert_eq!(parse_trigger(text, Resource::Io, privilege), *expected, "{shown}");
            }
        }
    }

    #[test]
    fn windows_of_the_unprivileged_are_multiples_of_2_s() {
        let parse = |window: u32, privilege| {
            let text = format!("full 1 {window}");
            parse_trigger(text.as_bytes(), Resource::Cpu, privilege).map(Condition::window)
        };
        for window in [1, 500_000, 1_999_999, 2_000_001, 3_000_000, 9_999_999] {
            let expected = Ok(Duration::from_micros(window.into()));
            assert_eq!(parse(window, Privilege::Privileged), expected, "{window}");
            assert_eq!(parse(window, Privilege::Unprivileged), Err(Errno::EINVAL), "{window}");
        }
        for window in [2_000_000, 4_000_000, 6_000_000, 8_000_000, 10_000_000] {
            let expected = Ok(Duration::from_micros(window.into()));
            assert_eq!(parse(window, Privilege::Unprivileged), expected, "{window}");
        }
        assert_eq!(parse(12_000_000, Privilege::Privileged), Err(Errno::EINVAL));
    }

    #[test]
    fn a_window_begins_anew_only_after_its_end() {
        let mut window = Window::new(1000, 0, 0);
        assert_eq!(window.update(500, 300), 300);
        assert_eq!(window.update(1000, 800), 800);
        assert_eq!(window.update(1100, 900), 900);
        // 900 carried over, of which nine tenths are in sight.
        assert_eq!(window.update(1200, 900), 810);
        assert_eq!(window.update(2100, 900), 0);
        assert_eq!(window.update(2101, 900), 0);
        assert_eq!(window.update(2102, 950), 50);
    }

    #[test]
    fn irq_has_no_some() {
        for resource in Resource::ALL {
            let parse = |text: &[u8]| parse_trigger(text, resource, Privilege::Privileged);
            assert_eq!(parse(b"some 1 2").is_ok(), resource != Resource::Irq);
            assert!(parse(b"full 1 2").is_ok());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_answered(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = parse_trigger(&text, Resource::Memory, Privilege::Privileged);
            if let Ok(condition) = parsed {
                prop_assert!(condition.threshold() <= condition.window());
            }
        }

        #[test]
        fn numbers_wrap_and_white_space_is_skipped(
            word in "some|full",
            gaps in proptest::array::uniform2("[ \t\n\u{b}\u{c}\r]{0,3}"),
            threshold in any::<u64>(),
            window in any::<u64>(),
            junk in "([^0-9].*)?",
        ) {
            let text = format!("{word}{}{threshold} {}{window}{junk}", gaps[0], gaps[1]);
            let parsed = parse_trigger(text.as_bytes(), Resource::Io, Privilege::Privileged);
            let (threshold, window) = (threshold as u32, window as u32);
            let valid = (1..=10_000_000).contains(&window) && (1..=window).contains(&threshold);
            prop_assert_eq!(parsed.is_ok(), valid);
        }

        #[test]
        fn well_formed_conditions_are_taken_as_they_are(
            window in 1u32..=10_000_000,
            part in 0u32..=1_000_000,
        ) {
            let threshold = 1 + (u64::from(window - 1) * u64::from(part) / 1_000_000) as u32;
            let text = format!("full {threshold} {window}\n");
            let parsed = parse_trigger(text.as_bytes(), Resource::Io, Privilege::Privileged);
            let expected = Condition { stall: Stall::Full, threshold_us: threshold, window_us: window };
            prop_assert_eq!(parsed, Ok(expected));
        }

        /// The model keeps all evaluations and works out the growth from their history.
        #[test]
        fn growth_is_that_of_a_plain_model(
            size in 1u64..=10_000_000_000,
            steps in proptest::collection::vec((0u64..4_000_000_000, 0u64..4_000_000_000), 1..40),
        ) {
            let mut window = Window::new(size, 0, 0);
            let mut history: Vec<(u64, u64)> = vec![(0, 0)];
            let (mut now, mut total) = (0, 0);
            for (passed, stalled) in steps {
                now += passed;
                total += stalled;
                history.push((now, total));
                prop_assert_eq!(window.update(now, total), model_growth(size, &history));
            }
        }
    }

    /// Growth at the last evaluation: since the last reset, and of the window before that the part
    /// that is not over.
    fn model_growth(size: u64, history: &[(u64, u64)]) -> u64 {
        let mut resets = vec![history[0]];
        for &(now, total) in &history[1..history.len() - 1] {
            if now - resets[resets.len() - 1].0 > size {
                resets.push((now, total));
            }
        }
        let (now, total) = history[history.len() - 1];
        let (start, start_total) = resets[resets.len() - 1];
        let growth = total - start_total;
        if now - start > size || resets.len() == 1 {
            return growth;
        }
        let before = start_total - resets[resets.len() - 2].1;
        let left = u128::from(size - (now - start));
        growth + (u128::from(before) * left / u128::from(size)) as u64
    }
}
