//! What values look like as text: shown, and parsed.

use std::fmt::{self, Display, Write};
use std::ops::RangeBounds;
use std::str::FromStr;

use kernfs::{Errno, PAGE_SIZE, ReadOp, WriteOp};

use crate::number::{parse_signed, parse_unsigned};

/// A value that clients can read as text.
pub trait Shown {
    /// Writes the text, without the newline at its end.
    ///
    /// # Errors
    ///
    /// Only those of `text`, which takes less than a page.
    fn show(&self, text: &mut dyn Write) -> fmt::Result;
}

/// A value that clients can also write as text.
pub trait Value: Shown + Sized {
    /// Parses text, from which a newline at the end has been taken off.
    ///
    /// # Errors
    ///
    /// EINVAL: not such a text. ERANGE: a number that the type cannot hold. Else what fits.
    fn parse(text: &str) -> Result<Self, Errno>;

    /// Parses text that is to take the place of `self`, for values whose shape stays, such as the
    /// number of bits.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse), which it does by default.
    fn parse_over(&self, text: &str) -> Result<Self, Errno> {
        Self::parse(text)
    }
}

/// A value without white space in its text, so that it can be in a list.
pub trait Word: Value {}

/// The longest text that is shown, in bytes with the newline (`sysfs_emit`: a page with a NUL).
pub const MAX_TEXT: usize = PAGE_SIZE - 1;

/// Answers a read with a value and a newline, cut off below a page (`sysfs_emit`).
pub fn emit(op: &mut ReadOp<'_>, value: &(impl Shown + ?Sized)) {
    emit_to(op.buffer(), value);
}

/// Appends a value and a newline, cut off below a page.
pub(crate) fn emit_to(text: &mut Vec<u8>, value: &(impl Shown + ?Sized)) {
    let mut page = Page { end: text.len() + MAX_TEXT, text };
    // The only error is that of a full page.
    let _ = value.show(&mut page).and_then(|()| page.write_char('\n'));
}

/// Returns what was written as text: up to a NUL, without one newline at the end.
///
/// # Errors
///
/// EINVAL: it is not UTF-8.
pub fn written<'a>(op: &WriteOp<'a>) -> Result<&'a str, Errno> {
    text_of(op.data())
}

pub(crate) fn text_of(data: &[u8]) -> Result<&str, Errno> {
    // Stores of the kernel get a C string.
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let text = std::str::from_utf8(&data[..end]).map_err(|_| Errno::EINVAL)?;
    Ok(text.strip_suffix('\n').unwrap_or(text))
}

/// Refuses what is outside of a range.
///
/// # Errors
///
/// ERANGE.
pub fn in_range<T: PartialOrd>(value: &T, range: &impl RangeBounds<T>) -> Result<(), Errno> {
    if range.contains(value) { Ok(()) } else { Err(Errno::ERANGE) }
}

/// Text that has a limit.
struct Page<'a> {
    text: &'a mut Vec<u8>,
    /// How long it may become.
    end: usize,
}

impl Write for Page<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(self.end - self.text.len());
        self.text.extend_from_slice(&text.as_bytes()[..fits]);
        if fits == text.len() {
            return Ok(());
        }
        self.end = self.text.len();
        Err(fmt::Error)
    }
}

/// Shown as `1` or `0`.
impl Shown for bool {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        text.write_char(if *self { '1' } else { '0' })
    }
}

