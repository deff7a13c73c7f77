//! The same steps on the kernel's own cgroup2 and on a mount of ours, and what came of each.
//!
//! A step notes its answer as a line of text; the two transcripts must be the same, line by line.
//! Skipped, with the reason, where this process may not use the one or mount the other.

#![allow(unreachable_pub, reason = "a test is used by nobody")]

mod places;

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use places::{Fd, compare};
use rustix::event::PollFlags;
use support::{Process, eventually};

#[test]
fn listings_modes_sizes_and_links() {
    compare(|place| {
        place.mkdir("t");
        place.mkdir("t/u");
        for dir in ["t", "t/u"] {
            for name in place.files(dir) {
                place.stat(&format!("{dir}/{name}"));
            }
            place.stat(dir);
        }
        place.rmdir("t/u");
        place.stat("t");
    });
}

#[test]
fn the_root() {
    compare(|place| {
        let names = place.files("/");
        place.note("names", &names.join(" "));
        for name in names {
            place.stat(&format!("/{name}"));
        }
        let mode = fs::metadata(place.at("/")).unwrap().mode();
        place.note("mode", &format!("{mode:o}"));
        for name in ["cgroup.events", "cgroup.type", "cgroup.freeze", "cgroup.kill"] {
            place.read(&format!("/{name}"));
            place.write(&format!("/{name}"), "1");
        }
        for name in ["cgroup.max.depth", "cgroup.max.descendants", "cgroup.subtree_control"] {
            place.write(&format!("/{name}"), "x");
        }
    });
}

#[test]
fn what_a_fresh_group_says() {
    compare(|place| {
        place.mkdir("t");
        for name in place.files("t") {
            place.read(&format!("t/{name}"));
        }
    });
}

#[test]
fn numbers_are_taken_alike() {
    let values = [
        "2",
        "-1",
        "x",
        "\n",
        "0x1",
        "01",
        "+1",
        "-0",
        "1 1",
        " 1 ",
        "1\n\n",
        "99999999999",
        "0x",
        "99999999999999999999999",
        "99999999999999999999999x",
        "08",
        "-+1",
        "1\0",
        "1\0x",
        "max",
        "max max",
        "2147483648",
        "2147483647",
        "-5",
        "\t1\x0b",
        "1,",
        "0b1",
        "\u{a0}1",
        "0X1",
    ];
    compare(|place| {
        place.mkdir("t");
        for name in
            ["cgroup.freeze", "cgroup.pressure", "cgroup.max.depth", "cgroup.max.descendants"]
        {
            for value in values {
                place.write(&format!("t/{name}"), value);
                place.read(&format!("t/{name}"));
            }
        }
        for name in ["cgroup.kill", "cgroup.type", "cgroup.procs", "cgroup.threads"] {
            // Nothing that is somebody's number.
            let is_nobody = |value: &&str| *value != "-0" && !value.contains(['1', '2']);
            for value in values.into_iter().filter(is_nobody) {
                place.write(&format!("t/{name}"), value);
            }
        }
    });
}

#[test]
fn what_is_not_for_reading_or_writing() {
    compare(|place| {
        place.mkdir("t");
        for name in place.files("t") {
            let path = format!("t/{name}");
            // Neither what is written nor the end of a trigger is to differ.
            place.write(&path, vec![b'x'; 4096]);
            place.write(&path, vec![b'x'; 4097]);
            place.write(&path, "");
        }
        place.read("t/cgroup.kill");
    });
}

#[test]
fn names_and_limits() {
    compare(|place| {
        place.mkdir("t");
        place.mkdir("t");
        place.mkdir("t/cgroup.procs");
        place.mkdir("t/new\nline");
        place.mkdir(&format!("t/{}", "n".repeat(255)));
        place.rmdir(&format!("t/{}", "n".repeat(255)));
        place.mkdir("t/none/below");
        place.rmdir("t/cgroup.procs");
        place.rmdir("t/none");
        place.unlink("t/cgroup.procs");
        place.unlink("t");
        place.rename("t", "v");
        place.rename("t/cgroup.procs", "t/w");
        place.create("t/new");
        place.create("t/cgroup.procs");
        place.mkdir("t/u");
        place.rmdir("t");
        for (name, limit) in [("cgroup.max.depth", "1"), ("cgroup.max.descendants", "1")] {
            place.write(&format!("t/{name}"), limit);
            place.mkdir("t/x");
            place.mkdir("t/u/v");
            place.rmdir("t/u");
            place.rmdir("t/x");
            place.mkdir("t/u");
            place.mkdir("t/u/v");
            place.write(&format!("t/{name}"), "0");
            place.mkdir("t/x");
            place.write(&format!("t/{name}"), "max");
        }
        place.mkdir("t/u/v");
        place.read_lines("t/cgroup.stat", &["nr_descendants"]);
        place.rmdir("t/u/v");
        place.rmdir("t/u");
        place.rmdir("t");
        place.rmdir("t");
    });
}

