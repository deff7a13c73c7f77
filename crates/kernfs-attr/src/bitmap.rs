//! Sets of numbers, such as CPUs, in the two formats of the kernel (`lib/bitmap-str.c`).

use std::fmt;
use std::ops::{Deref, DerefMut, RangeInclusive};

use kernfs::Errno;

use crate::number::leading_digits;
use crate::value::{Shown, Value};

/// The most bits that a set may have: those of the largest `CONFIG_NR_CPUS`.
pub const MAX_BITS: usize = 8192;

/// A set of numbers below a limit, its number of bits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bitmap {
    /// From the lowest bit up; bits beyond the limit are 0.
    words: Vec<u32>,
    bits: usize,
}

impl Bitmap {
    /// Makes an empty set of at most [`MAX_BITS`] bits.
    #[must_use]
    pub fn new(bits: usize) -> Self {
        let bits = bits.min(MAX_BITS);
        Self { words: vec![0; bits.div_ceil(32)], bits }
    }

    /// Makes a set of so many bits that contains the numbers; those beyond are left out.
    #[must_use]
    pub fn of(bits: usize, numbers: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::new(bits);
        for number in numbers {
            set.insert(number);
        }
        set
    }

    /// Returns the number of bits.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Tells whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        self.words.get(number / 32).is_some_and(|word| word & (1 << (number % 32)) != 0)
    }

    /// Puts a number in; tells whether that is below the limit.
    pub fn insert(&mut self, number: usize) -> bool {
        if number < self.bits {
            self.words[number / 32] |= 1 << (number % 32);
        }
        number < self.bits
    }

    /// Takes a number out.
    pub fn remove(&mut self, number: usize) {
        if number < self.bits {
            self.words[number / 32] &= !(1 << (number % 32));
        }
    }

    /// Returns how many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Tells whether no number is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Returns the numbers in the set, in their order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bits).filter(|number| self.contains(*number))
    }

    /// Returns the runs of numbers in the set.
    fn runs(&self) -> impl Iterator<Item = RangeInclusive<usize>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = (next..self.bits).find(|number| self.contains(*number))?;
            let last = (first..self.bits).take_while(|number| self.contains(*number)).last()?;
            next = last + 1;
            Some(first..=last)
        })
    }

    /// Drops the bits above the highest number in the set.
    fn shrink(mut self) -> Self {
        self.bits = self.iter().last().map_or(0, |last| last + 1);
        self.words.truncate(self.bits.div_ceil(32));
        self
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A set that is shown as a list of ranges: `0-3,8` (`%*pbl`).
///
/// Written in the same way, also with `all`, `N` for the last bit, and `0-31:2/8` for the first 2 of
/// each 8 (`bitmap_parselist`). What is written to an attribute is held to the number of bits that
/// it has; without one (in an [`Action`](crate::Action), say), the set has as many as it needs, and
/// `all` and `N` are EINVAL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitList(pub Bitmap);

/// A set that is shown as a mask of words of 32 bits: `ff,ffffffff` (`%*pb`).
///
/// Written in the same way (`bitmap_parse`). What is written to an attribute is held to the number
/// of bits that it has; without one, the set has as many as it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BitMask(pub Bitmap);

impl Shown for BitList {
    fn show(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        for (index, run) in self.0.runs().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match run.start() == run.end() {
                true => write!(text, "{comma}{}", run.start())?,
                false => write!(text, "{comma}{}-{}", run.start(), run.end())?,
            }
        }
        Ok(())
    }
}

/// EINVAL: not such a list. ERANGE: a number beyond the last bit. EOVERFLOW: beyond 32 bits.
impl Value for BitList {
    fn parse(text: &str) -> Result<Self, Errno> {
        Ok(Self(parse_list(text, MAX_BITS, None)?.shrink()))
    }

    fn parse_over(&self, text: &str) -> Result<Self, Errno> {
        parse_list(text, self.bits(), Some(self.bits().saturating_sub(1))).map(Self)
    }
}

impl Shown for BitMask {
    fn show(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let top = match self.bits() % 32 {
            0 => 32,
            rest => rest,
        };
        let mut digits = top.div_ceil(4);
        for (index, word) in self.0.words.iter().rev().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(text, "{comma}{word:0digits$x}")?;
            digits = 8;
        }
        Ok(())
    }
}

/// EINVAL: not such a mask. EOVERFLOW: a bit beyond the last, or more than 8 digits in a word.
impl Value for BitMask {
    fn parse(text: &str) -> Result<Self, Errno> {
        Ok(Self(parse_mask(text, MAX_BITS)?.shrink()))
    }

    fn parse_over(&self, text: &str) -> Result<Self, Errno> {
        parse_mask(text, self.bits()).map(Self)
    }
}

macro_rules! derefs_to_bitmap {
    ($($set:ident)*) => {$(
        impl Deref for $set {
            type Target = Bitmap;

            fn deref(&self) -> &Bitmap {
                &self.0
            }
        }

        impl DerefMut for $set {
            fn deref_mut(&mut self) -> &mut Bitmap {
                &mut self.0
            }
        }
    )*};
}

