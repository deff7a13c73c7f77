//! What a stall file takes and shows.

use std::fmt;

use kernfs::Errno;
use kernfs_psi::{Share, Stall};

use crate::parse::strip;

/// For which shares of the time a group is to stall; as text, what a stall file shows.
///
/// What a stall file shows can be written to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StallShares {
    /// Some of it.
    pub some: Share,
    /// All of it; what stalls as a whole is stalled in part as well, whatever `some` says.
    pub full: Share,
}

impl StallShares {
    /// Applies what is written to a stall file: `some 30%`, `full 12.5%`, both of them in any order
    /// with white space between, or `0` for neither.
    ///
    /// What is not named stays as it is. The sign of percent belongs to the number; only a bare 0 can
    /// do without. Digits after the fourth of the fraction count for nothing. A NUL ends the text.
    ///
    /// # Errors
    ///
    /// EINVAL: it is nothing of that, or names one twice. ERANGE: more than 100 %.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernfs_cgroup::rehearsal::StallShares;
    ///
    /// let shares = StallShares::default().changed_by(b"some 30% full 12.5%\n")?;
    /// assert_eq!(shares.to_string(), "some 30%\nfull 12.5%\n");
    /// assert_eq!(shares.changed_by(b"0\n")?, StallShares::default());
    /// # Ok::<(), kernfs::Errno>(())
    /// ```
    pub fn changed_by(self, text: &[u8]) -> Result<Self, Errno> {
        let text = strip(text);
        if text == b"0" {
            return Ok(Self::default());
        }
        let mut words = text.split(|byte| is_space(*byte)).filter(|word| !word.is_empty());
        let (mut some, mut full) = (None, None);
        while let Some(word) = words.next() {
            let share = match word {
                b"some" => &mut some,
                b"full" => &mut full,
                _ => return Err(Errno::EINVAL),
            };
            if share.is_some() {
                return Err(Errno::EINVAL);
            }
            *share = Some(percent(words.next().ok_or(Errno::EINVAL)?)?);
        }
        if some.is_none() && full.is_none() {
            return Err(Errno::EINVAL);
        }
        Ok(Self { some: some.unwrap_or(self.some), full: full.unwrap_or(self.full) })
    }

    /// Returns the share of one of the two.
    #[must_use]
    pub const fn of(self, stall: Stall) -> Share {
        match stall {
            Stall::Some => self.some,
            Stall::Full => self.full,
        }
    }
}

impl fmt::Display for StallShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "some {}", Percent(self.some))?;
        writeln!(f, "full {}", Percent(self.full))
    }
}

/// White space as [`strip`] has it.
fn is_space(byte: u8) -> bool {
    strip(&[byte]).is_empty() && byte != 0
}

/// Millionths in a percent.
const PERCENT: u32 = 10_000;

/// Reads `12.5%`, or a bare 0.
fn percent(word: &[u8]) -> Result<Share, Errno> {
    let Some(number) = word.strip_suffix(b"%") else {
        return if word == b"0" { Ok(Share::NONE) } else { Err(Errno::EINVAL) };
    };
    let (whole, fraction) = match number.iter().position(|&byte| byte == b'.') {
        Some(point) => (&number[..point], Some(&number[point + 1..])),
        None => (number, None),
    };
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number(whole) || !fraction.is_none_or(is_number) {
        return Err(Errno::EINVAL);
    }
    let value = |digit: &u8| u32::from(digit - b'0');
    let whole = whole.iter().try_fold(0u32, |whole, digit| {
        let whole = whole * 10 + value(digit);
        (whole <= 100).then_some(whole).ok_or(Errno::ERANGE)
    })?;
    let places = [PERCENT / 10, PERCENT / 100, PERCENT / 1000, PERCENT / 10_000];
    let digits = fraction.unwrap_or_default();
    let fraction: u32 = digits.iter().zip(places).map(|(digit, place)| value(digit) * place).sum();
    let has_rest = digits.iter().any(|&digit| digit != b'0');
    if whole == 100 && has_rest {
        return Err(Errno::ERANGE);
    }
    Ok(Share::from_millionths(whole * PERCENT + fraction))
}

/// A share as `12.5%`.
struct Percent(Share);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millionths = self.0.millionths();
        let (whole, fraction) = (millionths / PERCENT, millionths % PERCENT);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        let fraction = format!("{fraction:04}");
        write!(f, "{whole}.{}%", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> Result<String, Errno> {
        StallShares::default().changed_by(text.as_bytes()).map(|shares| shares.to_string())
    }

    #[test]
    fn shares_are_percents() {
        for (text, shown) in [
            ("some 30%", "some 30%\nfull 0%\n"),
            ("full 12.5%\n", "some 0%\nfull 12.5%\n"),
            ("  some\t1%\nfull 100.0000%\n", "some 1%\nfull 100%\n"),
            ("full 0.0001% some 99.9999%", "some 99.9999%\nfull 0.0001%\n"),
            ("some 0.00009%", "some 0%\nfull 0%\n"),
            ("some 007%", "some 7%\nfull 0%\n"),
            ("some 0", "some 0%\nfull 0%\n"),
            ("some 5%\0junk", "some 5%\nfull 0%\n"),
            ("0\n", "some 0%\nfull 0%\n"),
        ] {
            assert_eq!(set(text).as_deref(), Ok(shown), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = StallShares::default().changed_by(b"some 30% full 10%").unwrap();
        assert_eq!(before.changed_by(b"some 0").unwrap().to_string(), "some 0%\nfull 10%\n");
        assert_eq!(before.changed_by(b"full 20%").unwrap().to_string(), "some 30%\nfull 20%\n");
        assert_eq!(before.changed_by(b"0").unwrap(), StallShares::default());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            " ",
            "\n",
            "30%",
            "some",
            "some%",
            "some 30",
            "some 30 %",
            "some 30%%",
            "some .5%",
            "some 5.%",
            "some -1%",
            "some +1%",
            "some 1e1%",
            "some 0x1%",
            "SOME 1%",
            "some 1% 2%",
            "some 1% some 2%",
            "some 1% none 2%",
            "some 1%, full 1%",
            "00",
            "0 0",
            "some ١%",
        ] {
            assert_eq!(set(text), Err(Errno::EINVAL), "{text:?}");
        }
        for text in ["some 101%", "full 100.0001%", "some 4294967396%", "full 100.00001%"] {
            assert_eq!(set(text), Err(Errno::ERANGE), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let changed = StallShares::default().changed_by(&bytes);
            prop_assert!(matches!(changed, Ok(_) | Err(Errno::EINVAL | Errno::ERANGE)));
        }

        #[test]
        fn what_nearly_is_one_is_taken_or_refused(text in "(some|full|0|%| |\n|[0-9]{1,12}|\\.){0,9}") {
            let changed = StallShares::default().changed_by(text.as_bytes());
            prop_assert!(matches!(changed, Ok(_) | Err(Errno::EINVAL | Errno::ERANGE)));
        }

        #[test]
        fn what_is_shown_can_be_written(some in 0..=1_000_000u32, full in 0..=1_000_000u32) {
            let [some, full] = [some, full].map(Share::from_millionths);
            let shares = StallShares { some, full };
            let shown = shares.to_string();
            prop_assert_eq!(StallShares::default().changed_by(shown.as_bytes()), Ok(shares));
        }
    }
}