#[test]
fn owners_and_the_setgid_bit() {
    compare(|place| {
        place.mkdir("t");
        std::os::unix::fs::chown(place.at("t"), Some(5), Some(77)).unwrap();
        place.chmod("t", 0o2777);
        place.mkdir("t/u");
        for path in ["t", "t/u", "t/u/cgroup.procs", "t/u/cpu.pressure", "t/cgroup.procs"] {
            place.stat(path);
        }
        place.chmod("t/u/cgroup.procs", 0o600);
        place.stat("t/u/cgroup.procs");
    });
}

#[test]
fn members() {
    compare(|place| {
        let mut process = Process::new();
        let pid = process.pid();
        place.mkdir("t");
        place.mkdir("t/u");
        for text in
            [format!("{pid}"), format!(" {pid}\n"), format!("{pid:#x}"), format!("0{pid:o}")]
        {
            place.write_quietly("t/cgroup.procs", &text);
        }
        let read = |path: &str| place.read_about(path, pid);
        for name in ["cgroup.procs", "cgroup.threads", "cgroup.events"] {
            read(&format!("t/{name}"));
        }
        place.rmdir("t");
        // Threads stay in the domain of their process.
        place.write_quietly("t/cgroup.threads", &pid.to_string());
        place.write_quietly("t/u/cgroup.threads", &pid.to_string());
        place.write_quietly("t/u/cgroup.procs", &pid.to_string());
        for path in ["t/cgroup.events", "t/u/cgroup.events", "t/cgroup.procs", "t/u/cgroup.procs"] {
            read(path);
        }
        place.rmdir("t/u");
        for none in ["4194305", "2147483647", "-1", "1 2", "99999999999"] {
            place.write("t/cgroup.procs", none);
            place.write("t/cgroup.threads", none);
        }
        // A thread of the kernel that makes the others.
        place.write("t/cgroup.procs", "2");
        process.exit();
        read("t/u/cgroup.procs");
        read("t/cgroup.events");
        place.write_quietly("t/cgroup.procs", &pid.to_string());
        read("t/cgroup.procs");
        process.wait();
        place.write_quietly("t/cgroup.procs", &pid.to_string());
        place.rmdir("t/u");
        place.rmdir("t");
    });
}

#[test]
fn zero_is_the_writer_whichever_thread_it_is() {
    compare(|place| {
        place.mkdir("t");
        let procs = place.at("t/cgroup.procs");
        let script = "echo 0 > \"$0\" && read pid < \"$0\" && test $pid = $$ && echo inside";
        let output = std::process::Command::new("sh").args(["-c", script]).arg(procs).output();
        place.note("sh", &String::from_utf8_lossy(&output.unwrap().stdout));
        // This test runs on a thread that does not lead its process.
        place.write("t/cgroup.procs", "0");
        place.read_about("t/cgroup.procs", std::process::id());
        place.write("/cgroup.procs", "0");
        place.read_about("t/cgroup.procs", std::process::id());
    });
}

#[test]
fn killing() {
    compare(|place| {
        let (mut first, mut second) = (Process::new(), Process::new());
        place.mkdir("t");
        place.mkdir("t/u");
        place.write_quietly("t/cgroup.procs", &first.pid().to_string());
        place.write_quietly("t/u/cgroup.procs", &second.pid().to_string());
        place.write("t/cgroup.kill", "0");
        place.write("t/cgroup.kill", "1");
        place.note("first", &format!("{:?}", first.ended_by()));
        place.note("second", &format!("{:?}", second.ended_by()));
        place.read("t/cgroup.events");
        place.read("t/u/cgroup.procs");
    });
}

