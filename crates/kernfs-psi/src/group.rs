//! Groups of tasks, and how a change of a task counts for its group and all above it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use std::{fmt, iter};

use kernfs::Notifier;

use crate::agenda::{Core, Watched, nanos};
use crate::average::{Averages, PERIOD_NANOS, Pressure, PressureLine};
use crate::state::{
    Changed, Cpu, Delta, Resource, Share, Stall, State, StateMask, TaskState, Times, accounted,
};
use crate::sync::lock;
use crate::trigger::{self, Condition, Listener, Privilege, Watch, Watches};

/// A group of tasks whose pressure is accounted (`struct psi_group`); clones are the same group.
///
/// It lives as long as it has tasks, groups below, or files, or anybody refers to it.
#[derive(Clone)]
pub struct Group(Arc<Inner>);

impl Group {
    pub(crate) fn root(engine: Arc<Core>) -> Self {
        Self(Arc::new(Inner::new(engine, None)))
    }

    /// Makes a group below this one; what happens in it counts here too.
    #[must_use]
    pub fn child(&self) -> Self {
        let parent = Some(Arc::clone(&self.0));
        Self(Arc::new(Inner::new(Arc::clone(&self.0.engine), parent)))
    }

    /// Makes a task, on the cpu of this thread.
    #[must_use = "a task that is dropped is gone"]
    pub fn task(&self, state: TaskState) -> Task {
        self.task_on(self.0.engine.cpu_of_thread(), state)
    }

    /// Makes a task on a cpu, by its number modulo the number of cpus.
    #[must_use = "a task that is dropped is gone"]
    pub fn task_on(&self, cpu: usize, state: TaskState) -> Task {
        let cpu = cpu % self.0.cpus.len();
        let mut task = Task { group: self.clone(), cpu, state: TaskState::empty() };
        task.set(state);
        task
    }

    /// Counts a task that works, until it is dropped.
    #[must_use = "a task that is dropped is gone"]
    pub fn work(&self) -> Task {
        self.task(TaskState::WORKING)
    }

    /// Counts a task that stalls, until it is dropped (`psi_memstall_enter`).
    #[must_use = "a stall that is dropped is over"]
    pub fn stall(&self, resource: Resource) -> Task {
        self.task(TaskState::stalled(resource))
    }

