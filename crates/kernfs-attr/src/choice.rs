//! Enums: one word of several.

use std::fmt;

use kernfs::Errno;

use crate::value::{Shown, Value};

/// An enum whose variants are words; `#[derive(Choice)]` implements it.
///
/// Shown as `[always] madvise never`, or the word alone; written as a word
/// (`sysfs_match_string`).
// Every `Choice` is a `Value`, so that it is this trait that is missing where no value is found.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no value: it has no text",
    label = "not a value",
    note = "implement `Shown` and `Value`, or wrap it: `Text<{Self}>` for what has `Display` and \
            `FromStr`, `#[derive(Choice)]` for an enum"
)]
pub trait Choice: Copy + PartialEq + 'static {
    /// All variants with their words, in the order in which they are shown.
    const CHOICES: &'static [(Self, &'static str)];

    /// How the choice is shown.
    const STYLE: ChoiceStyle = ChoiceStyle::Bracketed;

    /// Returns the word.
    fn word(self) -> &'static str {
        let found = Self::CHOICES.iter().find(|(choice, _)| *choice == self);
        found.map_or("", |(_, word)| word)
    }
}

/// How a [`Choice`] is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoiceStyle {
    /// All words, that of the value in brackets: `[always] madvise never`.
    Bracketed,
    /// The word of the value alone: `always`.
    Plain,
}

impl<T: Choice> Shown for T {
    fn show(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        if T::STYLE == ChoiceStyle::Plain {
            return text.write_str(self.word());
        }
        for (index, (choice, word)) in T::CHOICES.iter().enumerate() {
            if index > 0 {
                text.write_char(' ')?;
            }
            match choice == self {
                true => write!(text, "[{word}]")?,
                false => text.write_str(word)?,
            }
        }
        Ok(())
    }
}

impl<T: Choice> Value for T {
    fn parse(text: &str) -> Result<Self, Errno> {
        let found = T::CHOICES.iter().find(|(_, word)| *word == text);
        found.map(|(choice, _)| *choice).ok_or(Errno::EINVAL)
    }
}
