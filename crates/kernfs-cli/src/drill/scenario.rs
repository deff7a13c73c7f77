//! What a scenario file says: groups at the start, and steps in the order of time.
//!
//! A mistake is told with file, line and column, and what was expected there. What can be known
//! before is checked before: that the groups exist when a step needs them, for example.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::Range;
use std::time::Duration;

use kernfs_cgroup::MemoryEvent;
use kernfs_cgroup::rehearsal::StallShares;
use kernfs_psi::Resource;
use serde::Deserialize;
use toml::Spanned;

use crate::wrong_usage::WrongUsage;

/// What happens while a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// The file, or the name of one that comes along.
    pub(crate) name: String,
    /// What it is about, in a sentence.
    pub(crate) about: Option<String>,
    /// How long the command may take after the last step.
    pub(crate) grace: Option<Duration>,
    /// What there is when the command starts.
    pub(crate) start: Vec<Actions>,
    /// What happens then.
    pub(crate) steps: Vec<Step>,
}

/// What happens to a group at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// When, as time since the start of the command.
    pub(crate) at: Duration,
    pub(crate) actions: Actions,
}

/// What happens to a group, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actions {
    /// The path of the group below the root, which is empty.
    pub(crate) group: String,
    pub(crate) actions: Vec<Action>,
}

/// A thing that happens to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It comes into being.
    Make,
    /// Members come in: processes that sleep.
    Add(u32),
    /// A client writes a text to one of its files.
    Write(String, String),
    /// It stalls from now on for shares of the time.
    Stall(Resource, String),
    /// It uses so many bytes of memory from now on.
    Memory(u64),
    /// A count of its memory events stands at so many from now on.
    Event(MemoryEvent, u64),
    /// Members die: some of them, or all.
    Kill(Option<u32>),
    /// It is removed as by rmdir(2), which fails where there are members or groups.
    Remove,
    /// It vanishes, with all that is in it.
    Sever,
}

impl Scenario {
    /// Reads the text of a scenario.
    ///
    /// # Errors
    ///
    /// [`WrongUsage`] with the file, the line and column, what is wrong, and what was expected.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, WrongUsage> {
        let read = toml::from_str::<File>(text).map_err(|error| Mistake {
            at: error.span().unwrap_or_default(),
            // Of more than one line where a value is shown.
            says: error.message().lines().collect::<Vec<_>>().join(" "),
        });
        let scenario = read.and_then(|file| file.check(name));
        scenario.map_err(|mistake| mistake.in_file(name, text))
    }

    /// Returns how long the steps take.
    pub(crate) fn length(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |step| step.at)
    }
}

/// Something that is wrong at a place of the text.
#[derive(Debug)]
struct Mistake {
    at: Range<usize>,
    says: String,
}

impl Mistake {
    fn at<T>(at: &Spanned<T>, says: impl Into<String>) -> Self {
        Self { at: at.span(), says: says.into() }
    }

