//! Commands as they can be pasted into a shell.

use std::ffi::{OsStr, OsString};

use crate::printable::printable;

/// Renders words so that a shell takes them apart again.
///
/// What could steer a terminal is escaped, in the manner of bash, zsh and ksh.
pub(crate) fn line<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = printable(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_{}".contains(c);
    match () {
        () if text.as_str() != word => format!("$'{}'", escaped(word)),
        () if !text.is_empty() && text.chars().all(plain) => text,
        () => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Escapes for `$'...'`.
fn escaped(word: &OsStr) -> String {
    let escape = |&byte: &u8| match byte {
        b'\'' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    // A digit that follows would belong to the number.
    let mut out = String::new();
    for byte in word.as_encoded_bytes() {
        let was_number = out.len() >= 4 && out[out.len() - 4..].starts_with("\\x");
        if was_number && byte.is_ascii_hexdigit() {
            out.push_str("'$'");
        }
        out.push_str(&escape(byte));
    }
    out
}

/// Makes owned words of what is written here.
pub(crate) fn words<const N: usize>(words: [&str; N]) -> [OsString; N] {
    words.map(OsString::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    #[test]
    fn plain_words_stay_as_they_are() {
        assert_eq!(line(["lscpu", "--sysroot={}", "a/b"]), "lscpu --sysroot={} a/b");
        assert_eq!(line(["a b", "", "it's", "*"]), r"'a b' '' 'it'\''s' '*'");
    }

    #[test]
    fn bash_takes_apart_what_was_put_together() {
        let words: [&OsStr; 5] = [
            "plain".as_ref(),
            "tw o".as_ref(),
            "it's $HOME `x` \"y\"".as_ref(),
            OsStr::from_bytes(b"\x1b[31m\n\xff0a\\'"),
            "".as_ref(),
        ];
        let script = format!("printf '%s\\0' {}", line(words));
        let Ok(output) = Command::new("bash").args(["-c", &script]).output() else {
            eprintln!("skipped: there is no bash");
            return;
        };
        let expected: Vec<u8> =
            words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(output.stdout, expected, "{script}");
        assert!(!script.chars().any(char::is_control), "{script:?}");
    }
}