    /// Counts a task that works while a future is being polled.
    pub fn working<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let group = self.clone();
        async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let _work = group.work();
                future.as_mut().poll(cx)
            })
            .await
        }
    }

    /// Counts a task that stalls from when a future is first pending until it is ready or dropped.
    pub fn stalled<F: Future>(
        &self,
        resource: Resource,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let group = self.clone();
        async move {
            let mut future = pin!(future);
            let mut stall = None;
            poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                if polled.is_pending() {
                    stall.get_or_insert_with(|| group.stall(resource));
                }
                polled
            })
            .await
        }
    }

    /// Adds time of a stall that nobody has to wait for, here and above; for simulations.
    ///
    /// What exceeds the time that has passed shows in the averages later. Full is some too, so feed
    /// both. Does nothing for some of irq, and where accounting is off.
    pub fn feed(&self, resource: Resource, stall: Stall, time: Duration) {
        let Some(state) = State::of(resource, stall) else {
            return;
        };
        let now = self.0.engine.now();
        for inner in self.0.and_above() {
            let mut sums = inner.sums();
            inner.roll(&mut sums, now);
            if sums.accounted.meets(state.mask()) {
                sums.total[state.index()] += nanos(time);
            }
            inner.news(sums, now);
        }
    }

    /// Lets the group stall for a share of the time from now on, beside what its tasks do; for
    /// simulations.
    ///
    /// Above, shares are added up to all of the time, as if the groups' stalls never met. A share of
    /// full is one of some too. Ends when the group does.
    pub fn set_share(&self, resource: Resource, stall: Stall, share: Share) {
        let Some(state) = State::of(resource, stall) else {
            return;
        };
        if !self.is_supported() {
            return;
        }
        let now = self.0.engine.now();
        let added = self.0.sums().shares.set_own(state, share);
        self.0.add_shares(&added, now);
    }

    /// Returns averages and totals of now (`psi_show`).
    #[must_use]
    pub fn pressure(&self, resource: Resource) -> Pressure {
        let inner = &self.0;
        let now = inner.engine.now();
        let mut sums = inner.sums();
        inner.roll(&mut sums, now);
        inner.collect(&mut sums, now);
        let line = |stall| {
            State::of(resource, stall)
                .map(|state| PressureLine::new(sums.averages.of(state), sums.total[state.index()]))
        };
        Pressure { some: line(Stall::Some), full: line(Stall::Full).unwrap_or_default() }
    }

    /// Goes on with the accounting (`cgroup.pressure` 1); does nothing where it goes on.
    pub fn enable(&self) {
        let inner = &self.0;
        inner.account(inner.accounted_if_on());
    }

    /// Stops the accounting of this group alone (`cgroup.pressure` 0): totals stand still, averages
    /// decay; tasks are counted on, for the time when it is enabled again.
    pub fn disable(&self) {
        self.0.account(StateMask::EMPTY);
    }

    /// Tells whether the group is accounted.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.0.sums().accounted != StateMask::EMPTY
    }

    /// Returns how many triggers are set on the group.
    #[must_use]
    pub fn triggers(&self) -> usize {
        self.0.sums().watches.len()
    }

    /// Returns how many bytes a group takes with that many cpus, triggers apart.
    #[must_use]
    pub const fn footprint(cpus: usize) -> usize {
        // The counts of the `Arc` come with it.
        size_of::<Inner>() + 2 * size_of::<usize>() + cpus * size_of::<Cpu>()
    }

    /// Tells whether pressure is accounted at all: see [`EngineBuilder::off`].
    ///
    /// [`EngineBuilder::off`]: crate::EngineBuilder::off
    #[must_use]
    pub fn is_supported(&self) -> bool {
        !self.0.engine.is_off()
    }

    /// Sets a trigger.
    ///
    /// Returns `None` for some of irq.
    pub(crate) fn attach(
        &self,
        resource: Resource,
        condition: Condition,
        privilege: Privilege,
        listener: Listener,
    ) -> Option<Trigger> {
        let state = State::of(resource, condition.stall())?;
        let inner = &self.0;
        let now = inner.engine.now();
        let mut sums = inner.sums();
        inner.roll(&mut sums, now);
        inner.collect(&mut sums, now);
        let total = sums.total[state.index()];
        let notifier = listener.notifier.clone();
        let watch = Watch::new(state, condition, privilege, listener, now, total);
        let key = sums.watches.insert(watch, now);
        inner.news(sums, now);
        Some(Trigger { group: self.clone(), key, notifier })
    }

    fn detach(&self, key: usize) {
        let mut sums = self.0.sums();
        let watch = sums.watches.remove(key);
        if sums.watches.is_empty() {
            // Under the lock: a trigger that comes next is scheduled after this.
            self.0.engine.unschedule(self.0.id);
        }
        drop(sums);
        drop(watch);
    }

    /// Applies a change of a task here and above (`psi_task_change`); the clock is read once.
    #[inline]
    fn change(&self, cpu: usize, delta: &Delta) {
        if self.0.engine.is_off() {
            return;
        }
        let now = self.0.engine.now();
        for inner in self.0.and_above() {
            inner.change(cpu, delta, now);
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.0.id).finish_non_exhaustive()
    }
}

/// A task of a group, in the state that the program reports; gone when dropped.
#[derive(Debug)]
pub struct Task {
    group: Group,
    cpu: usize,
    state: TaskState,
}

impl Task {
    /// Returns what the task does.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.state
    }

    /// Reports what the task does from now on; takes one walk up the groups.
    #[inline]
    pub fn set(&mut self, state: TaskState) {
        if state != self.state {
            self.group.change(self.cpu, &Delta::between(self.state, state));
            self.state = state;
        }
    }

    /// Moves the task to another group (`cgroup_move_task`).
    pub fn move_to(&mut self, group: &Group) {
        let state = self.state;
        let cpu = self.cpu;
        *self = group.task_on(cpu, state);
    }

    /// Moves the task to another cpu, by its number modulo the number of cpus.
    pub fn move_to_cpu(&mut self, cpu: usize) {
        let group = self.group.clone();
        *self = group.task_on(cpu, self.state);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.set(TaskState::empty());
    }
}

/// A trigger that is set, in the state of an open file; dropping it detaches it, and no more
/// (`psi_trigger_destroy`).
pub(crate) struct Trigger {
    group: Group,
    key: usize,
    notifier: Notifier,
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.group.detach(self.key);
        // Linux wakes the pollers of a trigger by the same call that tells who watches the file,
        // so that these hear of each close. Nobody hears of what was severed.
        self.notifier.announce();
    }
}

/// A group: pinned by its tasks, its children, and the drivers of its files.
pub(crate) struct Inner {
    engine: Arc<Core>,
    parent: Option<Arc<Self>>,
    /// Names the group in the agenda.
    id: u64,
    cpus: Box<[Cpu]>,
    /// Held around the lock of one cpu at a time, or of the agenda; never around that of another
    /// group, nor while wakers run.
    sums: Mutex<Sums>,
}

/// What is known of the group as a whole.
struct Sums {
    /// Times of the stall states in nanoseconds.
    total: [u64; State::COUNT],
    /// Up to when the cpus have been collected.
    collected: u64,
    averages: Averages,
    /// When the period of the averages ends.
    period_end: u64,
    accounted: StateMask,
    shares: Shares,
    watches: Watches,
}

