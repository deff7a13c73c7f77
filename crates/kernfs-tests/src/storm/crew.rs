//! The clients as the conductor sees them: processes that are started, killed and ended.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Options;
use super::hang::{LIMIT, Pids, report};
use super::random::Random;
use super::tally::Tally;

/// All clients.
pub(super) struct Crew {
    program: Vec<String>,
    root: PathBuf,
    options: Options,
    started: u64,
    members: Vec<Member>,
    pids: Pids,
    tally: Arc<Mutex<Tally>>,
}

struct Member {
    process: Child,
    /// `None` once it was told to end.
    orders: Option<ChildStdin>,
    last_heard: Arc<Mutex<Instant>>,
    listener: JoinHandle<()>,
}

/// What a client is told when the storm is over.
pub(super) const END: &str = "end";

impl Crew {
    pub(super) fn new(program: &[String], root: &Path, options: Options, pids: Pids) -> Self {
        let (members, tally) = (Vec::new(), Arc::default());
        let (program, root) = (program.to_vec(), root.to_owned());
        Self { program, root, options, started: 0, members, pids, tally }
    }

    /// Starts as many as are missing.
    pub(super) fn man(&mut self) {
        while self.members.len() < self.options.clients {
            match self.start() {
                Ok(member) => self.members.push(member),
                Err(error) => {
                    lock(&self.tally).fault(format!("a client cannot be started: {error}"));
                    return;
                }
            }
        }
        self.enter_pids();
    }

    fn start(&mut self) -> std::io::Result<Member> {
        self.started += 1;
        let seed = self.options.seed.wrapping_add(self.started << 32);
        let (program, first) = self.program.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(first).arg(&self.root).arg(seed.to_string());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (orders, output) = (process.stdin.take(), process.stdout.take().expect("piped"));
        let last_heard = Arc::new(Mutex::new(Instant::now()));
        let (heard, tally) = (Arc::clone(&last_heard), Arc::clone(&self.tally));
        let listener = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                *lock(&heard) = Instant::now();
                lock(&tally).add_wire(&line);
            }
        });
        Ok(Member { process, orders, last_heard, listener })
    }

    /// Tells whether all are alive and give signs of it, and nothing is wrong.
    pub(super) fn is_well(&mut self) -> bool {
        for member in &mut self.members {
            if let Some(fault) = member.fault() {
                lock(&self.tally).fault(fault);
            }
        }
        lock(&self.tally).faults.is_empty()
    }

    /// Kills a client, whatever it is doing, and waits for its end.
    pub(super) fn kill_one(&mut self, random: &mut Random) {
        let Some(mut member) = random.take(&mut self.members) else { return };
        // Fails if it has ended already, which `ended` tells.
        let _ = member.process.kill();
        match member.ended(LIMIT) {
            Some(_) => drop(member.listener.join()),
            None => {
                let place = report(member.process.id());
                lock(&self.tally).fault(format!("a killed client does not end: {place}"));
            }
        }
        lock(&self.tally).killed += 1;
        self.enter_pids();
    }

    /// Tells all to end.
    pub(super) fn end(&mut self) {
        for member in &mut self.members {
            if let Some(mut orders) = member.orders.take() {
                // One that has died is found by its status.
                let _ = writeln!(orders, "{END}");
                // Kept open, for a client without an owner ends at once.
                member.orders = Some(orders);
            }
        }
    }

    /// Tells whether all have ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.members.iter_mut().all(|member| matches!(member.process.try_wait(), Ok(Some(_))))
    }

    /// Returns what all of them got; those that have not ended are killed.
    pub(super) fn tally(mut self) -> Tally {
        for mut member in self.members.drain(..) {
            let id = member.process.id();
            match member.ended(Duration::ZERO) {
                Some(status) if status.success() => {}
                Some(status) => {
                    lock(&self.tally).fault(format!("a client ended by {status}"));
                }
                None => {
                    let place = report(id);
                    lock(&self.tally).fault(format!("a client does not end: {place}"));
                    let _ = member.process.kill();
                    member.ended(LIMIT);
                }
            }
            let _ = member.listener.join();
        }
        lock(&self.pids).clear();
        std::mem::take(&mut *lock(&self.tally))
    }

    fn enter_pids(&self) {
        *lock(&self.pids) = self.members.iter().map(|member| member.process.id()).collect();
    }
}

impl Member {
    /// Tells what is wrong with a client that ought to be at work.
    fn fault(&mut self) -> Option<String> {
        if let Ok(Some(status)) = self.process.try_wait() {
            return Some(format!("a client ended by {status}"));
        }
        let silent = lock(&self.last_heard).elapsed();
        (silent > LIMIT)
            .then(|| format!("a client hangs since {silent:.0?}: {}", report(self.process.id())))
    }

    fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