    fn in_file(self, name: &str, text: &str) -> WrongUsage {
        let before = text.get(..self.at.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        WrongUsage::from_error(format!(
            "{}:{line}:{column}: {}",
            crate::printable::printable(name),
            self.says
        ))
    }
}

/// The file as it stands there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    about: Option<String>,
    grace: Option<Spanned<String>>,
    #[serde(default, rename = "group")]
    groups: Vec<GroupTable>,
    #[serde(default, rename = "step")]
    steps: Vec<Spanned<StepTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GroupTable {
    path: Spanned<String>,
    members: Option<Spanned<u32>>,
    #[serde(default)]
    write: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    stall: StallTable,
    memory: Option<Spanned<Amount>>,
    #[serde(default)]
    events: BTreeMap<Spanned<String>, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StepTable {
    at: Spanned<String>,
    group: Spanned<String>,
    #[serde(rename = "do")]
    verb: Option<Verb>,
    add: Option<Spanned<u32>>,
    #[serde(default)]
    write: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    stall: StallTable,
    memory: Option<Spanned<Amount>>,
    #[serde(default)]
    events: BTreeMap<Spanned<String>, u64>,
    kill: Option<Spanned<Count>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Make,
    Remove,
    Sever,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StallTable {
    cpu: Option<Spanned<String>>,
    memory: Option<Spanned<String>>,
    io: Option<Spanned<String>>,
}

/// An amount of memory: `"64M"`, or bytes.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an amount of memory, for example \"64M\", or bytes")]
enum Amount {
    Bytes(u64),
    Text(String),
}

/// A number of members: 3, or `"all"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of members, or \"all\"")]
enum Count {
    Some(u32),
    Word(String),
}

/// How many members a scenario can start: each is a process.
const MAX_MEMBERS: u32 = 1000;
/// The longest time that can be waited for.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

impl File {
    fn check(self, name: &str) -> Result<Scenario, Mistake> {
        let Self { about, grace, groups, steps } = self;
        let grace = grace.as_ref().map(duration).transpose()?;
        let mut known = Known::default();
        let start: Vec<Actions> =
            groups.into_iter().map(|group| group.check(&mut known)).collect::<Result<_, _>>()?;
        let mut before = Duration::ZERO;
        let check = |step: Spanned<StepTable>| step.into_inner().check(&mut before, &mut known);
        let steps: Vec<Step> = steps.into_iter().map(check).collect::<Result<_, _>>()?;
        if steps.is_empty() {
            let says = "no step; expected at least one `[[step]]`".into();
            return Err(Mistake { at: 0..0, says });
        }
        Ok(Scenario { name: name.to_owned(), about, grace, start, steps })
    }
}

impl GroupTable {
    fn check(self, known: &mut Known) -> Result<Actions, Mistake> {
        let Self { path, members, write, stall, memory, events } = self;
        known.make(&path)?;
        let mut actions = vec![Action::Make];
        if let Some(members) = &members {
            actions.push(known.add(path.get_ref(), members)?);
        }
        changes(&mut actions, write, &stall, memory.as_ref(), events)?;
        Ok(Actions { group: path.into_inner(), actions })
    }
}

impl StepTable {
    fn check(self, before: &mut Duration, known: &mut Known) -> Result<Step, Mistake> {
        let Self { at, group, verb, add, write, stall, memory, events, kill } = self;
        let time = duration(&at)?;
        if time < *before {
            let says = format!("a step back in time; expected {before:?} or later");
            return Err(Mistake::at(&at, says));
        }
        *before = time;
        let mut actions = Vec::new();
        if verb == Some(Verb::Make) {
            known.make(&group)?;
            actions.push(Action::Make);
        } else {
            known.exists(&group)?;
        }
        if let Some(add) = &add {
            actions.push(known.add(group.get_ref(), add)?);
        }
        changes(&mut actions, write, &stall, memory.as_ref(), events)?;
        actions.extend(kill.as_ref().map(count).transpose()?);
        match verb {
            Some(Verb::Remove) => actions.push(Action::Remove),
            Some(Verb::Sever) => actions.push(Action::Sever),
            Some(Verb::Make) | None => {}
        }
        if let Some(Verb::Remove | Verb::Sever) = verb {
            known.remove(&group)?;
        }
        if actions.is_empty() {
            let says = "a step that does nothing; expected one of `do`, `add`, `write`, `stall`, \
                        `memory`, `events`, `kill`";
            return Err(Mistake::at(&at, says));
        }
        Ok(Step { at: time, actions: Actions { group: group.into_inner(), actions } })
    }
}

/// Takes what changes the files of a group.
fn changes(
    actions: &mut Vec<Action>,
    write: BTreeMap<Spanned<String>, String>,
    stall: &StallTable,
    memory: Option<&Spanned<Amount>>,
    events: BTreeMap<Spanned<String>, u64>,
) -> Result<(), Mistake> {
    for (file, text) in write {
        if !is_name(file.get_ref()) {
            return Err(Mistake::at(&file, "no name of a file; expected for example `memory.max`"));
        }
        actions.push(Action::Write(file.into_inner(), text));
    }
    let StallTable { cpu, memory: in_memory, io } = stall;
    let stalls = [(Resource::Cpu, cpu), (Resource::Memory, in_memory), (Resource::Io, io)];
    for (resource, text) in stalls {
        let Some(text) = text else { continue };
        if let Err(errno) = StallShares::default().changed_by(text.get_ref().as_bytes()) {
            let more = if errno == kernfs::Errno::ERANGE {
                "more than all of the time"
            } else {
                "no shares of time"
            };
            let says =
                format!("{more}; expected for example `some 30%`, `some 30% full 12.5%`, `0`");
            return Err(Mistake::at(text, says));
        }
        actions.push(Action::Stall(resource, text.get_ref().clone()));
    }
    if let Some(amount) = memory {
        actions.push(Action::Memory(bytes(amount)?));
    }
    for (event, count) in events {
        let Ok(parsed) = event.get_ref().parse() else {
            let names = MemoryEvent::ALL.map(|event| format!("`{event}`")).join(", ");
            return Err(Mistake::at(&event, format!("no memory event; expected one of {names}")));
        };
        actions.push(Action::Event(parsed, count));
    }
    Ok(())
}

/// The longest name (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// Tells whether something can be the name of a group or file.
fn is_name(name: &str) -> bool {
    let is_other = name.contains(['/', '\0', '\n']) || matches!(name, "" | "." | "..");
    !is_other && name.len() <= NAME_MAX
}

/// The groups that exist at a step, by what the scenario itself does.
#[derive(Default)]
struct Known {
    groups: BTreeMap<String, Use>,
    members: u32,
}

/// What a group has been used for: for both it cannot be, once controllers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Nothing,
    Members,
    Groups,
}

impl Known {
    fn make(&mut self, path: &Spanned<String>) -> Result<(), Mistake> {
        let text = path.get_ref();
        if !text.split('/').all(is_name) {
            let says = "no path of a group; expected names with `/` between, for example \
                        `service/worker`";
            return Err(Mistake::at(path, says));
        }
        if self.groups.contains_key(text) {
            return Err(Mistake::at(path, "this group exists already; expected another name"));
        }
        if let Some((above, _)) = text.rsplit_once('/') {
            match self.groups.get_mut(above) {
                Some(Use::Members) => {
                    let says = format!("`{above}` has members; expected a group {ONLY_LEAVES}");
                    return Err(Mistake::at(path, says));
                }
                Some(used) => *used = Use::Groups,
                None => return Err(Mistake::at(path, self.unknown(above))),
            }
        }
        self.groups.insert(text.clone(), Use::Nothing);
        Ok(())
    }

    fn exists(&self, path: &Spanned<String>) -> Result<(), Mistake> {
        let is_known = self.groups.contains_key(path.get_ref());
        if is_known { Ok(()) } else { Err(Mistake::at(path, self.unknown(path.get_ref()))) }
    }

    fn unknown(&self, path: &str) -> String {
        let groups = self.groups.keys().map(|group| format!("`{group}`")).collect::<Vec<_>>();
        let groups =
            if groups.is_empty() { "that it is made first".into() } else { groups.join(", ") };
        format!("there is no group `{path}` at this time; expected {groups}")
    }

    fn remove(&mut self, path: &Spanned<String>) -> Result<(), Mistake> {
        self.exists(path)?;
        let below = format!("{}/", path.get_ref());
        self.groups.retain(|group, _| group != path.get_ref() && !group.starts_with(&below));
        Ok(())
    }

    fn add(&mut self, group: &str, count: &Spanned<u32>) -> Result<Action, Mistake> {
        match self.groups.get_mut(group) {
            Some(Use::Groups) => {
                let says = format!("`{group}` has groups below; expected one {ONLY_LEAVES}");
                return Err(Mistake::at(count, says));
            }
            Some(used) => *used = Use::Members,
            None => {}
        }
        self.members = self.members.saturating_add(*count.get_ref());
        if self.members > MAX_MEMBERS {
            let says = format!("too many members; expected at most {MAX_MEMBERS} in all");
            return Err(Mistake::at(count, says));
        }
        Ok(Action::Add(*count.get_ref()))
    }
}

/// The rule of cgroup v2.
const ONLY_LEAVES: &str = "without: members are in groups that have no groups below";

/// Reads a time.
fn duration(text: &Spanned<String>) -> Result<Duration, Mistake> {
    let time = humantime::parse_duration(text.get_ref());
    time.ok().filter(|time| *time <= MAX_TIME).ok_or_else(|| {
        Mistake::at(text, "no time; expected for example `2s`, `1s 500ms`, `2m`, at most one day")
    })
}

/// Reads an amount of memory.
fn bytes(amount: &Spanned<Amount>) -> Result<u64, Mistake> {
    let bytes = match amount.get_ref() {
        Amount::Bytes(bytes) => Some(*bytes),
        Amount::Text(text) => {
            let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
            let shift = match unit {
                "" => Some(0),
                "K" => Some(10),
                "M" => Some(20),
                "G" => Some(30),
                _ => None,
            };
            let number: Option<u64> = text[..text.len() - unit.len()].parse().ok();
            number.zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift))
        }
    };
    bytes.ok_or_else(|| {
        Mistake::at(amount, "no amount of memory; expected for example `64M`, with K, M, G or none")
    })
}