derefs_to_bitmap!(BitList BitMask);

/// Parses a list of ranges (`bitmap_parselist`); `last` is what `N` stands for.
fn parse_list(text: &str, bits: usize, last: Option<usize>) -> Result<Bitmap, Errno> {
    let mut set = Bitmap::new(bits);
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(is_separator);
        if rest.is_empty() {
            return Ok(set);
        }
        let region;
        (region, rest) = Region::parse(rest, last)?;
        region.check(bits)?;
        region.enter(&mut set);
    }
}

/// The first `used` numbers of each `group` from `start` to `end`.
struct Region {
    start: usize,
    end: usize,
    used: usize,
    group: usize,
}

impl Region {
    /// Parses `N`, `N-N`, `all`, each of the latter two perhaps with `:N/N`
    /// (`bitmap_parse_region`).
    fn parse(text: &str, last: Option<usize>) -> Result<(Self, &str), Errno> {
        let number = |text| parse_number(text, last);
        let (start, end, rest);
        if text.get(..3).is_some_and(|all| all.eq_ignore_ascii_case("all")) {
            (start, end, rest) = (0, last.ok_or(Errno::EINVAL)?, &text[3..]);
        } else {
            let (first, after) = number(text)?;
            if is_end_of_region(after) {
                return Ok((Self::plain(first, first), after_region(after)));
            }
            let after = after.strip_prefix('-').ok_or(Errno::EINVAL)?;
            let (last, after) = number(after)?;
            (start, end, rest) = (first, last, after);
        }
        if is_end_of_region(rest) {
            return Ok((Self::plain(start, end), after_region(rest)));
        }
        let (used, rest) = number(rest.strip_prefix(':').ok_or(Errno::EINVAL)?)?;
        let (group, rest) = number(rest.strip_prefix('/').ok_or(Errno::EINVAL)?)?;
        Ok((Self { start, end, used, group }, rest))
    }

    fn plain(start: usize, end: usize) -> Self {
        Self { start, end, used: end + 1, group: end + 1 }
    }

    /// Refuses what makes no sense, or is beyond the last bit (`bitmap_check_region`).
    fn check(&self, bits: usize) -> Result<(), Errno> {
        if self.start > self.end || self.group == 0 || self.used > self.group {
            return Err(Errno::EINVAL);
        }
        if self.end >= bits { Err(Errno::ERANGE) } else { Ok(()) }
    }

    fn enter(&self, set: &mut Bitmap) {
        for first in (self.start..=self.end).step_by(self.group) {
            for number in first..=self.end.min(first + self.used.saturating_sub(1)) {
                if self.used > 0 {
                    set.insert(number);
                }
            }
        }
    }
}

/// Parses a number, or `N` for the last one (`bitmap_getnum`).
fn parse_number(text: &str, last: Option<usize>) -> Result<(usize, &str), Errno> {
    if let Some(rest) = text.strip_prefix('N') {
        return Ok((last.ok_or(Errno::EINVAL)?, rest));
    }
    let (number, rest) = leading_digits(text, 10);
    if rest.len() == text.len() {
        return Err(Errno::EINVAL);
    }
    let number = number.and_then(|number| u32::try_from(number).ok()).ok_or(Errno::EOVERFLOW)?;
    Ok((number as usize, rest))
}

/// Parses words of hexadecimal digits, the last one first (`bitmap_parse`).
fn parse_mask(text: &str, bits: usize) -> Result<Bitmap, Errno> {
    let mut set = Bitmap::new(bits);
    let line = text.split('\n').next().unwrap_or_default();
    let words = line.split(is_separator).filter(|word| !word.is_empty());
    for (index, word) in words.rev().enumerate() {
        if index >= set.words.len() {
            return Err(Errno::EOVERFLOW);
        }
        // Looked at from its end, eight digits at most, so an excess one comes before a wrong one.
        let mut digits = word.chars().rev();
        if !digits.by_ref().take(8).all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Errno::EINVAL);
        }
        match digits.next() {
            None => {}
            Some(digit) if digit.is_ascii_hexdigit() => return Err(Errno::EOVERFLOW),
            Some(_) => return Err(Errno::EINVAL),
        }
        set.words[index] = u32::from_str_radix(word, 16).map_err(|_| Errno::EINVAL)?;
    }
    let top = set.words.last().copied().unwrap_or_default();
    let beyond = !bits.is_multiple_of(32) && top >> (bits % 32) != 0;
    if beyond { Err(Errno::EOVERFLOW) } else { Ok(set) }
}

/// What is between the parts of a list or mask (`__end_of_region`).
fn is_separator(c: char) -> bool {
    c == ',' || c == '\u{b}' || c.is_ascii_whitespace()
}

