//! What control files take: C strings, as the kernel reads them.

use kernfs::Errno;

/// Returns what was written up to the first NUL, without surrounding white space (`strstrip`).
pub(crate) fn strip(data: &[u8]) -> &[u8] {
    let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    let mut text = &data[..end];
    while let [first, rest @ ..] = text
        && is_space(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_space(*last)
    {
        text = rest;
    }
    text
}

/// The kernel's `isspace`, to which the no-break space of Latin-1 belongs.
fn is_space(byte: u8) -> bool {
    matches!(byte, 9..=13 | b' ' | 0xa0)
}

/// Reads an `int` in any C notation (`kstrtoint` with base 0).
///
/// # Errors
///
/// EINVAL: it is none. ERANGE: it does not fit.
pub(crate) fn int(text: &[u8]) -> Result<i32, Errno> {
    i32::try_from(long(text)?).map_err(|_| Errno::ERANGE)
}

/// Reads a `long long` in any C notation (`kstrtoll` with base 0).
///
/// # Errors
///
/// EINVAL: it is none. ERANGE: it does not fit.
pub(crate) fn long(text: &[u8]) -> Result<i64, Errno> {
    if let Some(rest) = text.strip_prefix(b"-") {
        let value = digits(rest)?;
        let is_negative_or_zero = value <= 1 << 63;
        return is_negative_or_zero.then(|| (value as i64).wrapping_neg()).ok_or(Errno::ERANGE);
    }
    i64::try_from(digits(text.strip_prefix(b"+").unwrap_or(text))?).map_err(|_| Errno::ERANGE)
}

fn digits(text: &[u8]) -> Result<u64, Errno> {
    let (radix, text) = radix(text);
    let digit = |byte: &u8| (*byte as char).to_digit(radix);
    let len = text.iter().position(|byte| digit(byte).is_none()).unwrap_or(text.len());
    let (number, rest) = text.split_at(len);
    let value = number
        .iter()
        .filter_map(digit)
        .try_fold(0u64, |value, digit| value.checked_mul(radix.into())?.checked_add(digit.into()));
    // What does not fit is found before what does not belong there, as in the kernel.
    match value {
        None => Err(Errno::ERANGE),
        Some(_) if number.is_empty() || !rest.is_empty() => Err(Errno::EINVAL),
        Some(value) => Ok(value),
    }
}

/// Takes off what tells the radix (`_parse_integer_fixup_radix`).
fn radix(text: &[u8]) -> (u32, &[u8]) {
    match text {
        [b'0', b'x' | b'X', rest @ ..] if rest.first().is_some_and(u8::is_ascii_hexdigit) => {
            (16, rest)
        }
        [b'0', ..] => (8, text),
        _ => (10, text),
    }
}

/// A limit that can be lifted, as `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    Max,
    At(T),
}

impl<T: std::fmt::Display> std::fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::At(limit) => limit.fmt(f),
        }
    }
}

/// Reads `max` or a number of groups (`cgroup_max_depth_write`); the largest `int` is `max`.
///
/// # Errors
///
/// EINVAL: it is neither. ERANGE: it is negative or does not fit.
pub(crate) fn count(text: &[u8]) -> Result<Limit<i32>, Errno> {
    match text {
        b"max" => Ok(Limit::Max),
        text => match int(text)? {
            i32::MAX => Ok(Limit::Max),
            limit if limit < 0 => Err(Errno::ERANGE),
            limit => Ok(Limit::At(limit)),
        },
    }
}

/// Reads 0 or 1.
///
/// # Errors
///
/// EINVAL: it is no number. ERANGE: it is another.
pub(crate) fn switch(text: &[u8]) -> Result<bool, Errno> {
    match int(text)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::ERANGE),
    }
}

