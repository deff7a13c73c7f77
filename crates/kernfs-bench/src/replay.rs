//! How fast a recorded tree is up, and what it costs.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernfs::{Manners, Mode, Tree};
use kernfs_fuse::Mount;
use kernfs_replay::{Content, Draft, Image, Packing, ServeOptions, Served};

use crate::counting::{Allocated, count};
use crate::measure::{Effort, Figures};
use crate::table::Row;

/// As many as a laptop has below `/sys`.
const FILES: usize = 13_000;
const FILES_OF_A_DEVICE: usize = 10;
/// How often each step is done; the median is told.
const ROUNDS: usize = 7;
/// The most bytes that a file may cost beyond its content, as glibc takes them.
pub const MOST_BYTES: f64 = 1000.0;

pub(crate) fn measure(effort: Effort) -> Vec<Row> {
    let files = effort.size(FILES);
    let archive = archive(files);
    let rounds = effort.size(ROUNDS);
    let mut rows = times(files, &archive, rounds);

    let ((image, tree, served), all) = count(|| up(&archive));
    let content = all_contents(&image);
    rows.push(cost(
        format!("a file of {files}, beyond its content: in the image and served"),
        all,
        content,
        files,
    ));
    let (unserved, image_alone) = count(|| read(&archive));
    rows.push(cost(
        format!("a file of {files}, beyond its content: in the image"),
        image_alone,
        content,
        files,
    ));
    drop((unserved, served, tree));
    rows
}

/// Returns how many bytes a file of a tree of so many costs beyond its content, in the image and
/// served, as glibc takes them; nothing else may allocate meanwhile.
#[must_use]
pub fn bytes_of_a_served_file(files: usize) -> f64 {
    let archive = archive(files);
    let ((image, tree, served), all) = count(|| up(&archive));
    let each = (all.rounded as f64 - all_contents(&image) as f64) / files as f64;
    drop((served, tree));
    each
}

fn times(files: usize, archive: &[u8], rounds: usize) -> Vec<Row> {
    let mut steps: Vec<(&str, Vec<Duration>)> =
        ["read", "serve", "mount, and list a device"].map(|step| (step, Vec::new())).into();
    for round in 0..rounds {
        let image = timed(&mut steps[0].1, || Arc::new(read(archive)));
        let (tree, served) = timed(&mut steps[1].1, || serve(&image));
        let dir = std::env::temp_dir().join(format!("kernfs-bench-{}-{round}", std::process::id()));
        fs::create_dir(&dir).expect("the directory is new");
        let mut took = Vec::new();
        let mount = timed(&mut took, || {
            let mount = Mount::new(&tree, &dir)?;
            let listed = fs::read_dir(dir.join("devices/device-00000"));
            assert_eq!(listed.map_or(0, Iterator::count), FILES_OF_A_DEVICE.min(files));
            Ok::<_, kernfs_fuse::MountError>(mount)
        });
        match mount {
            Ok(mount) => {
                mount.unmount().expect("nobody uses it");
                steps[2].1.append(&mut took);
            }
            Err(error) => eprintln!("replay: skips the mount: {error}"),
        }
        fs::remove_dir(&dir).expect("nothing is in it");
        drop(served);
    }
    let medians = steps.into_iter().filter(|(_, times)| !times.is_empty());
    let medians: Vec<_> = medians.map(|(step, times)| (step, median(times))).collect();
    let total: Duration = medians.iter().map(|(_, time)| *time).sum();
    let mut rows: Vec<Row> = medians
        .into_iter()
        .map(|(step, time)| row(format!("{files} files from .tar.zst: {step}"), time))
        .collect();
    let all = row(format!("{files} files from .tar.zst: all of it"), total);
    rows.push(all.ratio(Figures::exact(total.as_secs_f64()), "s").target(1.0));
    rows
}

fn timed<R>(times: &mut Vec<Duration>, step: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = step();
    times.push(begun.elapsed());
    result
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn row(what: String, time: Duration) -> Row {
    Row { unit: "ns", ..Row::bytes(what, time.as_secs_f64() * 1e9) }
}

fn cost(what: String, allocated: Allocated, content: u64, files: usize) -> Row {
    let each = |total: f64| (total - content as f64) / files as f64;
    let rounded = each(allocated.rounded as f64);
    Row::bytes(what, each(allocated.bytes as f64))
        .ratio(Figures::exact(rounded / MOST_BYTES), "kB as glibc rounds")
        .target(1.0)
}

/// Makes an archive of devices with as many files, no two of which have the same content.
fn archive(files: usize) -> Vec<u8> {
    let mut draft = Draft::new(Mode::DIR);
    for number in 0..files {
        let (device, attribute) = (number / FILES_OF_A_DEVICE, number % FILES_OF_A_DEVICE);
        let path = format!("devices/device-{device:05}/attribute_{attribute}");
        let content = Content::Bytes(format!("{number}\n").into_bytes().into());
        draft.add_file(path.as_bytes(), Mode::RO, 4096, content).expect("it is new");
    }
    let mut archive = Vec::new();
    draft.finish().write(&mut archive, Packing::Zstd).expect("memory takes all");
    archive
}

fn up(archive: &[u8]) -> (Arc<Image>, Tree, Served) {
    let image = Arc::new(read(archive));
    let (tree, served) = serve(&image);
    (image, tree, served)
}

fn read(archive: &[u8]) -> Image {
    Image::read(archive).expect("it is ours")
}

fn serve(image: &Arc<Image>) -> (Tree, Served) {
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let served = image.serve(&tree, &ServeOptions::new()).expect("the tree is empty");
    (tree, served)
}

fn all_contents(image: &Image) -> u64 {
    let contents = image.entries().filter_map(|entry| entry.content());
    contents.map(|content| content.bytes().len() as u64).sum()
}