/// What begins with `y`, `t`, `e`, `1` or `on`, or with `n`, `f`, `d`, `0` or `of`, in either case
/// (`kstrtobool` since Linux 6.15; it looks no further than that).
impl Value for bool {
    fn parse(text: &str) -> Result<Self, Errno> {
        match *text.as_bytes() {
            [b'y' | b'Y' | b't' | b'T' | b'e' | b'E' | b'1', ..] => Ok(true),
            [b'n' | b'N' | b'f' | b'F' | b'd' | b'D' | b'0', ..] => Ok(false),
            [b'o' | b'O', b'n' | b'N', ..] => Ok(true),
            [b'o' | b'O', b'f' | b'F', ..] => Ok(false),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl Word for bool {}

/// A switch that is shown as `Y` or `N`, as parameters of modules are (`param_get_bool`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct YesNo(pub bool);

impl Shown for YesNo {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        text.write_char(if self.0 { 'Y' } else { 'N' })
    }
}

impl Value for YesNo {
    fn parse(text: &str) -> Result<Self, Errno> {
        bool::parse(text).map(Self)
    }
}

impl Word for YesNo {}

macro_rules! integers {
    ($($parse:ident: $($int:ty)*;)*) => {$($(
        /// Shown in decimal.
        impl Shown for $int {
            fn show(&self, text: &mut dyn Write) -> fmt::Result {
                write!(text, "{self}")
            }
        }

        /// Decimal, octal after `0`, hexadecimal after `0x` (`kstrtoint` and the like).
        impl Value for $int {
            fn parse(text: &str) -> Result<Self, Errno> {
                $parse(text)?.try_into().map_err(|_| Errno::ERANGE)
            }
        }

        impl Word for $int {}
    )*)*};
}

integers! {
    parse_unsigned: u8 u16 u32 u64 usize;
    parse_signed: i8 i16 i32 i64 isize;
}

/// An unsigned number that is shown in hexadecimal after `0x`, with at least `DIGITS` digits.
///
/// Parsed like any other number, so that `10` is ten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<T, const DIGITS: usize = 1>(pub T);

impl<T: Into<u64> + Copy, const DIGITS: usize> Shown for Hex<T, DIGITS> {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        write!(text, "{:#0width$x}", self.0.into(), width = DIGITS + "0x".len())
    }
}

impl<T: Into<u64> + Copy + Value, const DIGITS: usize> Value for Hex<T, DIGITS> {
    fn parse(text: &str) -> Result<Self, Errno> {
        T::parse(text).map(Self)
    }
}

impl<T: Into<u64> + Copy + Value, const DIGITS: usize> Word for Hex<T, DIGITS> {}

impl Shown for str {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        text.write_str(self)
    }
}

impl Shown for &'static str {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        text.write_str(self)
    }
}

impl Shown for String {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        text.write_str(self)
    }
}

/// Any text, blanks included.
impl Value for String {
    fn parse(text: &str) -> Result<Self, Errno> {
        Ok(text.into())
    }
}

/// Shown with blanks between the elements.
impl<T: Shown> Shown for [T] {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        for (index, element) in self.iter().enumerate() {
            if index > 0 {
                text.write_char(' ')?;
            }
            element.show(text)?;
        }
        Ok(())
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        self.as_slice().show(text)
    }
}

/// Words with white space between them.
impl<T: Word> Value for Vec<T> {
    fn parse(text: &str) -> Result<Self, Errno> {
        text.split_ascii_whitespace().map(T::parse).collect()
    }
}

impl<T: Shown, const N: usize> Shown for [T; N] {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        self.as_slice().show(text)
    }
}

/// Exactly as many words; else EINVAL.
impl<T: Word, const N: usize> Value for [T; N] {
    fn parse(text: &str) -> Result<Self, Errno> {
        Vec::parse(text)?.try_into().map_err(|_| Errno::EINVAL)
    }
}

/// Anything that has [`Display`] and [`FromStr`]; what that refuses is EINVAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<T>(pub T);

impl<T: Display> Shown for Text<T> {
    fn show(&self, text: &mut dyn Write) -> fmt::Result {
        write!(text, "{}", self.0)
    }
}

