//! What several fuzz targets are held against.

#![forbid(unsafe_code)]

use kernfs_psi::{Privilege, Resource};

/// What a trigger is, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Else some.
    pub is_full: bool,
    /// Above 0, at most the window.
    pub threshold: u64,
    /// At most 10 s.
    pub window: u64,
}

/// Takes a text word by word: `%u` takes digits after any space, and wraps.
pub fn model(text: &[u8], resource: Resource, privilege: Privilege) -> Option<Trigger> {
    let text: String = text.iter().take_while(|&&byte| byte != 0).map(|&b| char::from(b)).collect();
    let (is_full, rest) = match text.strip_prefix("some") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("full")?),
    };
    let is_space = |c: char| " \t\n\u{b}\u{c}\r\u{a0}".contains(c);
    let number = |rest: &str| -> Option<(u64, String)> {
        let rest = rest.trim_start_matches(is_space);
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &rest[..rest.len() - after.len()];
        let digit = |value: u64, c: char| (value * 10 + u64::from(c) - u64::from('0')) % (1 << 32);
        (!digits.is_empty()).then(|| (digits.chars().fold(0, digit), after.to_owned()))
    };
    let (threshold, rest) = number(rest)?;
    let (window, _) = number(&rest)?;
    let is_valid = threshold > 0
        && threshold <= window
        && window <= 10_000_000
        && (privilege == Privilege::Privileged || window % 2_000_000 == 0)
        && (is_full || resource != Resource::Irq);
    is_valid.then_some(Trigger { is_full, threshold, window })
}
