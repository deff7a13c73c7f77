//! Events of devices (`lib/kobject_uevent.c`).

use std::fmt;
use std::str::FromStr;

use kernfs::Errno;

/// What happened to a device (`kobject_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UeventAction {
    /// It is there.
    Add,
    /// It has gone.
    Remove,
    /// Something about it has changed.
    Change,
    /// It has another path.
    Move,
    /// It can be used again.
    Online,
    /// It cannot be used for a while.
    Offline,
    /// A driver has taken it.
    Bind,
    /// Its driver has let go of it.
    Unbind,
}

impl UeventAction {
    // Not a `Choice`, which it could be: it would be the only one that compilers know to propose
    // where somebody's own type lacks a text.
    const WORDS: [(Self, &'static str); 8] = [
        (Self::Add, "add"),
        (Self::Remove, "remove"),
        (Self::Change, "change"),
        (Self::Move, "move"),
        (Self::Online, "online"),
        (Self::Offline, "offline"),
        (Self::Bind, "bind"),
        (Self::Unbind, "unbind"),
    ];
}

impl fmt::Display for UeventAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(action, _)| action == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

impl FromStr for UeventAction {
    type Err = Errno;

    /// Takes the word; anything else is EINVAL (`kobject_action_type`).
    fn from_str(text: &str) -> Result<Self, Errno> {
        let action = Self::WORDS.iter().find(|(_, word)| *word == text);
        action.map(|(action, _)| *action).ok_or(Errno::EINVAL)
    }
}

/// An event of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uevent {
    /// The number of the event: each is one higher than the one before.
    pub seqnum: u64,
    /// What happened.
    pub action: UeventAction,
    /// The path of the device below the root of the sysfs, with a slash at its beginning.
    pub devpath: String,
    /// The name of the class or bus.
    pub subsystem: String,
    /// The variables of the event, and of the device: `MAJOR`, `DEVNAME` and so on.
    pub env: Environment,
}

impl Uevent {
    /// Returns all variables in the kernel's order, `ACTION` first and `SEQNUM` last.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("ACTION".into(), self.action.to_string()),
            ("DEVPATH".into(), self.devpath.clone()),
            ("SUBSYSTEM".into(), self.subsystem.clone()),
        ];
        variables.extend(self.env.0.iter().cloned());
        variables.push(("SEQNUM".into(), self.seqnum.to_string()));
        variables
    }

    /// Returns the value of a variable of the event or the device.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.env.get(key)
    }

    /// Returns the message that the kernel would send by netlink: `add@/devices/...`, then the
    /// variables, each with a NUL at its end.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut message = format!("{}@{}\0", self.action, self.devpath);
        for (key, value) in self.variables() {
            message.extend([&key, "=", &value, "\0"]);
        }
        message.into_bytes()
    }
}

impl fmt::Display for Uevent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.action, self.devpath)
    }
}

/// The most variables of an event (`UEVENT_NUM_ENVP`).
pub const MAX_VARIABLES: usize = 64;

/// The most bytes of all variables of an event, each with its `=` and a NUL
/// (`UEVENT_BUFFER_SIZE`).
pub const MAX_VARIABLE_BYTES: usize = 2048;

/// Variables, as `KEY=VALUE`, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Makes an environment of variables.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set).
    pub fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Errno> {
        let mut env = Self::default();
        for (key, value) in variables {
            env.set(key, value)?;
        }
        Ok(env)
    }

    /// Returns the value of a variable.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; a new one comes last (`add_uevent_var`).
    ///
    /// # Errors
    ///
    /// EINVAL: the key is empty or has a `=`, or either of the two has a newline or a NUL. ENOMEM:
    /// more than [`MAX_VARIABLES`] or [`MAX_VARIABLE_BYTES`].
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), Errno> {
        let (key, value) = (key.into(), value.into());
        let odd = |text: &str| text.contains(['\n', '\0']);
        if key.is_empty() || key.contains('=') || odd(&key) || odd(&value) {
            return Err(Errno::EINVAL);
        }
        let mut changed = self.clone();
        match changed.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => changed.0.push((key, value)),
        }
        changed.check_size(0)?;
        *self = changed;
        Ok(())
    }

    /// Returns the variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Adds those of another environment.
    pub(crate) fn extend(&mut self, other: &Self) -> Result<(), Errno> {
        other.iter().try_for_each(|(key, value)| self.set(key, value))
    }

    /// Checks that variables fit into an event, of which `taken` bytes are taken.
    pub(crate) fn check_size(&self, taken: usize) -> Result<(), Errno> {
        let bytes: usize = self.0.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        // `ACTION`, `DEVPATH`, `SUBSYSTEM` and `SEQNUM` come besides.
        if self.0.len() + 4 > MAX_VARIABLES || bytes + taken > MAX_VARIABLE_BYTES {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }
}

/// Shown as lines, as in `uevent` files.
impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| writeln!(f, "{key}={value}"))
    }
}

/// What somebody asks for by a write to a `uevent` file (`kobject_synth_uevent`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Synthetic {
    pub(crate) action: UeventAction,
    pub(crate) env: Environment,
}

