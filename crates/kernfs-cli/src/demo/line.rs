//! The line between the owner and a holder: channels to a thread, a pair of pipes to a process.
//!
//! A holder says that it [holds](Message::Holding), then what it [got](Message::Got) when the tree
//! was severed, and after that answers whenever it is asked to try [again](Command::Again). It
//! closes nothing before the owner hangs up. Between processes each of these is a line of text:
//!
//! ```text
//! owner to holder       holder to owner
//! look                  holding
//! again                 asleep
//! afresh                got NANOSECONDS ANSWER
//!                       again ANSWER
//!                       failed WHY
//! ```

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, bail};

use crate::demo::answer::Answer;
use crate::demo::moment::Moment;

/// What a holder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// It holds.
    Holding,
    /// It is about to fall asleep in the thread of this path below /proc.
    Asleep(PathBuf),
    /// It was let go, or told to look: what it got, and when.
    Got(Answer, Moment),
    /// What it got when it tried again.
    Again(Answer),
    /// It could not do its part.
    Failed(String),
}

/// What the owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The severing has begun, or, for who looks late, is over: look what is left.
    Look,
    /// Try once more.
    Again,
    /// Try once more, by the path if it is known, and hold what is found.
    Afresh,
}

impl Message {
    /// Renders a line, without its end; a process tells by it of its own first thread.
    pub(crate) fn to_wire(&self) -> String {
        match self {
            Self::Holding => "holding".into(),
            Self::Asleep(_) => "asleep".into(),
            Self::Got(answer, at) => format!("got {at} {}", answer.to_wire()),
            Self::Again(answer) => format!("again {}", answer.to_wire()),
            Self::Failed(why) => format!("failed {}", why.replace(char::is_control, " ")),
        }
    }

    /// Takes a line from the process with this number.
    ///
    /// # Errors
    ///
    /// It is none of the protocol.
    pub(crate) fn from_wire(line: &str, pid: u32) -> Result<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "holding" => Self::Holding,
            "asleep" => Self::Asleep(pid.to_string().into()),
            "got" => {
                let (at, answer) = rest.split_once(' ').context("an answer without a time")?;
                Self::Got(answer.parse()?, at.parse()?)
            }
            "again" => Self::Again(rest.parse()?),
            "failed" => Self::Failed(rest.into()),
            _ => bail!("'{}' says nothing", line.escape_debug()),
        })
    }
}

impl Command {
    /// Returns the line, without its end.
    pub(crate) fn to_wire(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Again => "again",
            Self::Afresh => "afresh",
        }
    }

    /// Takes a line.
    pub(crate) fn from_wire(line: &str) -> Option<Self> {
        [Self::Look, Self::Again, Self::Afresh].into_iter().find(|it| it.to_wire() == line)
    }
}

/// A holder's end of the line.
pub(crate) struct Line {
    /// Takes what is said to the owner.
    pub(crate) say: Box<dyn Fn(Message)>,
    /// What the owner says; hung up when the holder is to close.
    pub(crate) hear: Receiver<Command>,
    /// Where a sleeper is found below /proc.
    pub(crate) thread: PathBuf,
}

/// Tries once more what was severed; its end closes what is held.
pub(crate) type Again = Box<dyn FnMut(Command) -> Answer>;

impl Line {
    /// Plays a part, and answers until the owner hangs up.
    pub(crate) fn perform(&self, play: impl FnOnce(&Self) -> Result<Again>) {
        match play(self) {
            Ok(mut again) => {
                while let Ok(command) = self.hear.recv() {
                    if command != Command::Look {
                        (self.say)(Message::Again(again(command)));
                    }
                }
            }
            Err(error) => (self.say)(Message::Failed(format!("{error:#}"))),
        }
    }

    /// Says that it holds.
    pub(crate) fn holding(&self) {
        (self.say)(Message::Holding);
    }

    /// To be said right before going to sleep on this thread.
    pub(crate) fn falling_asleep(&self) {
        (self.say)(Message::Asleep(self.thread.clone()));
    }

    /// Says what was got, now.
    pub(crate) fn got(&self, answer: impl Into<Answer>) {
        let now = Moment::now();
        (self.say)(Message::Got(answer.into(), now));
    }

    /// Waits to be told to look.
    ///
    /// # Errors
    ///
    /// The owner has hung up.
    pub(crate) fn wait_to_look(&self) -> Result<()> {
        self.hear.recv().map(drop).context("the owner has gone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernfs::Errno;

    #[test]
    fn all_that_is_said_survives_its_way_between_processes() {
        let answer = Answer::bytes_then(3, Errno::ENODEV);
        for message in [
            Message::Holding,
            Message::Asleep("7".into()),
            Message::Got(answer.clone(), Moment::now()),
            Message::Again(answer),
            Message::Failed("it's \"broken\"".into()),
        ] {
            assert_eq!(Message::from_wire(&message.to_wire(), 7).unwrap(), message);
        }
        for command in [Command::Look, Command::Again, Command::Afresh] {
            assert_eq!(Command::from_wire(command.to_wire()), Some(command));
        }
    }

    #[test]
    fn what_is_said_is_one_line() {
        let said = Message::Failed("one\ntwo\r".into()).to_wire();
        assert_eq!(said, "failed one two ");
    }

    #[test]
    fn what_is_none_of_the_protocol_is_refused() {
        for line in ["", "hello", "got", "got 7", "got x bytes:1", "again", "again gold:1"] {
            assert!(Message::from_wire(line, 7).is_err(), "{line}");
        }
        assert_eq!(Command::from_wire("look "), None);
    }
}
