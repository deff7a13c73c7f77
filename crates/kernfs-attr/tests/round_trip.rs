//! What was shown is parsed to what it was, for every type of value, through a file.

use kernfs::{Caller, Errno, Manners, Mode, OpenFlags, Tree};
use kernfs_attr::{Attr, BitList, BitMask, Bitmap, Choice, DirExt, Hex, Text, Value, YesNo};
use proptest::prelude::*;

#[derive(Choice, Clone, Copy, Debug, PartialEq)]
#[choice(plain)]
enum Speed {
    Low,
    Full,
    SuperPlus,
}

/// Shows a value, writes what was read over another one, and returns what came of it.
fn round_trip<T: Value + Clone + Send + Sync + 'static>(value: T, other: T) -> T {
    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let attr = tree.root().add_attr("attr", Mode::RW, Attr::new(value)).unwrap();
    let file = tree.client(Caller::OWNER).open("/attr", OpenFlags::READ_WRITE).unwrap();
    let text = file.read_to_vec().unwrap();
    assert_eq!(text.last(), Some(&b'\n'));
    attr.set(other);
    assert_eq!(file.write_at(&text, 0), Ok(text.len()));
    attr.remove().unwrap().into_inner()
}

fn bitmaps() -> impl Strategy<Value = (Bitmap, Bitmap)> {
    let bitmap = |bits: usize| {
        let numbers = proptest::collection::vec(0..bits.max(1), 0..40);
        (numbers.clone(), numbers)
            .prop_map(move |(a, b)| (Bitmap::of(bits, a), Bitmap::of(bits, b)))
    };
    (0..200usize).prop_flat_map(bitmap)
}

proptest! {
    #[test]
    fn integers(a: u8, b: u16, c: u32, d: u64, e: i8, f: i16, g: i32, h: i64) {
        prop_assert_eq!(round_trip(a, 0), a);
        prop_assert_eq!(round_trip(b, 0), b);
        prop_assert_eq!(round_trip(c, 0), c);
        prop_assert_eq!(round_trip(d, 0), d);
        prop_assert_eq!(round_trip(e, 0), e);
        prop_assert_eq!(round_trip(f, 0), f);
        prop_assert_eq!(round_trip(g, 0), g);
        prop_assert_eq!(round_trip(h, 0), h);
        prop_assert_eq!(round_trip(d as usize, 0), d as usize);
        prop_assert_eq!(round_trip(h as isize, 0), h as isize);
        prop_assert_eq!(round_trip(Hex::<u32, 8>(c), Hex(0)), Hex(c));
    }

    #[test]
    fn switches(a: bool, b: bool) {
        prop_assert_eq!(round_trip(a, b), a);
        prop_assert_eq!(round_trip(YesNo(a), YesNo(b)), YesNo(a));
    }

    #[test]
    fn strings(text in "[^\0]{0,400}") {
        prop_assert_eq!(round_trip(text.clone(), String::new()), text);
    }

    #[test]
    fn lists(list in proptest::collection::vec(any::<i64>(), 0..150), array: [u16; 4]) {
        prop_assert_eq!(round_trip(list.clone(), vec![1]), list);
        prop_assert_eq!(round_trip(array, [0; 4]), array);
    }

    #[test]
    fn sets((a, b) in bitmaps()) {
        prop_assert_eq!(round_trip(BitList(a.clone()), BitList(b.clone())), BitList(a.clone()));
        prop_assert_eq!(round_trip(BitMask(a.clone()), BitMask(b)), BitMask(a));
    }

    #[test]
    fn choices(index in 0..3usize, other in 0..3usize) {
        let (value, other) = (Speed::CHOICES[index].0, Speed::CHOICES[other].0);
        prop_assert_eq!(round_trip(value, other), value);
    }

    #[test]
    fn what_displays_and_parses(address: std::net::Ipv6Addr) {
        let none = Text(std::net::Ipv6Addr::UNSPECIFIED);
        prop_assert_eq!(round_trip(Text(address), none), Text(address));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
        let tree = Tree::builder().manners(Manners::Sysfs).build();
        let number = tree.root().add_attr("number", Mode::RW, Attr::new(1i16)).unwrap();
        let file = tree.client(Caller::OWNER).open("/number", OpenFlags::READ_WRITE).unwrap();
        match file.write_at(&bytes, 0) {
            Ok(len) => prop_assert_eq!(len, bytes.len()),
            Err(errno) => {
                prop_assert!(errno == Errno::EINVAL || errno == Errno::ERANGE);
                prop_assert_eq!(number.get(), 1);
            }
        }
    }
}
