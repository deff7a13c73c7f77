//! Announcing to waiters, and severing them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use kernfs::{Events, File, Mode, OpenFile, OpenFlags, Tree, Waiter};

use crate::drivers::{Constant, owner};
use crate::measure::{Case, Effort, interleave};
use crate::read::unit;
use crate::table::Row;

/// How many open files with a waiter each are woken at once, at most.
const WAITERS: usize = 1000;

pub(crate) fn measure_notify(effort: Effort) -> Vec<Row> {
    let many = effort.size(WAITERS);
    let none = Held::new(0, 0);
    let idle = Held::new(many, 0);
    let mut one = Held::new(1, 1);
    let mut all = Held::new(many, many);
    // The waiters register again before each notification, outside of what is timed.
    fn notify<'a>(name: String, held: &'a mut Held, per: usize) -> Case<'a> {
        Case::timed(name, move |count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                held.settle();
                let start = Instant::now();
                held.file().notify();
                total += start.elapsed();
            }
            total / u32::try_from(per).unwrap_or(u32::MAX)
        })
    }
    let samples = interleave(
        effort.fewer(3),
        vec![
            unit(),
            Case::new("notify, nothing open", || none.file().notify()),
            Case::new(format!("notify, {many} open files, nobody waits"), || idle.file().notify()),
            notify("notify, 1 waiter, with the clock read".into(), &mut one, 1).count(16),
            notify(format!("notify, {many} waiters, per waiter"), &mut all, many).count(1),
        ],
    );
    crate::table::rows_over_first(&samples, "rmw")
}

pub(crate) fn measure_sever(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for full in [10, 1000, 10_000] {
        let opens = effort.size(full);
        // About as many open files are severed for each size.
        let effort = effort.fewer(opens.clamp(10, 100));
        let samples = interleave(
            effort,
            vec![
                unit(),
                sever(format!("sever {opens} open files, nobody waits, each"), opens, 0),
                sever(format!("sever {opens} open files, a waiter on each, each"), opens, opens),
            ],
        );
        rows.extend(
            samples[1..].iter().map(|case| Row::time(case).ratio(case.over(&samples[0]), "rmw")),
        );
    }
    rows
}

/// Severs and waits for the drain, and tells the time for each open file.
fn sever<'a>(name: String, opens: usize, waiters: usize) -> Case<'a> {
    let timed = move |count| {
        let mut total = Duration::ZERO;
        for _ in 0..count {
            let mut held = Held::new(opens, waiters);
            held.settle();
            let file = held.file.take().expect("it was made with one");
            let woken = held.woken.0.load(Ordering::Relaxed);
            let start = Instant::now();
            file.remove().expect("not inside");
            total += start.elapsed();
            let woken = held.woken.0.load(Ordering::Relaxed) - woken;
            assert_eq!(woken, waiters as u64, "every waiter is woken");
        }
        total / u32::try_from(opens).unwrap_or(u32::MAX)
    };
    Case::timed(name, timed).count(1)
}

/// A file that is held open, and waited for.
struct Held {
    file: Option<File<Constant>>,
    opens: Vec<OpenFile>,
    waiters: Vec<Waiter>,
    woken: Arc<Woken>,
    waker: Waker,
    _tree: Tree,
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Held {
    fn new(opens: usize, waiters: usize) -> Self {
        let tree = Tree::new();
        let file = tree.root().add_file("event", Mode::RO, Constant).expect("the name is free");
        let inode = owner(&tree).lookup("/event").expect("it was added");
        let open = || inode.open(owner(&tree).caller(), OpenFlags::READ).expect("it is there");
        let woken = Arc::<Woken>::default();
        Self {
            file: Some(file),
            opens: (0..opens).map(|_| open()).collect(),
            waiters: (0..waiters).map(|_| Waiter::new()).collect(),
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            _tree: tree,
        }
    }

    fn file(&self) -> &File<Constant> {
        self.file.as_ref().expect("only severing takes it")
    }

    /// Lets all look at the value and wait for the next.
    fn settle(&mut self) {
        let mut buf = [0; 64];
        let mut cx = Context::from_waker(&self.waker);
        for (open, waiter) in self.opens.iter().zip(&mut self.waiters) {
            open.read_at(&mut buf, 0).expect("it is readable");
            let poll = open.poll_ready(&mut cx, waiter, Events::PRI);
            assert!(poll.is_pending(), "there are no news");
        }
    }
}