/// The length of the text of a UUID (`UUID_STRING_LEN`).
const UUID_LEN: usize = 36;

impl Synthetic {
    /// Parses an action, perhaps with a UUID and more variables:
    /// `change 01234567-89ab-cdef-0123-456789abcdef KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// EINVAL: not such a text. ENOMEM: too many variables.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let text = text.strip_suffix(['\n', '\0']).unwrap_or(text);
        let (action, arguments) = match text.split_once(' ') {
            None => (text, None),
            Some((action, arguments)) => (action, Some(arguments)),
        };
        let env = match arguments {
            None => Environment::of([("SYNTH_UUID", "0")])?,
            Some(arguments) => Self::arguments(arguments)?,
        };
        Ok(Self { action: action.parse()?, env })
    }

    /// Parses a UUID and words (`kobject_action_args`).
    fn arguments(text: &str) -> Result<Environment, Errno> {
        let (uuid, mut rest) = text.split_at_checked(UUID_LEN).ok_or(Errno::EINVAL)?;
        if !is_uuid(uuid) {
            return Err(Errno::EINVAL);
        }
        let mut env = Environment::of([("SYNTH_UUID", uuid)])?;
        while !rest.is_empty() {
            let argument = rest.strip_prefix(' ').ok_or(Errno::EINVAL)?;
            let end = argument.find(' ').unwrap_or(argument.len());
            let (key, value) = argument[..end].split_once('=').ok_or(Errno::EINVAL)?;
            if !is_word(key) || !is_word(value) {
                return Err(Errno::EINVAL);
            }
            env.set(format!("SYNTH_ARG_{key}"), value)?;
            rest = &argument[end..];
        }
        Ok(env)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Tells whether text is a UUID in its usual form (`uuid_is_valid`).
fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "01234567-89ab-CDEF-0123-456789abcdef";

    fn env(variables: &[(&str, &str)]) -> Environment {
        Environment::of(variables.iter().copied()).unwrap()
    }

    #[test]
    fn writes_are_parsed_as_kobject_synth_uevent_does() {
        let plain = |action| Synthetic { action, env: env(&[("SYNTH_UUID", "0")]) };
        assert_eq!(Synthetic::parse(b"add"), Ok(plain(UeventAction::Add)));
        assert_eq!(Synthetic::parse(b"change\n"), Ok(plain(UeventAction::Change)));
        assert_eq!(Synthetic::parse(b"unbind\0"), Ok(plain(UeventAction::Unbind)));
        let text = format!("change {UUID} A=1 B2=x\n");
        let variables = [("SYNTH_UUID", UUID), ("SYNTH_ARG_A", "1"), ("SYNTH_ARG_B2", "x")];
        let with_arguments = Synthetic { action: UeventAction::Change, env: env(&variables) };
        assert_eq!(Synthetic::parse(text.as_bytes()), Ok(with_arguments));
    }

    #[test]
    fn other_writes_are_einval() {
        for text in [
            "",
            "\n",
            "ad",
            "adds",
            "ADD",
            " add",
            "add ",
            "add\n\n",
            "add 0",
            &format!("add {UUID} "),
            &format!("add {UUID}A=1"),
            &format!("add {UUID} A"),
            &format!("add {UUID} A="),
            &format!("add {UUID} =1"),
            &format!("add {UUID} A_B=1"),
            &format!("add {UUID} A=1  B=2"),
            &format!("add {UUID} A=1=2"),
            &format!("add {}", UUID.replace('-', "0")),
        ] {
            assert_eq!(Synthetic::parse(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
        }
    }

    #[test]
    fn an_environment_has_limits() {
        let mut env = Environment::default();
        assert_eq!(env.set("", "x"), Err(Errno::EINVAL));
        assert_eq!(env.set("A=", "x"), Err(Errno::EINVAL));
        assert_eq!(env.set("A", "x\nB=y"), Err(Errno::EINVAL));
        assert_eq!(env.set("A", "x".repeat(MAX_VARIABLE_BYTES)), Err(Errno::ENOMEM));
        for number in 0..MAX_VARIABLES - 4 {
            env.set(format!("V{number}"), "").unwrap();
        }
        assert_eq!(env.set("LAST", ""), Err(Errno::ENOMEM));
        env.set("V0", "again").unwrap();
        assert_eq!(env.get("V0"), Some("again"));
    }

    #[test]
    fn a_message_is_what_the_kernel_would_send() {
        let event = Uevent {
            seqnum: 7,
            action: UeventAction::Add,
            devpath: "/devices/virtual/mem/null".into(),
            subsystem: "mem".into(),
            env: env(&[("MAJOR", "1"), ("MINOR", "3")]),
        };
        let message = b"add@/devices/virtual/mem/null\0ACTION=add\0\
            DEVPATH=/devices/virtual/mem/null\0SUBSYSTEM=mem\0MAJOR=1\0MINOR=3\0SEQNUM=7\0";
        assert_eq!(event.message(), message);
    }
}
