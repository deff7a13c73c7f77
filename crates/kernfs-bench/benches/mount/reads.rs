//! Reads through the mount, beside the kernel's own kernfs and servers of one file.

use std::cell::RefCell;
use std::fs;

use kernfs::Mode;
use kernfs_bench::measure::{Case, Figures, Samples, interleave};
use kernfs_bench::table::{Row, print_section};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::client::{Client, Op};
use crate::report::{Latencies, median, micros};
use crate::servers::Server;
use crate::stage::{Stage, text};

/// A file that is read, and the process that serves it.
struct Subject {
    name: &'static str,
    path: String,
    server: Option<u32>,
}

/// Where everybody runs.
#[derive(Clone, Copy)]
enum Placement {
    /// Wherever the scheduler puts them.
    Free { threads: usize },
    /// Client and servers on one processor, so that what they do is all that counts, and not how
    /// long another processor takes to wake up.
    Together,
}

const PLACEMENTS: [(Placement, &str); 3] = [
    (Placement::Free { threads: 1 }, "1 client thread"),
    (Placement::Free { threads: 2 }, "2 client threads"),
    (Placement::Together, "1 client thread, all processes on one processor"),
];

const OPS: [(Op, &str); 2] =
    [(Op::Read, "pread of 4096 at 0"), (Op::OpenReadClose, "open, pread, close")];

pub(crate) fn measure(stage: &Stage) {
    let file = stage.tree.root().add_file("value", Mode::RO, text()).expect("the name is free");
    let (mut subjects, mut skipped) = (Vec::new(), Vec::new());
    let cgroup = stage.temporary.cgroup();
    match &cgroup {
        Ok(cgroup) => {
            subjects.push(Subject { name: CGROUP, path: cgroup.file(), server: None });
        }
        Err(reason) => skipped.push(format!("{CGROUP}: skipped: {reason}")),
    }
    let servers = [("fuser", FUSER), ("session", "fuse-session, one file")];
    let servers = servers.map(|(role, name)| (Server::start(role, &stage.temporary), name));
    for (server, name) in &servers {
        match server {
            Ok(server) => {
                let (path, pid) = (server.file(), server.pid());
                subjects.push(Subject { name, path, server: Some(pid) });
            }
            Err(reason) => skipped.push(format!("{name}: skipped: {reason}")),
        }
    }
    let (path, own) = (stage.at("value"), std::process::id());
    subjects.push(Subject { name: "our mount", path, server: Some(own) });

    let client = RefCell::new(Client::start());
    for (op, what) in OPS {
        for (placement, where_) in PLACEMENTS {
            let rows = compare(stage, &client, &subjects, op, placement);
            print_section(&format!("{what}, {where_}"), &rows);
            for line in &skipped {
                println!("  {line}");
            }
        }
    }
    file.remove().expect("not inside");
}

const CGROUP: &str = "the kernel's cgroup.max.depth";
const FUSER: &str = "fuser 0.18, one file";

fn compare(
    stage: &Stage,
    client: &RefCell<Client>,
    subjects: &[Subject],
    op: Op,
    placement: Placement,
) -> Vec<Row> {
    let together = matches!(placement, Placement::Together);
    let threads = if let Placement::Free { threads } = placement { threads } else { 1 };
    let pinned = together.then(|| {
        let servers = subjects.iter().filter_map(|subject| subject.server);
        Pinned::new(servers.chain([client.borrow().pid()]))
    });
    let latencies: Vec<_> = subjects.iter().map(|_| RefCell::new(Vec::new())).collect();
    let cases = subjects.iter().zip(&latencies).map(|(subject, latencies)| {
        let time = stage.effort.sample;
        let timed = move |_| {
            let done = client.borrow_mut().repeat(op, &subject.path, threads, time);
            latencies.borrow_mut().push(done.latencies);
            // Of a thousand, so that tenths of nanoseconds are not lost.
            done.time.mul_f64(1000.0 / done.count as f64)
        };
        Case::timed(subject.name, timed).count(1000)
    });
    let samples = interleave(stage.effort, cases.collect());
    drop(pinned);
    // The first of the latencies was a warm-up.
    let latencies = latencies.into_iter().map(|latencies| latencies.into_inner().split_off(1));
    let latencies: Vec<_> = latencies.collect();
    let fuser = samples.iter().position(|samples| samples.name == FUSER);
    let rows = samples.iter().zip(&latencies);
    rows.map(|(of, its)| row(of, its, &samples, fuser.map(|at| &*latencies[at]))).collect()
}

fn row(of: &Samples, latencies: &[Latencies], all: &[Samples], fuser: Option<&[Latencies]>) -> Row {
    let mut row = Row::time(of);
    for (base, short) in [(CGROUP, "kernel"), (FUSER, "fuser")] {
        if let Some(base) = all.iter().find(|samples| samples.name == base) {
            row = row.ratio(of.over(base), short);
        }
    }
    let per_second = 1e9 / row.figures.median;
    let p50 = micros(median(latencies.iter().map(|each| each.p50)));
    let p99 = micros(median(latencies.iter().map(|each| each.p99)));
    let note = format!("{per_second:.0}/s, p50 {p50} us, p99 {p99} us");
    let Some(fuser) = fuser else { return row.note(note) };
    // What other processes take from a sample is in its mean, and not in its median.
    let p50s = latencies.iter().zip(fuser).map(|(a, b)| a.p50.as_secs_f64() / b.p50.as_secs_f64());
    let ratio = Figures::of(p50s.collect());
    let Figures { median, min, max, .. } = ratio;
    row.note(format!("{note}, p50 {median:.2} of fuser's [{min:.2}..{max:.2}]"))
}

/// Processes that run on one processor, until it is dropped.
struct Pinned {
    pids: Vec<u32>,
    before: CpuSet,
}

impl Pinned {
    fn new(pids: impl Iterator<Item = u32>) -> Self {
        let before = sched_getaffinity(None).unwrap_or_default();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).unwrap_or(0));
        let pids: Vec<_> = pids.collect();
        for &pid in &pids {
            place(pid, &one);
        }
        Self { pids, before }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for &pid in &self.pids {
            place(pid, &self.before);
        }
    }
}

/// Places all threads of a process; those that end meanwhile need no place.
fn place(pid: u32, on: &CpuSet) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let name = task.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if thread.is_some() {
            let _ = sched_setaffinity(thread, on);
        }
    }
}
