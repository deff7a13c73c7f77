//! Names, paths and numbers as they may appear on a terminal.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Renders a name or path; what could steer a terminal, or looks like nothing, is escaped.
pub(crate) fn printable(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => text.push(c),
                // Escapes controls, the backslash, and what is invisible or reorders text.
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Renders a number of things.
pub(crate) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_many() {
        assert_eq!(plural(1, "link", "links"), "1 link");
        assert_eq!(plural(0, "link", "links"), "0 links");
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        assert_eq!(printable("cpu0/Größe 'a' \"b\" 名"), "cpu0/Größe 'a' \"b\" 名");
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(printable("a\nb\x1b[31m\r"), "a\\nb\\u{1b}[31m\\r");
        assert_eq!(printable("\u{202e}\u{9b}"), "\\u{202e}\\u{9b}");
        assert_eq!(printable(OsStr::from_bytes(b"\xff\\")), "\\xff\\\\");
    }
}
