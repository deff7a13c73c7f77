//! What a holder gets: as it is printed, and as one process tells it to another.

use std::fmt;
use std::io;
use std::str::FromStr;

use kernfs::{Errno, Events};
use rustix::fs::inotify::ReadFlags;
use signal_hook::low_level::signal_name;

/// What a holder gets: one thing, or several in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer(Vec<Part>);

/// One thing that a holder gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// So many bytes were read.
    Bytes(usize),
    /// What poll(2) or epoll_wait(2) reported.
    Events(Events),
    /// The sets of select(2) that a descriptor was in: `IN`, `OUT` and `PRI` for the third.
    Sets(Events),
    /// So many entries were listed.
    Entries(usize),
    /// What inotify(7) told.
    Watched(ReadFlags),
    /// An error.
    Error(Errno),
    /// The end, by a signal of this number.
    Signal(i32),
}

impl Answer {
    /// Returns the answer of so many bytes, if any, and an error after them.
    pub(crate) fn bytes_then(bytes: usize, errno: Errno) -> Self {
        let bytes = (bytes > 0).then_some(Part::Bytes(bytes));
        Self(bytes.into_iter().chain([Part::Error(errno)]).collect())
    }

    /// Returns what a directory answers that its owner removed: no more entries, no children.
    pub(crate) fn end_of_dir() -> Self {
        Self(vec![Part::Entries(0), Part::Error(Errno::ENOENT)])
    }

    /// Returns what select(2) answers for a descriptor that is in all three sets.
    pub(crate) fn all_sets() -> Self {
        Part::Sets(Events::IN | Events::OUT | Events::PRI).into()
    }

    /// Returns the answer of several things.
    pub(crate) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self(parts.into_iter().collect())
    }
}

impl From<Part> for Answer {
    fn from(part: Part) -> Self {
        Self(vec![part])
    }
}

impl From<Events> for Answer {
    fn from(events: Events) -> Self {
        Part::Events(events).into()
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Part::Error(errno).into()
    }
}

impl From<Result<usize, Errno>> for Answer {
    fn from(result: Result<usize, Errno>) -> Self {
        result.map_or_else(Part::Error, Part::Bytes).into()
    }
}

/// Returns the error number that a system call gave.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.0.iter().enumerate() {
            f.write_str(if n > 0 { ", " } else { "" })?;
            part.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(len) => write!(f, "{len} B"),
            Self::Events(events) if events.is_empty() => f.write_str("none"),
            Self::Events(events) => {
                let names: Vec<_> = events.iter_names().map(|(name, _)| name).collect();
                f.write_str(&names.join("|"))
            }
            Self::Sets(sets) if sets.is_empty() => f.write_str("none"),
            Self::Sets(sets) => {
                let names = [(Events::IN, "rd"), (Events::OUT, "wr"), (Events::PRI, "ex")];
                let names = names.into_iter().filter(|(set, _)| sets.contains(*set));
                f.write_str(&names.map(|(_, name)| name).collect::<Vec<_>>().join("+"))
            }
            Self::Entries(0) => f.write_str("end"),
            Self::Entries(count) => write!(f, "{count} entries"),
            Self::Watched(events) => {
                let names: Vec<_> = events.iter_names().map(|(name, _)| name).collect();
                f.write_str(&names.join("|"))
            }
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {signal}"),
            },
            Self::Error(errno) => match errno.name() {
                Some(name) => f.write_str(name),
                None => write!(f, "error {}", errno.raw()),
            },
        }
    }
}

impl Answer {
    /// Renders the answer in words without blanks between them and without a line break.
    pub(crate) fn to_wire(&self) -> String {
        let words = self.0.iter().map(|part| match part {
            Part::Bytes(len) => format!("bytes:{len}"),
            Part::Events(events) => format!("events:{}", events.bits()),
            Part::Sets(sets) => format!("sets:{}", sets.bits()),
            Part::Entries(count) => format!("entries:{count}"),
            Part::Error(errno) => format!("errno:{}", errno.raw()),
            Part::Watched(events) => format!("watched:{}", events.bits()),
            Part::Signal(signal) => format!("signal:{signal}"),
        });
        words.collect::<Vec<_>>().join(",")
    }
}

/// A word that is none of the protocol.
#[derive(Debug, thiserror::Error)]
#[error("'{}' is no answer", .0.escape_debug())]
pub(crate) struct NoAnswer(String);

impl FromStr for Answer {
    type Err = NoAnswer;

    /// Takes what [`to_wire`](Self::to_wire) gives.
    fn from_str(text: &str) -> Result<Self, NoAnswer> {
        let part = |word: &str| part_of(word).ok_or_else(|| NoAnswer(word.into()));
        text.split(',').map(part).collect::<Result<_, _>>().map(Self)
    }
}

fn part_of(word: &str) -> Option<Part> {
    let (what, number) = word.split_once(':')?;
    let events = || number.parse().ok().map(Events::from_bits_retain);
    match what {
        "bytes" => number.parse().ok().map(Part::Bytes),
        "events" => events().map(Part::Events),
        "sets" => events().map(Part::Sets),
        "entries" => number.parse().ok().map(Part::Entries),
        "errno" => number.parse().ok().and_then(Errno::from_raw).map(Part::Error),
        "watched" => number.parse().ok().map(ReadFlags::from_bits_retain).map(Part::Watched),
        "signal" => number.parse().ok().map(Part::Signal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_in_few_words() {
        assert_eq!(Answer::bytes_then(9, Errno::ENODEV).to_string(), "9 B, ENODEV");
        assert_eq!(Answer::bytes_then(0, Errno::ENODEV).to_string(), "ENODEV");
        assert_eq!(Answer::from(Events::CHANGED).to_string(), "PRI|ERR");
        assert_eq!(Answer::from(Events::empty()).to_string(), "none");
        assert_eq!(Answer::all_sets().to_string(), "rd+wr+ex");
        assert_eq!(Answer::end_of_dir().to_string(), "end, ENOENT");
        assert_eq!(Answer::from(Part::Entries(3)).to_string(), "3 entries");
        assert_eq!(Answer::from(Part::Signal(7)).to_string(), "SIGBUS");
        let watched = Part::Watched(ReadFlags::DELETE_SELF);
        assert_eq!(Answer::from(watched).to_string(), "DELETE_SELF");
        let unnamed = Errno::from_raw(107).unwrap();
        assert_eq!(Answer::from(unnamed).to_string(), "error 107");
    }

    #[test]
    fn answers_survive_their_way_between_processes() {
        for answer in [
            Answer::bytes_then(9, Errno::ENODEV),
            Answer::from(Events::CHANGED),
            Answer::all_sets(),
            Answer::end_of_dir(),
            Answer::from(Errno::from_raw(107).unwrap()),
            Answer::from(Part::Signal(7)),
            Answer::from(Part::Watched(ReadFlags::DELETE_SELF)),
        ] {
            assert_eq!(answer.to_wire().parse::<Answer>().unwrap(), answer);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in ["", "bytes", "bytes:-1", "errno:0", "gold:7", "bytes:1,,"] {
            assert!(text.parse::<Answer>().is_err(), "{text}");
        }
    }
}