#[test]
fn freezing() {
    compare(|place| {
        let process = Process::new();
        place.mkdir("t");
        place.mkdir("t/u");
        place.write_quietly("t/u/cgroup.procs", &process.pid().to_string());
        place.write("t/cgroup.freeze", "1");
        let says = |path: &str, line: &str| {
            let path = place.at(path);
            eventually(line, || fs::read_to_string(&path).unwrap().contains(line));
        };
        says("t/u/cgroup.events", "frozen 1");
        says("t/cgroup.events", "frozen 1");
        place.read("t/u/cgroup.freeze");
        place.read("t/cgroup.freeze");
        place.mkdir("t/v");
        place.read("t/v/cgroup.events");
        place.write("t/u/cgroup.freeze", "1");
        place.write("t/cgroup.freeze", "0");
        says("t/cgroup.events", "frozen 0");
        place.read("t/v/cgroup.events");
        says("t/u/cgroup.events", "frozen 1");
        place.read("t/u/cgroup.freeze");
        place.write("t/u/cgroup.freeze", "0");
        says("t/u/cgroup.events", "frozen 0");
        let frozen = fs::read_to_string(place.at("t/cgroup.stat.local")).unwrap();
        let frozen = frozen.strip_prefix("frozen_usec ").map(|text| text.trim() != "0");
        place.note("cgroup.stat.local has counted", &format!("{frozen:?}"));
    });
}

#[test]
fn controllers() {
    compare(|place| {
        let Some(controller) = place.controller() else { return };
        place.mkdir("t");
        place.mkdir("t/u");
        let control = |path: &str, text: &str| {
            let text = text.replace("CTL", &controller);
            place.write_about(&format!("{path}/cgroup.subtree_control"), &text, &controller);
            place.read_about_name(&format!("{path}/cgroup.subtree_control"), &controller);
        };
        // The group above passes it on; this one does not yet.
        place.read_about_name("t/cgroup.controllers", &controller);
        place.read("t/u/cgroup.controllers");
        for text in [
            "CTL",
            "*CTL",
            "+nosuch",
            "+",
            "-",
            "\n",
            "+CTL\t-CTL",
            "+CTL,-CTL",
            "+CTL x",
            "+ CTL",
            "++CTL",
            "+CTL",
            "+CTL",
            " +CTL  -CTL",
            "-CTL +CTL",
            "-CTL",
            "-CTL",
            "+cpuacct",
            "+devices",
        ] {
            control("t", text);
            control("t/u", text);
        }
        control("t", "+CTL");
        control("t/u", "+CTL");
        control("t", "-CTL");
        let process = Process::new();
        let pid = process.pid().to_string();
        place.write_quietly("t/cgroup.procs", &pid);
        place.write_quietly("t/u/cgroup.procs", &pid);
        control("t/u", "-CTL");
        place.write_quietly("t/u/cgroup.procs", &pid);
        control("t/u", "+CTL");
        control("t", "-CTL");
        place.write_quietly("t/cgroup.procs", &pid);
        control("t", "+CTL");
        place.read("t/cgroup.type");
        place.read("t/u/cgroup.type");
        place.write("t/u/cgroup.type", "domain");
        // A group below that has a name of the controller's files.
        let file = place.controller_files("").into_iter().next().expect("it has files");
        control("t", "-CTL");
        place.write_quietly("/cgroup.procs", &pid);
        let path = format!("t/u/{file}");
        place.note("mkdir", &format!("{:?}", fs::create_dir(place.at(&path)).is_ok()));
        control("t", "+CTL");
        place.note("files", &place.controller_files("t/u").len().min(2).to_string());
        fs::remove_dir(place.at(&path)).unwrap();
        control("t", "+CTL");
        let held = Fd::open(&place.at(&path));
        control("t", "-CTL");
        place.note("read", &held.read());
        place.note("files", &place.controller_files("t/u").len().to_string());
    });
}

#[test]
fn hidden_pressure() {
    compare(|place| {
        place.mkdir("t");
        place.mkdir("t/u");
        let held = Fd::open(&place.at("t/cpu.pressure"));
        place.note("trigger", &held.write("some 1000000 2000000"));
        let ino = fs::metadata(place.at("t/cpu.pressure")).unwrap().ino();
        place.write("t/cgroup.pressure", "0");
        place.note("files", &place.files("t").join(" "));
        place.note("files below", &place.files("t/u").join(" "));
        place.mkdir("t/cpu.pressure");
        place.create("t/cpu.pressure");
        place.stat("t/cpu.pressure");
        place.note("read", &held.read());
        place.note("write", &held.write("some 1000000 2000000"));
        place.note("poll", &held.poll(PollFlags::all()));
        place.write("t/cgroup.pressure", "1");
        let same = fs::metadata(place.at("t/cpu.pressure")).unwrap().ino() == ino;
        place.note("same inode", &same.to_string());
        place.note("files", &place.files("t").join(" "));
        place.note("read", &held.read());
        place.note("write", &held.write("some 1000000 2000000"));
        place.note("poll", &held.poll(PollFlags::all()));
        place.stat("t/cpu.pressure");
        place.write("t/cgroup.pressure", "1");
        place.read("t/cgroup.pressure");
        place.rmdir("t/u");
        place.rmdir("t");
    });
}