/// Returns what follows a region: nothing, if its line ends with it.
fn after_region(rest: &str) -> &str {
    if rest.starts_with('\n') { "" } else { rest }
}

fn is_end_of_region(rest: &str) -> bool {
    rest.chars().next().is_none_or(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bits: usize, text: &str) -> Result<Vec<usize>, Errno> {
        BitList(Bitmap::new(bits)).parse_over(text).map(|set| set.iter().collect())
    }

    fn mask(bits: usize, text: &str) -> Result<Vec<usize>, Errno> {
        BitMask(Bitmap::new(bits)).parse_over(text).map(|set| set.iter().collect())
    }

    fn shown(value: &impl Shown) -> String {
        let mut text = String::new();
        value.show(&mut text).unwrap();
        text
    }

    #[test]
    fn sets_are_shown_as_lists_and_masks() {
        let set = Bitmap::of(40, [0, 1, 2, 3, 8, 39]);
        assert_eq!(shown(&BitList(set.clone())), "0-3,8,39");
        assert_eq!(shown(&BitMask(set)), "80,0000010f");
        assert_eq!(shown(&BitMask(Bitmap::of(40, 0..40))), "ff,ffffffff");
        assert_eq!(shown(&BitMask(Bitmap::of(2, 0..2))), "3");
        assert_eq!(shown(&BitMask(Bitmap::new(64))), "00000000,00000000");
        assert_eq!(shown(&BitList(Bitmap::new(64))), "");
        assert_eq!(shown(&BitMask(Bitmap::new(0))), "");
    }

    #[test]
    fn lists_are_parsed_as_bitmap_parselist_does() {
        let odd = (1..16).step_by(2).collect::<Vec<_>>();
        for (text, set) in [
            ("", vec![]),
            ("0-3,8", vec![0, 1, 2, 3, 8]),
            (" 0 , 1 ,,2", vec![0, 1, 2]),
            ("N", vec![15]),
            ("14-N", vec![14, 15]),
            ("all", (0..16).collect()),
            ("ALL:1/4", vec![0, 4, 8, 12]),
            ("0-7:2/4", vec![0, 1, 4, 5]),
            ("1-N:1/2", odd),
            ("0-7:0/4", vec![]),
            ("0\n9", vec![0]),
            ("0,\n9", vec![0, 9]),
            ("0-1:1/19", vec![0]),
        ] {
            assert_eq!(list(16, text), Ok(set), "{text:?}");
        }
        for (text, errno) in [
            ("x", Errno::EINVAL),
            ("3-1", Errno::EINVAL),
            ("1-", Errno::EINVAL),
            ("-1", Errno::EINVAL),
            ("0x1", Errno::EINVAL),
            ("0-7:3/2", Errno::EINVAL),
            ("0-7:2", Errno::EINVAL),
            ("0-7:0/0", Errno::EINVAL),
            ("1:1/2", Errno::EINVAL),
            ("16", Errno::ERANGE),
            ("0-16", Errno::ERANGE),
            ("4294967296", Errno::EOVERFLOW),
        ] {
            assert_eq!(list(16, text), Err(errno), "{text:?}");
        }
    }

    #[test]
    fn masks_are_parsed_as_bitmap_parse_does() {
        assert_eq!(mask(40, "80,0000010f"), Ok(vec![0, 1, 2, 3, 8, 39]));
        assert_eq!(mask(40, "1,"), Ok(vec![0]));
        assert_eq!(mask(40, "1 0"), Ok(vec![32]));
        assert_eq!(mask(40, ""), Ok(vec![]));
        assert_eq!(mask(4, "f\n0"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(mask(4, "10"), Err(Errno::EOVERFLOW));
        assert_eq!(mask(32, "1,0"), Err(Errno::EOVERFLOW));
        assert_eq!(mask(64, "123456789"), Err(Errno::EOVERFLOW));
        assert_eq!(mask(64, "x12345678"), Err(Errno::EINVAL));
        assert_eq!(mask(64, "0x1"), Err(Errno::EINVAL));
        assert_eq!(mask(64, "+1"), Err(Errno::EINVAL));
    }

    #[test]
    fn a_set_without_a_number_of_bits_has_as_many_as_it_needs() {
        let set = BitList::parse("0,63").unwrap();
        assert_eq!((set.bits(), set.len()), (64, 2));
        assert_eq!(BitList::parse("N"), Err(Errno::EINVAL));
        assert_eq!(BitList::parse("all"), Err(Errno::EINVAL));
        assert_eq!(BitList::parse("8192"), Err(Errno::ERANGE));
        assert_eq!(BitMask::parse("100").unwrap().bits(), 9);
    }

    #[test]
    fn numbers_beyond_the_limit_are_left_out() {
        let mut set = Bitmap::of(8, [7, 8, 900]);
        assert!(!set.insert(8));
        set.remove(8);
        assert_eq!(set.iter().collect::<Vec<_>>(), [7]);
        set.remove(7);
        assert!(set.is_empty());
    }
}
