//! Processes that this program starts of itself, each with a role, and talks to line by line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Set in the environment of the other processes.
const ROLE: &str = "KERNFS_BENCH_ROLE";

/// Returns what this process is, unless it is the one that was started by hand.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Another process; ended when dropped.
pub(crate) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// How long a process may take to end by itself, once nobody gives it orders any more.
const FAREWELL: Duration = Duration::from_secs(5);

impl Process {
    /// Starts one. Its first line has to be `ready`, or the reason why it is not.
    pub(crate) fn start(role: &str, arguments: &[&str]) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(arguments)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the first process; the others end because it does.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("the {role} does not start: {error}"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut process = Self { child, orders, answers };
        match process.hear().as_str() {
            "ready" => Ok(process),
            reason => Err(reason.to_owned()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn tell(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("taken by the drop only");
        writeln!(orders, "{order}").expect("the other process listens");
    }

    /// Waits for a line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        let len = self.answers.read_line(&mut line).expect("the other process writes text");
        assert_ne!(len, 0, "the other process has gone");
        line.trim_end().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.orders.take());
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a line to whoever has started this process.
pub(crate) fn answer(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is there any more: the end of the orders says so, too.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Returns the orders, until whoever has started this process is gone.
pub(crate) fn orders() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map_while(Result::ok)
}