/// Reads an amount of memory in bytes, rounded down to pages (`page_counter_memparse`).
///
/// Nothing at all is 0, and what exceeds 64 bits wraps, as in the kernel.
///
/// # Errors
///
/// EINVAL: something is left over.
pub(crate) fn memory(text: &[u8]) -> Result<Limit<u64>, Errno> {
    if text == b"max" {
        return Ok(Limit::Max);
    }
    let (radix, mut rest) = radix(text);
    let mut bytes: u64 = 0;
    while let [byte, after @ ..] = rest
        && let Some(digit) = (*byte as char).to_digit(radix)
    {
        bytes = bytes.wrapping_mul(radix.into()).wrapping_add(digit.into());
        rest = after;
    }
    if let [unit, after @ ..] = rest
        && let Some(power) = b"KMGTPE".iter().position(|u| *u == unit.to_ascii_uppercase())
    {
        bytes = bytes.wrapping_shl(10 * (power as u32 + 1));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Errno::EINVAL);
    }
    let pages = bytes / PAGE;
    Ok(if pages >= MOST_PAGES { Limit::Max } else { Limit::At(pages * PAGE) })
}

/// What memory is counted in, in bytes.
pub(crate) const PAGE: u64 = kernfs::PAGE_SIZE as u64;

/// More pages than that cannot be counted (`PAGE_COUNTER_MAX`).
const MOST_PAGES: u64 = i64::MAX as u64 / PAGE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_linux_6_18_reads_them() {
        // Written to cgroup.max.depth of a real group.
        let accepted: [(&[u8], i32); 8] = [
            (b"0x1", 1),
            (b"01", 1),
            (b"+1", 1),
            (b"-0", 0),
            (b" 1 ", 1),
            (b"1\n\n", 1),
            (b"1\0", 1),
            (b"2147483647", i32::MAX),
        ];
        for (text, value) in accepted {
            assert_eq!(int(strip(text)), Ok(value), "{}", text.escape_ascii());
        }
        for text in ["x", "\n", "1 1", "0x", "08", "-+1", "+-1", "", "0x1g", "-", "\x001"] {
            assert_eq!(int(strip(text.as_bytes())), Err(Errno::EINVAL), "{text:?}");
        }
        for text in ["2147483648", "99999999999", "99999999999999999999999x", "-2147483649"] {
            assert_eq!(int(text.as_bytes()), Err(Errno::ERANGE), "{text}");
        }
        assert_eq!(long(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(long(b"9223372036854775808"), Err(Errno::ERANGE));
        assert_eq!(long(b"-9223372036854775809"), Err(Errno::ERANGE));
    }

    #[test]
    fn limits_are_max_or_a_number() {
        assert_eq!(count(b"max"), Ok(Limit::Max));
        assert_eq!(count(b"2147483647"), Ok(Limit::Max));
        assert_eq!(count(b"7"), Ok(Limit::At(7)));
        assert_eq!(count(b"-1"), Err(Errno::ERANGE));
        assert_eq!(count(b"max max"), Err(Errno::EINVAL));
        assert_eq!(Limit::At(3).to_string(), "3");
        assert_eq!(Limit::<i32>::Max.to_string(), "max");
    }

    #[test]
    fn memory_is_read_with_units_and_in_pages() {
        assert_eq!(memory(b"max"), Ok(Limit::Max));
        assert_eq!(memory(b"1M"), Ok(Limit::At(1 << 20)));
        assert_eq!(memory(b"1g"), Ok(Limit::At(1 << 30)));
        assert_eq!(memory(b"4097"), Ok(Limit::At(4096)));
        assert_eq!(memory(b"0x2000"), Ok(Limit::At(8192)));
        assert_eq!(memory(b"9223372036854775807"), Ok(Limit::Max));
        assert_eq!(memory(b""), Ok(Limit::At(0)));
        for text in ["1kk", "-1", "+1", "x", "1 M", "max1"] {
            assert_eq!(memory(text.as_bytes()), Err(Errno::EINVAL), "{text}");
        }
    }
}
