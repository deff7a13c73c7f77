//! The part of a tree that is taken away.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::GlobBuilder;
use kernfs_replay::{Entry, EntryKind, Image};

use crate::printable::printable;
use crate::wrong_usage::WrongUsage;

/// A node of the tree, with all that is below it, and the links that lead there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The path of the node, from the root of the tree, without a slash at its ends.
    pub(crate) path: Vec<u8>,
    /// The paths of the links elsewhere that lead to it or into it, through other links if need be.
    pub(crate) links: Vec<Vec<u8>>,
}

impl Part {
    /// Takes what was asked for: a path, a pattern, or `*` for each device.
    ///
    /// # Errors
    ///
    /// [`WrongUsage`]: there is nothing of the kind, or it is the whole tree.
    pub(crate) fn choose(image: &Image, wanted: &str) -> Result<Vec<Self>, WrongUsage> {
        let found = if wanted == "*" { devices(image)? } else { named(image, wanted)? };
        let links = links_of(image);
        let mut seen = HashSet::new();
        let mut parts = Vec::new();
        for entry in found {
            let path = entry.path();
            if seen.insert(path.clone()) {
                let leads_here = |(_, target): &&(Vec<u8>, Vec<u8>)| is_in(target, &path);
                let is_elsewhere = |link: &Vec<u8>| !is_in(link, &path);
                let links = links.iter().filter(leads_here).map(|(link, _)| link.clone());
                parts.push(Self { links: links.filter(is_elsewhere).collect(), path });
            }
        }
        Ok(parts)
    }

    /// Tells whether a path is that of the part, or below it.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        is_in(path, &self.path)
    }

    /// Returns the path as it can be printed.
    pub(crate) fn name(&self) -> String {
        printable(OsStr::from_bytes(&self.path))
    }
}

fn is_in(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn devices(image: &Image) -> Result<Vec<Entry<'_>>, WrongUsage> {
    let devices = image.devices();
    if devices.is_empty() {
        let why = "nothing in the tree looks like a device (a directory with a `uevent` file, or \
                   one that a class or bus lists); expected a path or pattern after --sever";
        return Err(WrongUsage::from_error(why));
    }
    Ok(devices)
}

fn named<'a>(image: &'a Image, wanted: &str) -> Result<Vec<Entry<'a>>, WrongUsage> {
    let path = wanted.trim_matches('/');
    if path.is_empty() || path == "." {
        return Err(wrong(wanted, "it is the whole tree"));
    }
    // What has the name of a pattern is meant by it; where a link leads is what goes.
    if let Some(entry) = image.resolve(path).or_else(|| image.find(path)) {
        return Ok(vec![entry]);
    }
    let glob = GlobBuilder::new(path).literal_separator(true).build();
    let glob = glob.map_err(|error| wrong(wanted, error.kind()))?.compile_matcher();
    let matches = |entry: &Entry<'_>| glob.is_match(Path::new(OsStr::from_bytes(&entry.path())));
    let found: Vec<_> = image.entries().skip(1).filter(matches).collect();
    if found.is_empty() {
        return Err(wrong(wanted, "there is nothing of that name in the tree"));
    }
    Ok(found.into_iter().map(|entry| entry.target().unwrap_or(entry)).collect())
}

/// Returns all links with what they lead to.
fn links_of(image: &Image) -> Vec<(Vec<u8>, Vec<u8>)> {
    let links = image.entries().filter(|entry| entry.kind() == EntryKind::Link);
    links.filter_map(|link| Some((link.path(), link.target()?.path()))).collect()
}

fn wrong(wanted: &str, why: impl std::fmt::Display) -> WrongUsage {
    WrongUsage::from_error(format!(
        "cannot take '{}' away: {why}; expected a path from the root of the tree, a pattern, or \
         '*' for each device",
        printable(wanted)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A tree with two devices, of which the second is in the first.
    fn image() -> Image {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["class", "devices/a/b", "devices/c"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("devices/a/uevent"), "").unwrap();
        fs::write(at("devices/a/b/value"), "1\n").unwrap();
        symlink("../devices/a", at("class/a")).unwrap();
        symlink("../devices/a/b", at("class/b")).unwrap();
        symlink("..", at("devices/a/b/device")).unwrap();
        symlink("/gone", at("class/gone")).unwrap();
        Image::record(dir.path()).unwrap()
    }

    fn paths(wanted: &str) -> Vec<String> {
        let parts = Part::choose(&image(), wanted).unwrap();
        parts.iter().map(Part::name).collect()
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_through_links() {
        assert_eq!(paths("devices/c"), ["devices/c"]);
        assert_eq!(paths("/devices/c/"), ["devices/c"]);
        assert_eq!(paths("class/b"), ["devices/a/b"]);
        assert_eq!(paths("class/b/value"), ["devices/a/b/value"]);
        assert_eq!(paths("class/gone"), ["class/gone"]);
    }

    #[test]
    fn a_pattern_is_each_that_it_matches_once() {
        assert_eq!(paths("devices/*"), ["devices/a", "devices/c"]);
        assert_eq!(paths("class/[ab]"), ["devices/a", "devices/a/b"]);
        assert_eq!(paths("{class,devices}/a"), ["devices/a"]);
        assert_eq!(paths("**/value"), ["devices/a/b/value"]);
    }

    #[test]
    fn a_star_is_each_device() {
        assert_eq!(paths("*"), ["devices/a", "devices/a/b"]);
    }

    #[test]
    fn links_from_elsewhere_are_known() {
        let image = image();
        let links = |wanted| Part::choose(&image, wanted).unwrap()[0].links.clone();
        assert_eq!(links("devices/a"), [&b"class/a"[..], b"class/b"]);
        assert_eq!(links("devices/a/b"), [b"class/b"]);
        assert_eq!(links("devices/c"), [b""; 0]);
    }

    #[test]
    fn what_is_below_is_told_by_whole_names() {
        let part = Part { path: b"a/b".to_vec(), links: Vec::new() };
        assert!(part.has(b"a/b") && part.has(b"a/b/c"));
        assert!(!part.has(b"a/bc") && !part.has(b"a") && !part.has(b"b/a/b"));
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_was_expected() {
        for wanted in ["", "/", ".", "gone", "devices/x*", "[", "../devices/c"] {
            let error = Part::choose(&image(), wanted).unwrap_err().to_string();
            assert!(error.contains("; expected a path from the root"), "{wanted}: {error}");
        }
    }
}
