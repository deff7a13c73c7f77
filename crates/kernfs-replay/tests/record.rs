//! What is recorded of a real directory, and what is left alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use kernfs::Errno;
use kernfs_replay::{Content, Image, RecordError, Recorder, Recording};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn paths(image: &Image) -> Vec<String> {
    image.entries().skip(1).map(|entry| String::from_utf8(entry.path()).unwrap()).collect()
}

fn record(dir: &Path) -> Recording {
    Recorder::new().record_root(dir).unwrap()
}

#[test]
fn modes_sizes_and_contents_are_recorded() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "sub/value", "1\n");
    put(dir.path(), "reset", "");
    symlink("/nowhere/at//all/.", dir.path().join("link")).unwrap();
    let chmod = |path: &str, mode| {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod("sub", 0o2711);
    chmod("sub/value", 0o640);
    chmod("reset", 0o200);
    let Recording { image, report, .. } = record(dir.path());
    let value = image.find("sub/value").unwrap();
    assert_eq!((value.mode().bits(), value.size()), (0o640, 2));
    assert_eq!(value.content(), Some(&Content::Bytes((*b"1\n").into())));
    assert_eq!(image.find("sub").unwrap().mode().bits(), 0o2711);
    assert_eq!(image.find("reset").unwrap().content(), Some(&Content::Unread));
    assert_eq!(image.find("link").unwrap().link_text(), Some(&b"/nowhere/at//all/."[..]));
    assert_eq!((report.dirs, report.files, report.links, report.bytes), (2, 2, 1, 2));
    assert_eq!(report.unread, 1);
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "value", "1\n");
    // Whoever opened it to read would wait, or let a writer in.
    mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::from(0o666), 0).unwrap();
    let device =
        mknodat(CWD, dir.path().join("dev"), FileType::CharacterDevice, Mode::from(0o666), 0);
    if device.is_err() {
        eprintln!("only a pipe is tried: no device can be made");
    }
    let Recording { image, report, .. } = record(dir.path());
    assert_eq!(paths(&image), ["value"]);
    assert_eq!(report.special, 1 + usize::from(device.is_ok()));
}

#[test]
fn what_is_to_be_skipped_is_not_there() {
    let dir = TempDir::new().unwrap();
    for path in ["a/b/c", "a/b/d", "b/c", "x.bin", "a/y.bin", "real/a/b/c"] {
        put(dir.path(), path, "");
    }
    let without = |patterns: &[&str]| {
        let skip = |recorder: Recorder<'static>, pattern: &&str| recorder.skip(*pattern).unwrap();
        let recorder = patterns.iter().fold(Recorder::new(), skip);
        paths(&recorder.record_root(dir.path()).unwrap().image)
    };
    assert_eq!(without(&["b"]), ["a", "real", "x.bin", "a/y.bin", "real/a"]);
    assert_eq!(without(&["a/b", "*.bin"]), ["a", "b", "real", "b/c", "real/a"]);
    let real = fs::canonicalize(dir.path()).unwrap();
    let left = without(&[&format!("{}/{{a,real}}/", real.display()), "/b", "/*.bin"]);
    assert_eq!(left, ["b", "x.bin", "b/c"]);
    for wrong in ["", "/", "a[", "{a"] {
        let error = Recorder::new().skip(wrong).unwrap_err().to_string();
        assert!(error.contains("is not a pattern: ") && error.contains("expected"), "{error}");
    }
}

#[test]
fn directories_are_recorded_at_their_real_paths_and_once() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "a/b/value", "1\n");
    put(dir.path(), "c/value", "2\n");
    symlink("a", dir.path().join("link")).unwrap();
    let real = fs::canonicalize(dir.path()).unwrap();
    let at = real.to_str().unwrap().trim_start_matches('/').to_owned();
    let dirs = ["link", "a/b", "c", "a"].map(|name| dir.path().join(name));
    let recording = Recorder::new().record(dirs).unwrap();
    assert_eq!(recording.report.files, 2);
    let below = recording.image.subdir(&at).unwrap();
    assert_eq!(paths(&below), ["a", "c", "a/b", "c/value", "a/b/value"]);
    let mode = fs::metadata(&real).unwrap().permissions().mode() & 0o7777;
    assert_eq!(u32::from(recording.image.find(&at).unwrap().mode().bits()), mode);
    // A part first, and then what it is a part of.
    let dirs = ["a/b", "a"].map(|name| dir.path().join(name));
    let parted = Recorder::new().record(dirs).unwrap().image;
    assert_eq!(paths(&parted.subdir(&at).unwrap()), ["a", "a/b", "a/b/value"]);
}

#[test]
fn what_cannot_be_recorded_is_said() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "value", "1\n");
    let said = |path: &str| {
        let error = Recorder::new().record([dir.path().join(path)]).unwrap_err();
        assert!(matches!(error, RecordError::Dir { .. }));
        error.to_string()
    };
    assert!(said("gone").contains("gone': there is no such directory; expected a directory"));
    assert!(said("value").contains("value': it is not a directory"));
}

#[test]
fn a_huge_file_is_not_read_to_its_end() {
    let dir = TempDir::new().unwrap();
    fs::File::create(dir.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
    let image = record(dir.path()).image;
    let huge = image.find("huge").unwrap();
    assert_eq!((huge.size(), huge.content()), (1 << 40, Some(&Content::ReadError(Errno::EFBIG))));
}

#[test]
fn deep_directories_are_left_out() {
    let dir = TempDir::new().unwrap();
    let deep = "d/".repeat(kernfs_replay::limits::MAX_DEPTH + 5);
    fs::create_dir_all(dir.path().join(deep)).unwrap();
    let Recording { image, report, .. } = record(dir.path());
    assert_eq!(image.len(), 1 + kernfs_replay::limits::MAX_DEPTH + 1);
    assert_eq!(report.too_deep, 1);
}

#[test]
fn nothing_is_changed() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "value", "1\n");
    let before = fs::metadata(dir.path().join("value")).unwrap();
    let dir_before = fs::metadata(dir.path()).unwrap();
    record(dir.path());
    let after = fs::metadata(dir.path().join("value")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(
        dir_before.modified().unwrap(),
        fs::metadata(dir.path()).unwrap().modified().unwrap()
    );
}

#[test]
fn progress_is_told() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "a", "1\n");
    put(dir.path(), "b", "1\n");
    let mut seen = Vec::new();
    let recorder = Recorder::new().patience(Duration::from_secs(30)).on_progress(|progress| {
        seen.push((progress.path.file_name().unwrap().to_owned(), progress.so_far.files));
    });
    recorder.record_root(dir.path()).unwrap();
    assert_eq!(seen, [("a".into(), 0), ("b".into(), 1)]);
}
