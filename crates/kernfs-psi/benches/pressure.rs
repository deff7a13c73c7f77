//! Prints the figures of pressure accounting: `cargo bench -p kernfs-psi`.
//!
//! Run by `cargo test --benches`, which does not say `--bench`, it takes one short round of each.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use kernfs::{Caller, Events, OpenFile, OpenFlags, Tree};
use kernfs_psi::{Engine, Group, Resource, TaskState, pressure_file};

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (changes, rounds) = if is_bench { (2_000_000, 7) } else { (1000, 1) };
    println!("a change of a task, in ns of time on a processor (median of {rounds}):");
    for depth in [1, 10] {
        for (threads, cpus) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let time = median(rounds, || change(depth, threads, cpus, changes));
            println!("  depth {depth:2}, {threads} thread(s), {cpus} cpu(s): {time:4}");
        }
    }
    println!("memory of a group in bytes:");
    for cpus in [1, 2, 8] {
        println!("  {cpus} cpu(s): {}", Group::footprint(cpus));
    }
    println!("severing a file with triggers, in us (median of {rounds}):");
    for triggers in [0, 1, 10, 50, 1000] {
        let (drained, woken) = median(rounds, || sever(triggers));
        let (drained, woken) = (drained.as_nanos() as f64 / 1e3, woken.as_nanos() as f64 / 1e3);
        println!(
            "  {triggers:4}: {drained:8.1} until drained, {woken:8.1} until all have returned"
        );
    }
}

fn median<T: Copy + Ord>(rounds: usize, mut measure: impl FnMut() -> T) -> T {
    let mut results: Vec<T> = (0..rounds).map(|_| measure()).collect();
    results.sort_unstable();
    results[rounds / 2]
}

/// Measures changes in a group that is `depth` levels deep, root included.
fn change(depth: usize, threads: usize, cpus: usize, changes: u32) -> u64 {
    let engine = Engine::builder().cpus(cpus).build();
    let group = (1..depth).fold(engine.root().clone(), |group, _| group.child());
    let start = Barrier::new(threads);
    let measure = |thread: usize| {
        let mut task = group.task_on(thread, TaskState::WORKING);
        start.wait();
        let begin = on_processor();
        for _ in 0..changes / 2 {
            task.set(black_box(TaskState::IOWAIT));
            task.set(black_box(TaskState::WORKING));
        }
        on_processor() - begin
    };
    let elapsed = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || measure(n))).collect();
        all.into_iter().filter_map(|one| one.join().ok()).max().unwrap_or_default()
    });
    elapsed.as_nanos() as u64 / u64::from(changes)
}

/// Returns how long this thread has had a processor, so that others on the machine count less.
fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Measures a removal with that many waiting triggers: until it is done, and until the last waiter
/// has been run.
fn sever(triggers: usize) -> (Duration, Duration) {
    let engine = Engine::new();
    let tree = Tree::new();
    let driver = pressure_file(engine.root(), Resource::Io);
    let options = driver.options();
    let file = match tree.root().add_file("io", options, driver) {
        Ok(file) => file,
        Err(rejected) => panic!("{rejected}"),
    };
    let client = tree.client(Caller::OWNER);
    let open = |_| -> Result<OpenFile, kernfs::Errno> {
        let file = client.open("/io", OpenFlags::READ_WRITE)?;
        file.write(b"some 150000 2000000")?;
        Ok(file)
    };
    let files: Result<Vec<_>, _> = (0..triggers).map(open).collect();
    let Ok(files) = files else {
        panic!("no trigger");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else {
        panic!("no runtime");
    };
    runtime.block_on(async {
        let waits = files
            .into_iter()
            .map(|file| tokio::spawn(async move { file.wait_async(Events::PRI).await }));
        let waits: Vec<_> = waits.collect();
        tokio::task::yield_now().await;
        let begin = Instant::now();
        drop(file.remove());
        let drained = begin.elapsed();
        for wait in waits {
            assert_eq!(wait.await.ok(), Some(Events::PRI | Events::ERR));
        }
        (drained, begin.elapsed())
    })
}