/// Reads how many members.
fn count(count: &Spanned<Count>) -> Result<Action, Mistake> {
    match count.get_ref() {
        Count::Some(count) => Ok(Action::Kill(Some(*count))),
        Count::Word(word) if word == "all" => Ok(Action::Kill(None)),
        Count::Word(_) => Err(Mistake::at(count, "expected a number of members, or `\"all\"`")),
    }
}

impl Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.actions.iter().enumerate() {
            write!(f, "{}{action}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make => f.write_str("made"),
            Self::Add(1) => f.write_str("1 member comes"),
            Self::Add(count) => write!(f, "{count} members come"),
            Self::Write(file, text) => write!(f, "{text:?} written to {file}"),
            Self::Stall(resource, shares) => {
                let shares = shares.split_whitespace().collect::<Vec<_>>().join(" ");
                write!(f, "{} stalls {shares}", name_of(*resource))
            }
            Self::Memory(bytes) => write!(f, "uses {} of memory", Bytes(*bytes)),
            Self::Event(event, count) => write!(f, "{event} {count}"),
            Self::Kill(None) => f.write_str("all members die"),
            Self::Kill(Some(1)) => f.write_str("1 member dies"),
            Self::Kill(Some(count)) => write!(f, "{count} members die"),
            Self::Remove => f.write_str("removed"),
            Self::Sever => f.write_str("vanishes"),
        }
    }
}