#[test]
fn triggers() {
    compare(|place| {
        place.mkdir("t");
        for text in [
            "some 150000 2000000",
            "some 150000 2000000\n",
            "some 150000 2000000\0",
            "some150000 2000000",
            "some  150000\t2000000",
            "some 0150000 02000000",
            "some 150000 2000000 junk",
            "some 150000 2000000junk",
            "some 4294967297 2000000",
            "some 4294967296 2000000",
            " some 150000 2000000",
            "Some 150000 2000000",
            "some 150000",
            "some +5 2000000",
            "some -1 2000000",
            "some 0x10 2000000",
            "some 1.5 2000000",
            "some 150000, 2000000",
            "all 150000 2000000",
            "some 0 2000000",
            "some 2000001 2000000",
            "some 2000000 2000000",
            "some 1 0",
            "some 1 10000001",
            "full 150000 2000000",
            "some",
            "full",
            "some 1 4000000",
        ] {
            for name in ["cpu", "memory", "io"] {
                let fd = Fd::open(&place.at(&format!("t/{name}.pressure")));
                place.note(&format!("{name} {text:?}"), &fd.write(text));
                place.note("again", &fd.write("some 150000 2000000"));
                place.note("and nothing", &fd.write(""));
                place.note("poll", &fd.poll(PollFlags::all()));
            }
        }
    });
}

#[test]
fn what_a_dead_descriptor_answers() {
    compare(|place| {
        place.mkdir("t");
        let names = place.files("t");
        let held: Vec<_> =
            names.iter().map(|name| Fd::open(&place.at(&format!("t/{name}")))).collect();
        let partly = Fd::open(&place.at("t/cgroup.events"));
        place.note("a part", &partly.read_part(5));
        let dir = place.open_dir("t");
        place.rmdir("t");
        for (name, fd) in names.iter().zip(&held) {
            place.note(&format!("read {name}"), &fd.read());
            place.note(&format!("write {name}"), &fd.write("1"));
            place.note(&format!("write too much to {name}"), &fd.write("x".repeat(4097)));
            place.note(&format!("poll {name}"), &fd.poll(PollFlags::all()));
            place.note(&format!("poll nothing of {name}"), &fd.poll(PollFlags::empty()));
        }
        place.note("the rest of a part", &partly.read_part(100));
        place.note("more of it", &partly.read_part(100));
        place.note("open below", &dir.open_below("cgroup.procs"));
        place.note("mkdir below", &dir.mkdir_below("u"));
        place.mkdir("t");
        place.note("read", &held[0].read());
        place.note("reopened", &held[0].reopen());
    });
}

#[test]
fn notifications() {
    compare(|place| {
        let mut process = Process::new();
        place.mkdir("t");
        place.mkdir("t/u");
        let (above, below) =
            (Fd::open(&place.at("t/cgroup.events")), Fd::open(&place.at("t/u/cgroup.events")));
        let both = |what: &str| {
            place.note(
                what,
                &format!("{} {}", above.poll(PollFlags::all()), below.poll(PollFlags::PRI)),
            );
        };
        both("fresh");
        let read = || place.note("read", &format!("{} {}", above.read(), below.read()));
        read();
        both("read");
        place.write_quietly("t/u/cgroup.procs", &process.pid().to_string());
        // The kernel holds notifications back for a hundredth of a second.
        let told = |fd: &Fd| eventually("news", || fd.poll(PollFlags::PRI) != "(empty)");
        told(&above);
        told(&below);
        both("populated");
        read();
        both("read again");
        place.write_quietly("t/cgroup.procs", &process.pid().to_string());
        told(&below);
        read();
        process.wait();
        told(&above);
        place.note("exit", &above.poll(PollFlags::PRI));
        place.note("exit, read", &above.read());
        place.write("t/cgroup.freeze", "1");
        told(&below);
        told(&above);
        place.note("frozen", &format!("{} {}", above.read(), below.read()));
    });
}