impl Inner {
    fn new(engine: Arc<Core>, parent: Option<Arc<Self>>) -> Self {
        let now = engine.now();
        let period_end = now + PERIOD_NANOS;
        let accounted = accounted_in(&engine, parent.is_none());
        let cpu = || Cpu::new(now, period_end, accounted);
        Self {
            id: engine.next_id(),
            cpus: iter::repeat_with(cpu).take(engine.cpus()).collect(),
            sums: Mutex::new(Sums {
                total: [0; State::COUNT],
                collected: now,
                averages: Averages::default(),
                period_end,
                accounted,
                shares: Shares::default(),
                watches: Watches::default(),
            }),
            engine,
            parent,
        }
    }

    fn accounted_if_on(&self) -> StateMask {
        accounted_in(&self.engine, self.parent.is_none())
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        lock(&self.sums)
    }

    /// Returns the group and all above it.
    fn and_above(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        iter::successors(Some(self), |inner| inner.parent.as_ref())
    }

    /// Applies a change of a task to this group alone.
    #[inline]
    fn change(self: &Arc<Self>, cpu: usize, delta: &Delta, now: u64) {
        loop {
            match self.cpus[cpu].change(delta, now) {
                Changed::Quiet => return,
                Changed::Alarm => return self.schedule(now),
                Changed::PeriodOver => self.roll(&mut self.sums(), now),
            }
        }
    }

    /// Accounts the periods that are over, each as of its end (`update_averages`).
    ///
    /// Whoever changes a task after the end of a period comes here first, so that each period after
    /// the first was spent in the states of now, and the first from its last change on.
    fn roll(&self, sums: &mut Sums, now: u64) {
        if now < sums.period_end {
            return;
        }
        let mut left = (now - sums.period_end) / PERIOD_NANOS + 1;
        let after = sums.period_end + left * PERIOD_NANOS;
        let mut last = None;
        while left > 0 {
            let active = self.collect_until(sums, sums.period_end, after);
            // What is all alike is passed at once, but for the last period, which is sampled.
            let mut passed = 0;
            if sums.averages.are_level_with(&sums.total)
                && active.and(StateMask::STALLS) == StateMask::EMPTY
            {
                passed = left - 1;
                sums.averages.pass_idle(passed);
                sums.period_end += passed * PERIOD_NANOS;
            }
            sums.watches.period_over(sums.period_end, &sums.total);
            let before = sums.averages.values();
            let samples = sums.averages.sample(&sums.total);
            passed += 1;
            sums.period_end += PERIOD_NANOS;
            let is_settled = last == Some(samples)
                && before == sums.averages.values()
                && sums.averages.are_level_with(&sums.total);
            if is_settled && left > passed + 1 {
                let alike = left - passed - 1;
                sums.averages.pass_settled(alike, &samples);
                passed += alike;
                sums.period_end += alike * PERIOD_NANOS;
            }
            left -= passed;
            last = Some(samples);
        }
    }

    /// Adds up the times of the cpus until now; returns the states that go on.
    fn collect(&self, sums: &mut Sums, now: u64) -> StateMask {
        let period_end = sums.period_end;
        self.collect_until(sums, now, period_end)
    }

    /// Adds up the times of the cpus, each weighted by its time that is not idle
    /// (`collect_percpu_times`).
    ///
    /// Linux weighs with jiffies, so that what is asked for more often than that gets lost; here
    /// with nanoseconds.
    fn collect_until(&self, sums: &mut Sums, at: u64, period_end: u64) -> StateMask {
        let mut active = sums.shares.states().and(sums.accounted);
        let mut times: Times = Default::default();
        if let [cpu] = &*self.cpus {
            active = active.with(cpu.collect(at, period_end, &mut times));
            for (total, time) in sums.total.iter_mut().zip(times) {
                *total += time;
            }
        } else {
            let mut weighted = [0u128; State::COUNT];
            let mut weight = 0u128;
            for cpu in &self.cpus {
                active = active.with(cpu.collect(at, period_end, &mut times));
                let nonidle = u128::from(times[State::COUNT]);
                weight += nonidle;
                for (weighted, time) in weighted.iter_mut().zip(times) {
                    *weighted += u128::from(time) * nonidle;
                }
            }
            for (total, weighted) in sums.total.iter_mut().zip(weighted) {
                *total += (weighted / weight.max(1)) as u64;
            }
        }
        let passed = at.saturating_sub(sums.collected);
        sums.collected += passed;
        sums.shares.accrue(passed, sums.accounted, &mut sums.total);
        active
    }

    /// Lets the triggers be evaluated, if there are any: there is something that no cpu tells.
    fn news(self: &Arc<Self>, sums: MutexGuard<'_, Sums>, now: u64) {
        let is_watched = !sums.watches.is_empty();
        drop(sums);
        if is_watched {
            self.schedule(now);
        }
    }