/// Returns the name of a resource as its files have it.
pub(crate) fn name_of(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cpu",
        Resource::Memory => "memory",
        Resource::Io => "io",
        Resource::Irq => "irq",
    }
}

/// A number of bytes in the largest unit that divides it.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let unit =
            units.into_iter().find(|&(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= shift);
        match unit {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::shipped::SHIPPED;
    use proptest::prelude::*;

    const GROUP: &str = "[[group]]\npath = \"a\"\n";

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse("s.toml", text).map_err(|error| error.to_string())
    }

    fn step(line: &str) -> Result<Scenario, String> {
        parse(&format!("{GROUP}[[step]]\nat = \"1s\"\ngroup = \"a\"\n{line}\n"))
    }

    #[test]
    fn all_keys_are_understood() {
        let scenario = parse(
            r#"
about = "everything"
grace = "3s"

[[group]]
path = "a"
members = 2
memory = "64M"
stall.memory = "some 10%"
events.oom = 1
write."memory.max" = "128M"

[[group]]
path = "b"

[[group]]
path = "b/c"

[[step]]
at = "1s 500ms"
group = "a"
add = 1
stall = { cpu = "0", io = "some 30% full 12.5%" }
memory = 4096
events = { oom_kill = 2 }
write = { "cgroup.freeze" = "1" }
kill = "all"

[[step]]
at = "2s"
group = "b/c"
do = "remove"

[[step]]
at = "2s"
group = "a"
kill = 2
do = "sever"

[[step]]
at = "3s"
group = "a"
do = "make"
"#,
        )
        .unwrap();
        assert_eq!(scenario.about.as_deref(), Some("everything"));
        assert_eq!(scenario.grace, Some(Duration::from_secs(3)));
        assert_eq!(scenario.length(), Duration::from_secs(3));
        let says: Vec<_> = scenario.start.iter().map(ToString::to_string).collect();
        assert_eq!(
            says,
            [
                "made, 2 members come, \"128M\" written to memory.max, memory stalls some 10%, \
                 uses 64M of memory, oom 1",
                "made",
                "made",
            ]
        );
        let says: Vec<_> = scenario.steps.iter().map(|step| step.actions.to_string()).collect();
        assert_eq!(
            says,
            [
                "1 member comes, \"1\" written to cgroup.freeze, cpu stalls 0, \
                 io stalls some 30% full 12.5%, uses 4K of memory, oom_kill 2, all members die",
                "removed",
                "2 members die, vanishes",
                "made",
            ]
        );
        assert_eq!(scenario.steps[0].at, Duration::from_millis(1500));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_what_was_expected() {
        for (line, wanted) in [
            ("stall.memory = \"30\"", "s.toml:6:16: no shares of time; expected for example `some"),
            ("stall.io = \"some 101%\"", "s.toml:6:12: more than all of the time; expected"),
            ("stall.disk = \"0\"", "s.toml:6:7: unknown field `disk`, expected one of `cpu`"),
            ("memory = \"64X\"", "s.toml:6:10: no amount of memory; expected for example `64M`"),
            ("memory = \"9999999999999G\"", "s.toml:6:10: no amount of memory"),
            ("memory = []", "s.toml:6:10: expected an amount of memory, for example \"64M\""),
            ("events.oops = 1", "s.toml:6:8: no memory event; expected one of `low`, `high`"),
            ("kill = \"some\"", "s.toml:6:8: expected a number of members, or `\"all\"`"),
            ("kill = -1", "s.toml:6:8: expected a number of members, or \"all\""),
            ("add = 5000", "s.toml:6:7: too many members; expected at most 1000 in all"),
            ("do = \"explode\"", "s.toml:6:6: unknown variant `explode`, expected one of `make`"),
            ("do = \"make\"", "s.toml:5:9: this group exists already; expected another name"),
            ("write.\"a/b\" = \"\"", "s.toml:6:7: no name of a file; expected for example"),
            ("colour = 1", "s.toml:6:1: unknown field `colour`, expected one of `at`, `group`"),
            ("", "s.toml:4:6: a step that does nothing; expected one of `do`, `add`"),
            ("add = ", "s.toml:6:7: "),
        ] {
            let error = step(line).unwrap_err();
            assert!(error.starts_with(wanted), "{line}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn groups_have_to_exist_when_they_are_needed() {
        let error = parse("[[step]]\nat = \"1s\"\ngroup = \"a\"\nadd = 1\n").unwrap_err();
        let wanted =
            "s.toml:3:9: there is no group `a` at this time; expected that it is made first";
        assert_eq!(error, wanted);
        let error = parse("[[group]]\npath = \"a/b\"\n").unwrap_err();
        assert!(error.starts_with("s.toml:2:8: there is no group `a` at this time"), "{error}");
        let twice = "[[step]]\nat = \"1s\"\ngroup = \"a\"\ndo = \"sever\"\n";
        let error = parse(&format!("{GROUP}{twice}{twice}")).unwrap_err();
        assert!(error.starts_with("s.toml:9:9: there is no group `a`"), "{error}");
        let members = "[[group]]\npath = \"a\"\nmembers = 1\n[[group]]\npath = \"a/b\"\n";
        let error = parse(members).unwrap_err();
        assert!(error.starts_with("s.toml:5:8: `a` has members; expected a group"), "{error}");
        let add = "[[group]]\npath = \"a/b\"\n[[step]]\nat = \"1s\"\ngroup = \"a\"\nadd = 1\n";
        let error = parse(&format!("{GROUP}{add}")).unwrap_err();
        assert!(error.starts_with("s.toml:8:7: `a` has groups below; expected one"), "{error}");
        for path in ["", "/a", "a/", "a//b", "..", "a/./b"] {
            let error = parse(&format!("[[group]]\npath = \"{path}\"\n")).unwrap_err();
            assert!(error.starts_with("s.toml:2:8: no path of a group; expected"), "{error}");
        }
    }

    #[test]
    fn time_goes_forward() {
        let step = |at| format!("[[step]]\nat = \"{at}\"\ngroup = \"a\"\nadd = 1\n");
        let error = parse(&format!("{GROUP}{}{}", step("2s"), step("1s"))).unwrap_err();
        assert_eq!(error, "s.toml:8:6: a step back in time; expected 2s or later");
        for time in ["soon", "", "-1s", "1", "25h"] {
            let error = parse(&format!("{GROUP}{}", step(time))).unwrap_err();
            assert!(error.starts_with("s.toml:4:6: no time; expected for example `2s`"), "{error}");
        }
        let error = parse(GROUP).unwrap_err();
        assert_eq!(error, "s.toml:1:1: no step; expected at least one `[[step]]`");
    }

    proptest! {
        /// Lines of the scenarios that come along, in any order, and pieces of them.
        #[test]
        fn any_text_is_a_scenario_or_a_mistake_in_one_line(
            picks in proptest::collection::vec((any::<proptest::sample::Index>(), 0..40usize), 0..30)
        ) {
            let texts: String = SHIPPED.iter().map(|shipped| shipped.text).collect();
            let lines: Vec<_> = texts.lines().filter(|line| !line.starts_with('#')).collect();
            let piece = |(index, cut): &(proptest::sample::Index, usize)| {
                let line = index.get(&lines);
                // Most of them whole.
                line.get(..*cut).filter(|_| *cut < 8).unwrap_or(line)
            };
            let text = picks.iter().map(piece).collect::<Vec<_>>().join("\n");
            if let Err(error) = parse(&text) {
                prop_assert!(error.starts_with("s.toml:"), "{}", error);
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
            }
        }
    }
}
