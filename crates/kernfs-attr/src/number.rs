//! Numbers as the kernel parses them (`lib/kstrtox.c`, base 0).

use kernfs::Errno;

/// Parses an unsigned number, with or without `+` (`kstrtoull`).
///
/// # Errors
///
/// EINVAL: no number, or something behind it. ERANGE: more than 64 bits, whatever is behind it.
pub(crate) fn parse_unsigned(text: &str) -> Result<u64, Errno> {
    parse_magnitude(text.strip_prefix('+').unwrap_or(text))
}

/// Parses a number with an optional sign (`kstrtoll`).
///
/// # Errors
///
/// As for [`parse_unsigned`]; ERANGE also if it does not fit with its sign.
pub(crate) fn parse_signed(text: &str) -> Result<i64, Errno> {
    match text.strip_prefix('-') {
        Some(text) => {
            let magnitude = parse_magnitude(text)?;
            0i64.checked_sub_unsigned(magnitude).ok_or(Errno::ERANGE)
        }
        None => parse_unsigned(text)?.try_into().map_err(|_| Errno::ERANGE),
    }
}

/// Parses digits of a number after its sign (`_kstrtoull`).
fn parse_magnitude(text: &str) -> Result<u64, Errno> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', first, ..] if first.is_ascii_hexdigit() => (&text[2..], 16),
        [b'0', ..] => (text, 8),
        _ => (text, 10),
    };
    let (value, rest) = leading_digits(digits, base);
    let value = value.ok_or(Errno::ERANGE)?;
    if rest.len() == digits.len() || !rest.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(value)
}

/// Takes as many digits as there are, and returns their value, if 64 bits hold it, and the rest
/// (`_parse_integer`).
pub(crate) fn leading_digits(text: &str, base: u32) -> (Option<u64>, &str) {
    let mut value = Some(0u64);
    let mut rest = text;
    while let Some(digit) = rest.chars().next().and_then(|c| c.to_digit(base)) {
        value = value
            .and_then(|value| value.checked_mul(base.into()))
            .and_then(|value| value.checked_add(digit.into()));
        rest = &rest[1..];
    }
    (value, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn the_base_is_told_by_the_beginning() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("010", 8),
            ("0x10", 16),
            ("0XfF", 255),
            ("+7", 7),
            ("00", 0),
            ("18446744073709551615", u64::MAX),
            ("0xffffffffffffffff", u64::MAX),
            ("01777777777777777777777", u64::MAX),
        ] {
            assert_eq!(parse_unsigned(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_einval() {
        for text in ["", "+", "-", "0x", "0xg", "08", "1 ", " 1", "1\n", "++1", "-1", "1_0", "٣"] {
            assert_eq!(parse_unsigned(text), Err(Errno::EINVAL), "{text:?}");
        }
        for text in ["-+1", "+-1", "--1", "-", "- 1", "-0x"] {
            assert_eq!(parse_signed(text), Err(Errno::EINVAL), "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_erange_whatever_is_behind_it() {
        assert_eq!(parse_unsigned("18446744073709551616"), Err(Errno::ERANGE));
        assert_eq!(parse_unsigned("18446744073709551616junk"), Err(Errno::ERANGE));
        assert_eq!(parse_signed("9223372036854775808"), Err(Errno::ERANGE));
        assert_eq!(parse_signed("-9223372036854775809"), Err(Errno::ERANGE));
        assert_eq!(parse_signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_signed("-0"), Ok(0));
        assert_eq!(u8::parse("256"), Err(Errno::ERANGE));
        assert_eq!(u8::parse("256x"), Err(Errno::EINVAL));
        assert_eq!(u8::parse("-1"), Err(Errno::EINVAL), "there is no sign, as in kstrtou8");
        assert_eq!(i8::parse("-129"), Err(Errno::ERANGE));
        assert_eq!(i8::parse("-0x80"), Ok(i8::MIN));
    }
}
