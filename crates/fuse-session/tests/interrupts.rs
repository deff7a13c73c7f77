//! Signals that reach a client while it waits for an answer.

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::*;
use rustix::process::Signal;

/// Starts a process that reads a file.
fn reader(mount: &Mount, name: &str) -> Child {
    let mut command = Command::new("cat");
    command.arg(mount.path(name)).stdout(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn a_killed_reader_of_a_parked_reply_dies() {
    let Some(mount) = Mount::new() else { return };
    let mut child = reader(&mount, "blocked");
    eventually("a parked read", || mount.stats().parked == 1);
    signal(child.id(), Signal::KILL);
    assert_eq!(wait_for(&mut child).signal(), Some(libc::SIGKILL));
    eventually("no parked read", || mount.stats().parked == 0);
    assert_eq!(mount.state.interrupts.load(Ordering::SeqCst), 1);
    // What the filesystem still holds is worth nothing, and does no harm.
    assert_eq!(mount.state.release_blocked(b"late"), 0);
}

#[test]
fn many_killed_readers_die() {
    let Some(mount) = Mount::new() else { return };
    let mut children: Vec<_> = (0..20).map(|_| reader(&mount, "blocked")).collect();
    eventually("parked reads", || mount.stats().parked == 20);
    for child in &children {
        signal(child.id(), Signal::KILL);
    }
    for child in &mut children {
        assert_eq!(wait_for(child).signal(), Some(libc::SIGKILL));
    }
    eventually("no parked read", || mount.stats().parked == 0);
}

#[test]
fn a_signal_with_a_handler_gives_eintr() {
    let Some(mount) = Mount::new() else { return };
    // The trap runs when the read has come back; a restarted read would never. Of SIGINT there may be
    // none: a shell cannot trap what was ignored when it was started.
    let script = "trap 'echo caught; exit 7' USR1; read line < \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(mount.path("blocked"));
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    eventually("a parked read", || mount.stats().parked == 1);
    signal(child.id(), Signal::USR1);
    assert_eq!(wait_for(&mut child).code(), Some(7));
    assert_eq!(mount.state.interrupts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_handler_that_looks_for_interrupts_sees_them() {
    let Some(mount) = Mount::new() else { return };
    mount.state.slow_gives_up.store(1, Ordering::SeqCst);
    let served = mount.stats().served;
    let mut child = reader(&mount, "slow");
    eventually("the open and the read", || {
        mount.stats().served > served && mount.stats().idle_threads < mount.stats().threads
    });
    signal(child.id(), Signal::KILL);
    assert_eq!(wait_for(&mut child).signal(), Some(libc::SIGKILL));
}

#[test]
fn an_interrupt_of_a_handler_is_remembered_and_others_go_on() {
    let Some(mount) = Mount::new() else { return };
    let mut child = reader(&mount, "slow");
    eventually("a slow handler", || mount.state.gate.waiting() == 1);
    signal(child.id(), Signal::KILL);
    eventually("the interrupt", || mount.state.interrupts.load(Ordering::SeqCst) == 1);
    fs::metadata(mount.path("many")).unwrap();
    assert_eq!(mount.stats().interrupts, 1);
    mount.state.gate.open();
    assert_eq!(wait_for(&mut child).signal(), Some(libc::SIGKILL));
}

#[test]
fn signals_and_answers_may_cross() {
    let Some(mount) = Mount::new() else { return };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let mount = &mount;
                scope.spawn(move || {
                    for round in 0..25 {
                        let mut child = reader(mount, "blocked");
                        thread::sleep(Duration::from_micros(round * 200 + client * 50));
                        signal(child.id(), Signal::KILL);
                        wait_for(&mut child);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                mount.state.release_blocked(b"text");
                thread::sleep(Duration::from_micros(300));
            }
        });
        eventually("the end of all clients", || {
            clients.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        done.store(true, Ordering::SeqCst);
    });
    eventually("no parked read", || mount.stats().parked == 0);
    assert_eq!(mount.stats().panics, 0);
}
