//! Cursors of readdir under churn.

use std::collections::{BTreeMap, BTreeSet};

use kernfs::{Caller, Dir, File, FileOptions, Mode, Show, Tag, Tree, show};
use proptest::prelude::*;

type Plain = Show<fn(&mut kernfs::ReadOp<'_>)>;

fn plain() -> Plain {
    show(|_| ())
}

#[derive(Clone, Debug)]
enum Churn {
    Add(u8),
    Remove(u8),
    Rename(u8, u8),
    Hide(u8),
    Show(u8),
    List(usize),
}

fn churn() -> impl Strategy<Value = Churn> {
    let name = 0..24_u8;
    prop_oneof![
        3 => name.clone().prop_map(Churn::Add),
        3 => name.clone().prop_map(Churn::Remove),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Churn::Rename(from, to)),
        1 => name.clone().prop_map(Churn::Hide),
        1 => name.prop_map(Churn::Show),
        4 => (1..4_usize).prop_map(Churn::List),
    ]
}

/// The files of a directory, and for each whether it was visible throughout the listing.
struct Model<'a> {
    dir: &'a Dir,
    files: BTreeMap<u8, File<Plain>>,
    throughout: BTreeSet<u64>,
}

impl Model<'_> {
    fn apply(&mut self, change: &Churn) {
        match *change {
            Churn::Add(name) => {
                if let Ok(file) = self.dir.add_file(name.to_string(), Mode::RO, plain()) {
                    self.files.insert(name, file);
                }
            }
            Churn::Remove(name) => {
                if let Some(file) = self.files.remove(&name) {
                    self.throughout.remove(&file.ino());
                    let _ = file.remove().unwrap();
                }
            }
            Churn::Rename(from, to) => {
                // What is hidden cannot be renamed.
                let may_move = |file: &File<Plain>| !file.is_hidden();
                if self.files.contains_key(&to) || !self.files.get(&from).is_some_and(may_move) {
                    return;
                }
                if let Some(file) = self.files.remove(&from) {
                    file.rename(self.dir, to.to_string()).unwrap();
                    self.files.insert(to, file);
                }
            }
            Churn::Hide(name) => {
                if let Some(file) = self.files.get(&name) {
                    self.throughout.remove(&file.ino());
                    file.hide().wait().unwrap();
                }
            }
            Churn::Show(name) => {
                if let Some(file) = self.files.get(&name) {
                    file.show();
                }
            }
            Churn::List(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is visible throughout a listing is listed exactly once, nothing is listed twice.
    #[test]
    fn a_listing_under_churn_names_each_entry_that_stays_exactly_once(
        before in prop::collection::vec(churn(), 0..40),
        during in prop::collection::vec(churn(), 0..80),
    ) {
        let tree = Tree::new();
        let mut model = Model { dir: tree.root(), files: BTreeMap::new(), throughout: BTreeSet::new() };
        before.iter().for_each(|change| model.apply(change));
        let visible = model.files.values().filter(|file| !file.is_hidden());
        model.throughout = visible.map(File::ino).collect();

        let listing = tree.client(Caller::OWNER).open_dir("/").unwrap();
        let mut cursor = 0;
        let mut listed = Vec::new();
        let mut list = |max: usize| {
            let entries = listing.entries(cursor, max).unwrap();
            prop_assert!(entries.len() <= max);
            for entry in &entries {
                prop_assert!(entry.next > cursor, "cursors increase");
                cursor = entry.next;
                listed.push(entry.inode.ino());
            }
            Ok(!entries.is_empty())
        };
        for change in &during {
            if let Churn::List(max) = *change {
                list(max)?;
            }
            model.apply(change);
        }
        while list(3)? {}

        let files = &listed[2..];
        let once: BTreeSet<_> = files.iter().copied().collect();
        prop_assert_eq!(once.len(), files.len(), "listed twice");
        prop_assert!(model.throughout.is_subset(&once), "lost: {:?}", model.throughout.difference(&once));
    }
}

#[test]
fn a_listing_shows_one_namespace_only() {
    let tree = Tree::new();
    let class = kernfs::DirOptions::new(Mode::DIR).tagged_children();
    let class = tree.root().add_dir("class", class).unwrap();
    let mut files = Vec::new();
    for at in 0..10 {
        let tagged = FileOptions::new(Mode::RO).tag(Tag(at % 2));
        files.push(class.add_file(at.to_string(), tagged, plain()).unwrap());
    }
    let names = |client: kernfs::Client| -> Vec<String> {
        let entries = client.open_dir("/class").unwrap().entries(2, 100).unwrap();
        entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
    };
    assert_eq!(names(tree.client_in(Caller::OWNER, Tag(1))), ["1", "3", "5", "7", "9"]);
    assert_eq!(names(tree.client_in(Caller::OWNER, Tag(0))), ["0", "2", "4", "6", "8"]);
    assert_eq!(names(tree.client(Caller::OWNER)), [] as [&str; 0]);
}

#[test]
fn a_listing_of_a_dead_directory_depends_on_who_removed_it() {
    struct Rmdir;
    impl kernfs::DirOps for Rmdir {
        fn rmdir(
            &self,
            dir: &kernfs::Child,
            _: &kernfs::DirOp<'_>,
        ) -> Result<kernfs::Draining, kernfs::Errno> {
            Ok(dir.sever())
        }
    }
    let tree = Tree::builder().dir_ops(Rmdir).build();
    let client = tree.client(Caller::OWNER);
    let dirs = ["owner", "client"].map(|name| tree.root().add_dir(name, Mode::DIR).unwrap());
    let opens = ["/owner", "/client"].map(|path| client.open_dir(path).unwrap());
    let [owner, _by_client] = dirs;
    owner.remove().unwrap();
    client.rmdir("/client").unwrap().wait().unwrap();
    let entries = opens[0].entries(0, 10).unwrap();
    assert_eq!(
        entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(),
        [b".".as_slice(), b".."]
    );
    assert_eq!(entries[1].inode.ino(), kernfs::ROOT_INO);
    assert_eq!(opens[1].entries(0, 10).unwrap_err(), kernfs::Errno::ENOENT);
}