    /// Lets the triggers be evaluated at `due` or before.
    fn schedule(self: &Arc<Self>, due: u64) {
        let watched: Arc<dyn Watched> = Arc::clone(self) as _;
        self.engine.schedule(&watched, due);
    }

    fn account(self: &Arc<Self>, accounted: StateMask) {
        let now = self.engine.now();
        let mut sums = self.sums();
        if sums.accounted == accounted {
            return;
        }
        self.roll(&mut sums, now);
        self.collect(&mut sums, now);
        sums.accounted = accounted;
        for cpu in &self.cpus {
            cpu.account(accounted, now);
        }
        self.news(sums, now);
    }

    /// Adds to the shares of this group and all above it.
    fn add_shares(self: &Arc<Self>, added: &SignedShares, now: u64) {
        for inner in self.and_above() {
            let mut sums = inner.sums();
            inner.roll(&mut sums, now);
            inner.collect(&mut sums, now);
            sums.shares.add(added);
            inner.news(sums, now);
        }
    }
}

impl Watched for Inner {
    fn id(&self) -> u64 {
        self.id
    }

    /// Evaluates the triggers, announces those that fire, and schedules the next evaluation; if
    /// there is nothing to wait for, sets the cpus on watch instead.
    fn evaluate(self: Arc<Self>, now: u64) {
        let mut sums = self.sums();
        if sums.watches.is_empty() {
            return;
        }
        self.roll(&mut sums, now);
        let active = self.collect(&mut sums, now);
        let Sums { watches, total, period_end, .. } = &mut *sums;
        let mut due = watches.evaluate(now, active, total, *period_end);
        if due.is_none() {
            let states = watches.states();
            for cpu in &self.cpus {
                cpu.watch(states);
            }
            // On watch first, then looked once more: else a stall in between would be missed.
            let active = self.collect(&mut sums, now);
            let Sums { watches, total, .. } = &*sums;
            due = watches.any_goes_on(active, total).then_some(now + 1);
        }
        let fired = sums.watches.take_fired();
        drop(sums);
        if let Some(due) = due {
            self.schedule(due);
        }
        trigger::announce(&fired);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let sums = self.sums.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let gone = sums.shares.take_own();
        if let Some(parent) = self.parent.as_ref().filter(|_| gone != SignedShares::default()) {
            parent.add_shares(&gone, self.engine.now());
        }
    }
}

/// What is accounted in a group that is not disabled.
fn accounted_in(engine: &Core, is_root: bool) -> StateMask {
    if engine.is_off() { StateMask::EMPTY } else { accounted(is_root) }
}

/// Shares of the time that are said to be stalls, in millionths.
#[derive(Debug, Default)]
struct Shares {
    /// Of this group.
    own: [u32; State::COUNT],
    /// Of this group and all below, added up.
    all: [i64; State::COUNT],
}

type SignedShares = [i64; State::COUNT];

impl Shares {
    /// Sets a share, and returns what is to be added here and above.
    fn set_own(&mut self, state: State, share: Share) -> SignedShares {
        let before = self.effective();
        self.own[state.index()] = share.millionths();
        let after = self.effective();
        std::array::from_fn(|state| after[state] - before[state])
    }

    /// Ends the own shares, and returns what is to be added above.
    fn take_own(&mut self) -> SignedShares {
        let before = self.effective();
        self.own = Default::default();
        before.map(|share| -share)
    }

    fn add(&mut self, added: &SignedShares) {
        for (all, added) in self.all.iter_mut().zip(added) {
            *all += added;
        }
    }

    /// Returns the own shares, where full is some too.
    fn effective(&self) -> SignedShares {
        let mut shares = self.own.map(i64::from);
        for resource in Resource::ALL {
            let states = (State::of(resource, Stall::Some), State::of(resource, Stall::Full));
            if let (Some(some), Some(full)) = states {
                shares[some.index()] = shares[some.index()].max(shares[full.index()]);
            }
        }
        shares
    }

    /// Returns the states that have a share.
    fn states(&self) -> StateMask {
        let states = State::ALL.into_iter().filter(|state| self.all[state.index()] > 0);
        states.fold(StateMask::EMPTY, |mask, state| mask.with(state.mask()))
    }

    fn accrue(&self, passed: u64, accounted: StateMask, total: &mut [u64; State::COUNT]) {
        for state in State::ALL {
            let share = self.all[state.index()].clamp(0, Share::ALL.millionths().into());
            if share > 0 && accounted.meets(state.mask()) {
                let time = u128::from(passed) * share as u128 / u128::from(Share::ALL.millionths());
                total[state.index()] += time as u64;
            }
        }
    }
}
