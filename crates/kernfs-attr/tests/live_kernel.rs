//! Formats beside those of the kernel that runs, where reading them does no harm.

use std::fs;

use kernfs_attr::{BitList, BitMask, Bitmap, Shown, Value};

fn shown(value: &impl Shown) -> String {
    let mut text = String::new();
    value.show(&mut text).unwrap();
    text.push('\n');
    text
}

/// Reads a file of the kernel; says so where there is none.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).inspect_err(|error| eprintln!("skipped: {path}: {error}")).ok()
}

#[test]
fn lists_of_cpus_and_nodes() {
    for path in [
        "/sys/devices/system/cpu/online",
        "/sys/devices/system/cpu/possible",
        "/sys/devices/system/cpu/present",
        "/sys/devices/system/cpu/offline",
        "/sys/devices/system/cpu/isolated",
        "/sys/devices/system/node/online",
        "/sys/devices/system/node/has_memory",
        "/sys/devices/system/cpu/cpu0/topology/package_cpus_list",
    ] {
        let Some(text) = read(path) else { continue };
        let set = BitList::parse(text.trim_end_matches('\n')).unwrap();
        assert_eq!(shown(&set), text, "{path}");
    }
}

#[test]
fn masks_agree_with_lists_of_the_same_cpus() {
    let cpu0 = "/sys/devices/system/cpu/cpu0/topology";
    for name in ["core_cpus", "package_cpus", "thread_siblings", "core_siblings"] {
        let Some(mask) = read(&format!("{cpu0}/{name}")) else { continue };
        let Some(list) = read(&format!("{cpu0}/{name}_list")) else { continue };
        let list = BitList::parse(list.trim_end_matches('\n')).unwrap();
        // The kernel shows as many bits as there may be CPUs, which its digits tell only roughly:
        // a leading word of n digits has 4n - 3 to 4n bits.
        let digits = mask.trim_end().replace(',', "").len();
        let shows_the_same = (4 * digits.saturating_sub(1) + 1..=4 * digits)
            .any(|bits| shown(&BitMask(Bitmap::of(bits, list.iter()))) == mask);
        assert!(shows_the_same, "{name}: {mask}");
        let parsed = BitMask(Bitmap::new(4 * digits)).parse_over(mask.trim_end()).unwrap();
        assert!(parsed.iter().eq(list.iter()), "{name}");
    }
}

#[test]
fn choices_have_one_word_in_brackets() {
    for name in ["enabled", "defrag", "shmem_enabled"] {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        let Some(text) = read(&path) else { continue };
        assert_eq!(text, as_choice(&text), "{path}");
    }
}

/// Renders the words of a choice of the kernel as ours are, whose enum is made for it.
fn as_choice(text: &str) -> String {
    use kernfs_attr::Choice;

    /// The words of the kernel's choices, by their place.
    #[derive(Choice, Clone, Copy, Debug, PartialEq)]
    enum Enabled {
        Always,
        Madvise,
        Never,
    }
    #[derive(Choice, Clone, Copy, Debug, PartialEq)]
    enum Defrag {
        Always,
        Defer,
        #[choice(name = "defer+madvise")]
        DeferMadvise,
        Madvise,
        Never,
    }
    #[derive(Choice, Clone, Copy, Debug, PartialEq)]
    enum Shmem {
        Always,
        WithinSize,
        Advise,
        Never,
        Deny,
        Force,
    }

    fn of<T: Choice>(word: &str) -> String {
        shown(&T::parse(word).unwrap())
    }

    let word = text.split(['[', ']']).nth(1).unwrap();
    match text.split_whitespace().count() {
        3 => of::<Enabled>(word),
        5 => of::<Defrag>(word),
        _ => of::<Shmem>(word),
    }
}

#[test]
fn numbers_and_switches_of_parameters() {
    let Some(text) = read("/sys/module/printk/parameters/ignore_loglevel") else { return };
    let value = kernfs_attr::YesNo::parse(text.trim_end()).unwrap();
    assert_eq!(shown(&value), text);
    let Some(text) = read("/sys/kernel/uevent_seqnum") else { return };
    assert_eq!(shown(&u64::parse(text.trim_end()).unwrap()), text);
}