impl<T: Display + FromStr> Value for Text<T> {
    fn parse(text: &str) -> Result<Self, Errno> {
        text.parse().map(Self).map_err(|_| Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &impl Shown) -> String {
        let mut text = Vec::new();
        emit_to(&mut text, value);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn switches_are_spelt_as_kstrtobool_does() {
        for yes in [
            "1", "y", "Y", "t", "T", "on", "On", "ON", "oN", "yes", "true", "10", "once", "enabled",
        ] {
            assert_eq!(bool::parse(yes), Ok(true), "{yes}");
        }
        for no in
            ["0", "n", "N", "f", "F", "off", "OFF", "of", "no", "false", "01", "0x1", "disabled"]
        {
            assert_eq!(bool::parse(no), Ok(false), "{no}");
        }
        for neither in ["", " 1", "o", "O", "ox", "2", "-1", "\n1", "a"] {
            assert_eq!(bool::parse(neither), Err(Errno::EINVAL), "{neither:?}");
        }
    }

    /// What Linux 6.18 answered to writes to `/sys/module/kernel/parameters/pause_on_oops`, an
    /// `int` whose value was 0.
    #[test]
    fn integers_are_taken_and_refused_as_by_a_parameter_of_the_kernel() {
        for data in ["0", "+0", "-0", "00", "0x0", "0X0", "0\n", "0\0junk"] {
            assert_eq!(text_of(data.as_bytes()).and_then(i32::parse), Ok(0), "{data:?}");
        }
        for data in [
            "0\n\n",
            " 0",
            "0 ",
            "0x",
            "08",
            "-",
            "99999999999junk",
            "-+0",
            "+-0",
            "--0",
            "0_0",
            "0xg",
        ] {
            let answer = text_of(data.as_bytes()).and_then(i32::parse);
            assert_eq!(answer, Err(Errno::EINVAL), "{data:?}");
        }
        for data in ["99999999999", "18446744073709551616junk"] {
            let answer = text_of(data.as_bytes()).and_then(i32::parse);
            assert_eq!(answer, Err(Errno::ERANGE), "{data:?}");
        }
    }

    #[test]
    fn numbers_are_shown_in_their_base() {
        assert_eq!(shown(&-7i8), "-7\n");
        assert_eq!(shown(&Hex::<u16, 4>(0x45e)), "0x045e\n");
        assert_eq!(shown(&Hex::<u64>(0)), "0x0\n");
        assert_eq!(Hex::<u8>::parse("0x100"), Err(Errno::ERANGE));
    }

    #[test]
    fn lists_have_blanks_between_their_elements() {
        assert_eq!(shown(&vec![1, 2, 3]), "1 2 3\n");
        assert_eq!(shown(&Vec::<u8>::new()), "\n");
        assert_eq!(Vec::parse(" 1\t2  3 "), Ok(vec![1, 2, 3]));
        assert_eq!(Vec::<u8>::parse("1,2"), Err(Errno::EINVAL));
        assert_eq!(<[u8; 3]>::parse("7 7 1"), Ok([7, 7, 1]));
        assert_eq!(<[u8; 3]>::parse("7 7"), Err(Errno::EINVAL));
        assert_eq!(shown(&["add", "change"]), "add change\n");
    }

    #[test]
    fn one_newline_and_what_follows_a_nul_are_no_part_of_the_text() {
        assert_eq!(text_of(b"7\n"), Ok("7"));
        assert_eq!(text_of(b"7\n\n"), Ok("7\n"));
        assert_eq!(text_of(b"7\0junk\xff"), Ok("7"));
        assert_eq!(text_of(b"\xff"), Err(Errno::EINVAL));
    }

    #[test]
    fn text_is_cut_off_below_a_page() {
        let mut text = b"before".to_vec();
        emit_to(&mut text, &"x".repeat(MAX_TEXT));
        assert_eq!(text.len(), "before".len() + MAX_TEXT);
        assert!(text.ends_with(b"x"), "no room for the newline");
        let wide = "\u{20ac}".repeat(PAGE_SIZE);
        assert_eq!(shown(&wide).len(), MAX_TEXT / 3 * 3, "no character is cut in pieces");
        assert_eq!(shown(&vec![1u8; 1 << 20]).len(), MAX_TEXT);
    }

    #[test]
    fn anything_that_displays_and_parses_is_a_value() {
        let address: std::net::Ipv4Addr = "127.0.0.1".parse().unwrap();
        assert_eq!(shown(&Text(address)), "127.0.0.1\n");
        assert_eq!(Text::parse("127.0.0.1"), Ok(Text(address)));
        assert_eq!(Text::<std::net::Ipv4Addr>::parse("localhost"), Err(Errno::EINVAL));
    }
}
