//! The part of a tree that is taken away.

use std::collections::HashSet;
use std::path::Path;

use globset::GlobBuilder;
use kernfs_replay::{Entry, EntryKind, Image};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

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
