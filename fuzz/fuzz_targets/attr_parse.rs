//! Any bytes as a write to an attribute of each type of value: taken, or refused with an error that
//! the kernel would give; and what was taken is shown, and then parsed to the same.

#![no_main]

use std::cell::OnceCell;

use kernfs::{Caller, Errno, Manners, Mode, OpenFile, OpenFlags, Tree};
use kernfs_attr::device::Sysfs;
use kernfs_attr::{
    Attr, BitList, BitMask, Bitmap, Choice, ChoiceStyle, DirExt, Exposed, Hex, Value, YesNo,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thread_local! {
        static FILES: OnceCell<Files> = const { OnceCell::new() };
    }
    let Some((&which, bytes)) = bytes.split_first() else { return };
    FILES.with(|files| {
        let files = files.get_or_init(Files::new);
        files.write(which, bytes);
    });
});

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    Low,
    Full,
}

impl Choice for Speed {
    const CHOICES: &'static [(Self, &'static str)] = &[(Self::Low, "low"), (Self::Full, "full")];
    const STYLE: ChoiceStyle = ChoiceStyle::Plain;
}

/// A file of each type, as something that takes bytes.
struct Files {
    checks: Vec<Box<dyn Fn(&[u8])>>,
    _sysfs: Sysfs,
    _tree: Tree,
}

impl Files {
    fn new() -> Self {
        let tree = Tree::builder().manners(Manners::Sysfs).build();
        let sysfs = Sysfs::new(tree.root()).unwrap();
        let checks = vec![
            check(&tree, "bool", false),
            check(&tree, "yes_no", YesNo(false)),
            check(&tree, "u8", 0u8),
            check(&tree, "u64", 0u64),
            check(&tree, "i8", 0i8),
            check(&tree, "i64", 0i64),
            check(&tree, "hex", Hex::<u32, 4>(0)),
            check(&tree, "string", String::new()),
            check(&tree, "list", Vec::<i32>::new()),
            check(&tree, "array", [0u16; 3]),
            check(&tree, "bit_list", BitList(Bitmap::new(77))),
            check(&tree, "bit_list_64", BitList(Bitmap::new(64))),
            check(&tree, "bit_mask", BitMask(Bitmap::new(77))),
            check(&tree, "bit_mask_0", BitMask(Bitmap::new(0))),
            check(&tree, "choice", Speed::Low),
            Box::new(without_bits::<BitList>),
            Box::new(without_bits::<BitMask>),
            uevent(&tree, &sysfs),
        ];
        Self { checks, _sysfs: sysfs, _tree: tree }
    }

    fn write(&self, which: u8, bytes: &[u8]) {
        self.checks[usize::from(which) % self.checks.len()](bytes);
    }
}

/// Adds an attribute; the check writes, and if that is taken, reads and writes again.
fn check<T>(tree: &Tree, name: &str, value: T) -> Box<dyn Fn(&[u8])>
where
    T: Value + Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static,
{
    let attr: Exposed<Attr<T>> = tree.root().add_attr(name, Mode::RW, Attr::new(value)).unwrap();
    let file = open(tree, name);
    Box::new(move |bytes| {
        let before = attr.get();
        match file.write_at(bytes, 0) {
            Ok(len) => assert_eq!(len, bytes.len().min(kernfs::PAGE_SIZE)),
            Err(errno) => {
                let known = [Errno::EINVAL, Errno::ERANGE, Errno::EOVERFLOW];
                assert!(known.contains(&errno), "{errno}");
                assert_eq!(attr.get(), before, "nothing was taken");
            }
        }
        let value = attr.get();
        let text = file.read_to_vec().unwrap();
        // Text that fills a page has lost its end.
        if text.len() < kernfs_attr::MAX_TEXT {
            assert_eq!(text.last(), Some(&b'\n'));
            assert_eq!(file.write_at(&text, 0), Ok(text.len()));
            assert_eq!(attr.get(), value);
        }
    })
}

/// Parses a set that has no number of bits yet.
fn without_bits<T: Value>(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = T::parse(text);
    }
}

fn uevent(tree: &Tree, sysfs: &Sysfs) -> Box<dyn Fn(&[u8])> {
    let class = sysfs.add_class("fuzz").unwrap();
    let device = sysfs.device("device").class(&class).register(()).unwrap();
    let file = open(tree, "class/fuzz/device/uevent");
    let sysfs = sysfs.clone();
    Box::new(move |bytes| {
        let before = sysfs.uevent_seqnum();
        match file.write_at(bytes, 0) {
            Ok(_) => assert_eq!(sysfs.uevent_seqnum() - before, u64::from(!bytes.is_empty())),
            Err(errno) => {
                assert!(errno == Errno::EINVAL || errno == Errno::ENOMEM, "{errno}");
                assert_eq!(sysfs.uevent_seqnum(), before);
            }
        }
        assert!(device.env().is_ok());
    })
}

fn open(tree: &Tree, path: &str) -> OpenFile {
    tree.client(Caller::OWNER).open(path, OpenFlags::READ_WRITE).unwrap()
}
