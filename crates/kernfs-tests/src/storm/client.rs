//! A client: a process that does everything that can be done to files, at random.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::crew::END;
use super::drivers::LONGEST;
use super::hang::name_thread;
use super::operations::{Client, Nobody, SLEEP_FOR_EVENTS, SLEEP_IN_READ, count, path_of_file};
use super::owner::DIRS;
use super::random::Random;
use super::tally::Tally;
use crate::cases::PRI;
use crate::subject::errno::EISDIR;
use crate::subject::{How, Subject, Sys, flags};
use crate::syscalls::Syscalls;

/// Plays a client at a directory until the conductor tells it to end.
///
/// If the conductor has gone, it ends at once.
///
/// # Errors
///
/// The arguments are none that [`storm`](super::storm) gives.
pub fn client(args: &[String]) -> Result<(), String> {
    let [root, seed] = args else { return Err("a client takes a directory and a seed".into()) };
    let seed = seed.parse::<u64>().map_err(|error| format!("{seed}: {error}"))?;
    let (over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
    thread::spawn({
        let over = Arc::clone(&over);
        move || obey(&over)
    });
    let sleeper = {
        let sleeper = Sleeper::new(root, Random::new(!seed), Arc::clone(&tally));
        let over = Arc::clone(&over);
        thread::spawn(move || sleeper.sleep_until(&over))
    };
    let mut random = Random::new(seed);
    let mut last_told = Instant::now();
    while !over.load(SeqCst) {
        let mut client = Client::new(root, Random::new(random.next()));
        for _ in 0..LIFE {
            client.step(&tally);
            if last_told.elapsed() > TELL {
                tell(&tally);
                last_told = Instant::now();
            }
            if over.load(SeqCst) {
                break;
            }
        }
        name_thread("close all");
    }
    name_thread("join sleeper");
    if sleeper.join().is_err() {
        lock(&tally).fault("a sleeper panicked, see above".into());
    }
    tell(&tally);
    Ok(())
}

/// After so many operations a client closes everything at once.
const LIFE: usize = 1000;

/// How often it gives a sign of life.
const TELL: Duration = Duration::from_millis(200);

/// Waits for the order to end.
fn obey(over: &AtomicBool) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if line == END {
            over.store(true, SeqCst);
        }
    }
    // The conductor has gone, or waits for nothing any more.
    if !over.load(SeqCst) {
        std::process::exit(1);
    }
}

/// Tells the conductor what was got since.
fn tell(tally: &Mutex<Tally>) {
    let text = lock(tally).take_wire();
    // A conductor that has gone is noticed at the other pipe.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The second thread of a client: it sleeps in the kernel, for as long as nothing happens.
struct Sleeper {
    root: String,
    random: Random,
    sys: Syscalls<Nobody>,
    tally: Arc<Mutex<Tally>>,
}

/// For ever, compared to a storm.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

impl Sleeper {
    fn new(root: &str, random: Random, tally: Arc<Mutex<Tally>>) -> Self {
        Self { root: root.to_owned(), random, sys: Syscalls::new(Nobody), tally }
    }

    /// Sleeps again and again; whoever removes everything wakes it.
    fn sleep_until(mut self, over: &AtomicBool) {
        while !over.load(SeqCst) {
            let dir = self.random.pick(&DIRS);
            let (operation, result) = if self.random.one_in(2) {
                name_thread("sleep in read");
                (SLEEP_IN_READ, self.sleep_in_read(&format!("{}/{dir}/events", self.root)))
            } else {
                name_thread("sleep in poll");
                let path = path_of_file(&self.root, &mut self.random);
                (SLEEP_FOR_EVENTS, self.sleep_for_events(&path))
            };
            count(&self.tally, operation, result);
            if result.is_err() {
                // What is missing does not come any sooner by looking for it all the time.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn sleep_in_read(&self, path: &str) -> Sys<()> {
        let fd = self.sys.open(path, flags::O_RDONLY)?;
        let read = self.sys.read(fd, LONGEST);
        self.sys.close(fd)?;
        read.map(drop)
    }

    fn sleep_for_events(&mut self, path: &str) -> Sys<()> {
        let fd = self.sys.open(path, flags::O_RDONLY | flags::O_NONBLOCK)?;
        // A fresh open file is ready until it is read; there may be nothing to read yet.
        if self.sys.read(fd, LONGEST) == Err(EISDIR) {
            // Nothing ever happens to a directory, by poll(2), be it the kernel's own.
            return self.sys.close(fd);
        }
        let how = self.random.pick(&[How::Poll, How::Select, How::Epoll]);
        let events = self.sys.wait(fd, PRI, how, FOR_EVER);
        self.sys.close(fd)?;
        if events == Ok(0) {
            lock(&self.tally).fault(format!("woken out of {how:?} for nothing"));
        }
        events.map(drop)
    }
}
