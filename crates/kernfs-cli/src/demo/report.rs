//! What is printed: tables, or one JSON object.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::demo::linux::{Comparison, Fate};
use crate::demo::promise::{Point, judge};
use crate::demo::reach::{Mode, Reach};
use crate::demo::source::{Skipped, Source, What};
use crate::demo::table::{Cell, Table};
use crate::demo::{Facts, Row};
use crate::printable::{plural, printable};

/// What happened in a demo; its JSON is described in `kernfs demo --help`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    /// Whether every point of the promise held.
    pub(crate) kept: bool,
    source: Summary,
    reach: Reach,
    holders: Vec<Line>,
    owner: Owner,
    promise: Vec<Point>,
    linux: Option<Linux>,
}

/// What the directory had.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    from: String,
    files: usize,
    dirs: usize,
    links: usize,
    bytes: usize,
    skipped: Skipped,
    stopped: Option<&'static str>,
}

/// What became of a holder.
#[derive(Debug, Serialize)]
struct Line {
    who: &'static str,
    pid: Option<u32>,
    holds: String,
    expected: String,
    got: Option<String>,
    as_expected: bool,
    #[serde(skip)]
    best_effort: bool,
    after_micros: Option<u128>,
    linux: Option<Beside>,
}

/// What became of the same holder by Linux's own kernfs.
#[derive(Debug, Default, Serialize)]
struct Beside {
    holds: Option<String>,
    got: Option<String>,
    after_micros: Option<u128>,
    still_asleep: bool,
    why_not: Option<&'static str>,
}

/// Linux's own removal.
#[derive(Debug, Serialize)]
struct Linux {
    release: String,
    group: String,
    remove_micros: u128,
}

/// What the owner got back, and how long it took.
#[derive(Debug, Serialize)]
struct Owner {
    drivers: usize,
    drivers_back: usize,
    opens: usize,
    releases: usize,
    frees: usize,
    frees_before_close: usize,
    sever_micros: u128,
    remove_micros: u128,
    driver_micros: Option<u128>,
    stuck_on: Vec<Waited>,
}

/// An operation that the removal waited for.
#[derive(Debug, Serialize)]
struct Waited {
    operation: String,
    name: String,
    pid: u32,
}

impl Source {
    /// Counts what was read.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary {
            from: self.from.clone(),
            skipped: self.skipped,
            stopped: self.stopped,
            ..Summary::default()
        };
        for entry in &self.entries {
            match &entry.what {
                What::Dir => summary.dirs += 1,
                What::Link { .. } => summary.links += 1,
                What::Text { bytes, .. } => {
                    summary.files += 1;
                    summary.bytes += bytes.len();
                }
            }
        }
        summary
    }
}

impl Report {
    /// The version of the JSON object.
    const VERSION: u32 = 1;

    /// Judges what was observed.
    pub(crate) fn new(
        source: Summary,
        reach: Reach,
        rows: Vec<Row>,
        facts: &Facts,
        comparison: Option<Comparison>,
    ) -> Self {
        let promise = judge(&rows, facts);
        let kept = promise.iter().all(|point| point.held);
        let mut holders: Vec<_> = rows.into_iter().map(Line::from).collect();
        let linux = comparison.map(|Comparison { release, group, removed, fates }| {
            for (role, fate) in fates {
                let mut lines = holders.iter_mut();
                if let Some(line) = lines.find(|line| line.who == role.name()) {
                    line.linux = Some(fate.into());
                }
            }
            let (release, group) = (printable(release), printable(group));
            Linux { release, group, remove_micros: removed.as_micros() }
        });
        let owner = Owner::new(facts);
        Self { version: Self::VERSION, kept, source, reach, holders, owner, promise, linux }
    }

    /// Renders the JSON object, with a line break at its end.
    ///
    /// # Errors
    ///
    /// None is known.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Renders tables for people, with colours; paths are cut so that all fits into `width`
    /// columns, 80 at least.
    pub(crate) fn to_tables(&self, width: usize) -> String {
        let mut out = String::new();
        self.source.write_to(&mut out);
        self.reach.write_to(&mut out);
        out.push('\n');
        self.holder_table(width).write_to(&mut out);
        self.write_linux(width, &mut out);
        out.push('\n');
        self.owner.table().write_to(&mut out);
        out.push('\n');
        self.promise_table().write_to(&mut out);
        out.push('\n');
        self.write_verdict(&mut out);
        out
    }

    fn holder_table(&self, width: usize) -> Table {
        let processes = self.holders.iter().any(|line| line.pid.is_some());
        let mut titles = vec!["HOLDER", "PID", "HOLDS", "EXPECTED", "GOT", "AFTER"];
        titles.extend(self.linux.iter().flat_map(|_| ["LINUX", "AFTER"]));
        let heading = |title: &&str| {
            let cell = Cell::new(*title, BOLD);
            if is_number(title) { cell.right_aligned() } else { cell }
        };
        let mut table = Table { rows: vec![titles.iter().map(heading).collect()] };
        table.rows.extend(self.holders.iter().map(Line::cells));
        let mut columns = titles;
        let mut remove = |table: &mut Table, title| {
            let column = columns.iter().position(|column| *column == title);
            if let Some(column) = column {
                columns.remove(column);
                table.remove(column);
            }
            columns.iter().position(|column| *column == "HOLDS").unwrap_or(0)
        };
        let mut holds = remove(&mut table, if processes { "" } else { "PID" });
        table.elide(holds, width);
        // With so much beside each other, what can be missed most is left out first.
        for title in ["PID", "EXPECTED"] {
            if self.linux.is_some() && table.width() > width {
                holds = remove(&mut table, title);
                table.elide(holds, width);
            }
        }
        table
    }

    /// Says what the column of Linux is about, and why it has nothing for some.
    fn write_linux(&self, width: usize, out: &mut String) {
        let Some(Linux { release, group, remove_micros }) = &self.linux else { return };
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n{BOLD}LINUX{BOLD:#} {release}: rmdir took {remove_micros} µs, of");
        let _ = writeln!(out, "  {group}");
        let mut notes: Vec<(String, Vec<&str>)> = Vec::new();
        for (line, beside) in self.holders.iter().filter_map(|it| Some((it, it.linux.as_ref()?))) {
            let note = match (beside.why_not, beside.holds.as_deref()) {
                (Some(why), _) => format!("- for {why}"),
                (_, Some(".")) => "holds the group itself".into(),
                (_, holds) => format!("holds {}", holds.unwrap_or_default()),
            };
            match notes.iter_mut().find(|(other, _)| *other == note) {
                Some((_, who)) => who.push(line.who),
                None => notes.push((note, vec![line.who])),
            }
        }
        // What there is comes before what there is not.
        notes.sort_by_key(|(note, _)| note.starts_with('-'));
        for (note, who) in notes {
            write_wrapped(out, &format!("  {note}:"), &who, width);
        }
    }

    fn promise_table(&self) -> Table {
        let mut table = Table { rows: vec![vec![Cell::new("PROMISE", BOLD)]] };
        for Point { point, says, held, seen } in &self.promise {
            table.rows.push(vec![
                Cell::new(format!("{point} {says}"), PLAIN),
                Cell::new(if *held { "ok" } else { "FAILED" }, verdict_style(*held)),
                Cell::new(seen.as_str(), PLAIN),
            ]);
        }
        table
    }

    fn write_verdict(&self, out: &mut String) {
        let broken = self.promise.iter().filter(|point| !point.held).count();
        let style = verdict_style(self.kept);
        // Writing to a string does not fail.
        let _ = match broken {
            0 => writeln!(out, "{style}All six points of the promise held.{style:#}"),
            n => writeln!(out, "{style}{n} of six points of the promise FAILED.{style:#}"),
        };
    }
}

impl Summary {
    fn write_to(&self, out: &mut String) {
        let Self { from, files, dirs, links, .. } = self;
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{BOLD}{from}{BOLD:#}: a live copy of {}, {}, {}",
            plural(*files, "file", "files"),
            plural(*dirs, "directory", "directories"),
            plural(*links, "link", "links"),
        );
        let skipped = self.skipped.in_words();
        if !skipped.is_empty() {
            let _ = writeln!(out, "not copied: {skipped}");
        }
        if let Some(why) = self.stopped {
            let _ = writeln!(out, "not copied: all the rest, for {why}");
        }
    }
}

impl Reach {
    fn write_to(&self, out: &mut String) {
        let Self { mode, why, mounted_on, recovered } = self;
        // Writing to a string does not fail.
        let _ = match (mode, mounted_on) {
            (Mode::Mount, Some(dir)) => {
                writeln!(out, "mounted on {}, since {why}", printable(dir))
            }
            _ => writeln!(out, "in process, without a mount: {why}"),
        };
        if *recovered {
            let _ = writeln!(out, "a dead mount of a former run was cleared away there");
        }
    }
}

impl Line {
    fn cells(&self) -> Vec<Cell> {
        let style = verdict_style(self.as_expected);
        let pid = self.pid.map_or("-".into(), |pid| pid.to_string());
        let mut row = vec![
            Cell::new(self.who, PLAIN),
            Cell::new(pid, PLAIN).right_aligned(),
            Cell::new(self.holds.as_str(), PLAIN),
            Cell::new(self.expected.as_str(), PLAIN),
            Cell::new(self.got.as_deref().unwrap_or("nothing"), style),
            after(self.after_micros),
        ];
        row.extend(self.linux.iter().flat_map(Beside::cells));
        if !self.as_expected {
            row.push(Cell::new(if self.best_effort { "missed" } else { "FAILED" }, BAD));
        }
        row
    }
}

impl Beside {
    fn cells(&self) -> [Cell; 2] {
        let got = match (&self.got, self.still_asleep, self.why_not) {
            (Some(got), ..) => got,
            (None, true, _) => "still asleep",
            (None, false, Some(_)) => "-",
            (None, false, None) => "nothing",
        };
        [Cell::new(got, PLAIN), after(self.after_micros)]
    }
}

/// Writes a list with as many items on each line as fit.
fn write_wrapped(out: &mut String, heading: &str, items: &[&str], width: usize) {
    let mut line = String::from(heading);
    for (n, item) in items.iter().enumerate() {
        let end = if n + 1 < items.len() { ";" } else { "" };
        if line.width() + 1 + item.width() + end.len() > width {
            out.push_str(&line);
            out.push('\n');
            line = "   ".into();
        }
        line = line + " " + item + end;
    }
    out.push_str(&line);
    out.push('\n');
}

/// Renders a time; what was waited for in vain is seconds.
fn after(micros: Option<u128>) -> Cell {
    let text = match micros {
        None => String::new(),
        Some(micros @ ..1_000_000) => format!("{micros} µs"),
        Some(micros) => format!("{:.1} s", Duration::from_micros(micros as u64).as_secs_f64()),
    };
    Cell::new(text, PLAIN).right_aligned()
}

impl From<Fate> for Beside {
    fn from(fate: Fate) -> Self {
        let holds = |path: PathBuf| {
            Some(if path.as_os_str().is_empty() { ".".into() } else { printable(path) })
        };
        let none = Self::default();
        match fate {
            Fate::Got(path, answer, after) => Self {
                holds: holds(path),
                got: Some(answer.to_string()),
                after_micros: Some(after.as_micros()),
                ..none
            },
            Fate::StillAsleep(path, after) => Self {
                holds: holds(path),
                after_micros: Some(after.as_micros()),
                still_asleep: true,
                ..none
            },
            Fate::Silent(path) => Self { holds: holds(path), ..none },
            Fate::NotOffered(why) => Self { why_not: Some(why), ..none },
        }
    }
}

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        Self {
            who: row.role.name(),
            pid: row.pid,
            holds: printable(&row.holds),
            expected: row.expected.to_string(),
            as_expected: row.is_as_expected(),
            best_effort: row.role.is_best_effort(),
            after_micros: row.got.as_ref().map(|(_, after)| after.as_micros()),
            got: row.got.map(|(answer, _)| answer.to_string()),
            linux: None,
        }
    }
}

impl Owner {
    fn new(facts: &Facts) -> Self {
        let removal = &facts.removal;
        let waited = removal.stuck_on.iter().map(|stuck| Waited {
            operation: stuck.operation.to_string(),
            name: stuck.name.to_string(),
            pid: stuck.pid,
        });
        Self {
            drivers: removal.drivers,
            drivers_back: removal.drivers_back,
            opens: removal.balance.opens,
            releases: removal.balance.released_once,
            frees: facts.end.freed_once,
            frees_before_close: removal.balance.freed_once,
            sever_micros: removal.severed.as_micros(),
            remove_micros: removal.removed.as_micros(),
            driver_micros: removal.driver_left.map(|left| left.as_micros()),
            stuck_on: waited.collect(),
        }
    }

    fn table(&self) -> Table {
        let row = |what, how: String| vec![Cell::new(what, PLAIN), Cell::new(how, PLAIN)];
        let waited = self.stuck_on.iter().map(|Waited { operation, name, pid }| {
            format!("{operation} of {name} by process {pid}")
        });
        let waited: Vec<_> = waited.collect();
        let mut rows = vec![
            vec![Cell::new("OWNER", BOLD)],
            row("drivers back", format!("{} of {}", self.drivers_back, self.drivers)),
            row("releases", format!("{} of {}", self.releases, self.opens)),
            row("frees", format!("{} of {}, once all had closed", self.frees, self.opens)),
            row("remove took", format!("{} µs", self.remove_micros)),
            row("of it sever", format!("{} µs", self.sever_micros)),
        ];
        if !waited.is_empty() {
            let left = self.driver_micros.map(|left| format!(", which left after {left} µs"));
            rows.push(row("waited for", waited.join("; ") + &left.unwrap_or_default()));
        }
        Table { rows }
    }
}

const PLAIN: Style = Style::new();
const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

fn is_number(title: &str) -> bool {
    matches!(title, "PID" | "AFTER")
}

fn verdict_style(good: bool) -> Style {
    if good { GOOD } else { BAD }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demo::answer::Answer;
    use crate::demo::ledger::Balance;
    use crate::demo::moment::Moment;
    use crate::demo::role::{Place, Role};
    use crate::demo::{Removal, Reuse};

    /// Rows as they ought to be.
    pub(crate) fn rows() -> Vec<Row> {
        let row = |(n, (role, place)): (usize, (Role, Place))| Row {
            role,
            pid: (place == Place::Process).then_some(1000 + n as u32),
            holds: "files/a".into(),
            expected: role.expected(9),
            got: Some((role.expected(9), Duration::from_micros(10 * n as u64))),
        };
        Role::MOUNTED.into_iter().enumerate().map(row).collect()
    }

    /// Facts as they ought to be.
    pub(crate) fn facts() -> Facts {
        let balance = Balance { calls: 30, opens: 7, released_once: 7, ..Balance::default() };
        let removal = Removal {
            begun: Moment::now(),
            severed: Duration::from_micros(50),
            removed: Duration::from_micros(5200),
            driver_left: Some(Duration::from_micros(5100)),
            stuck_on: Vec::new(),
            rest: 9,
            held: 7,
            ledger: std::sync::Arc::default(),
            balance,
            drivers_back: 12,
            drivers: 12,
        };
        let reuse = Reuse { served: true, dead: 12, dead_when_shown: true };
        let end = Balance { freed_once: 7, ..balance };
        Facts { removal, dead_after: 13, reuse, end, left_open: 0 }
    }

    fn reach() -> Reach {
        Reach {
            mode: Mode::Mount,
            why: "/dev/fuse can be used".into(),
            mounted_on: Some("/mnt".into()),
            recovered: false,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        report_beside(rows, None)
    }

    fn report_beside(rows: Vec<Row>, linux: Option<Comparison>) -> Report {
        let source = Summary { from: "dir".into(), files: 1, dirs: 2, ..Summary::default() };
        Report::new(source, reach(), rows, &facts(), linux)
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_tables_are_aligned_and_fit_into_80_columns() {
        let text = plain(&report(rows()).to_tables(80));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "dir: a live copy of 1 file, 2 directories, 0 links");
        assert_eq!(lines[1], "mounted on /mnt, since /dev/fuse can be used");
        assert_eq!(lines[3], "HOLDER            PID  HOLDS    EXPECTED     GOT           AFTER");
        assert_eq!(lines[4], "half-way reader  1000  files/a  9 B, ENODEV  9 B, ENODEV    0 µs");
        assert_eq!(lines[5], "blocked reader   1001  files/a  ENODEV       ENODEV        10 µs");
        assert_eq!(*lines.last().unwrap(), "All six points of the promise held.");
        for line in lines {
            assert!(line.width() <= 80, "too wide: {line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn what_failed_is_named() {
        let mut rows = rows();
        rows[1].got = None;
        rows[2].got = Some((Answer::from(kernfs::Events::IN), Duration::from_micros(7)));
        let report = report(rows);
        assert!(!report.kept);
        let text = plain(&report.to_tables(80));
        assert!(text.contains("ENODEV       nothing              FAILED\n"), "{text}");
        assert!(text.contains("PRI|ERR      IN             7 µs  FAILED\n"), "{text}");
        assert!(text.contains("3 everyone who slept is awake        FAILED  5 of 7\n"), "{text}");
        assert!(text.ends_with("\n1 of six points of the promise FAILED.\n"), "{text}");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut rows = rows();
        rows[0].holds = "files/\x1b[31mred\n".into();
        let report = report(rows);
        assert!(plain(&report.to_tables(80)).contains("{1b}[31mred\\n"));
        assert!(report.to_json().unwrap().contains(r#""files/\\u{1b}[31mred\\n""#));
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let json = serde_json::to_value(report(rows())).unwrap();
        let keys = |value: &serde_json::Value| {
            let keys = value.as_object().unwrap().keys().map(String::as_str);
            keys.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&json), "holders kept linux owner promise reach source version");
        assert_eq!(keys(&json["source"]), "bytes dirs files from links skipped stopped");
        assert_eq!(keys(&json["reach"]), "mode mounted_on recovered why");
        assert_eq!(json["reach"]["mode"], "mount");
        let holder = &json["holders"][0];
        assert_eq!(keys(holder), "after_micros as_expected expected got holds linux pid who");
        assert_eq!(keys(&json["promise"][0]), "held point says seen");
        assert_eq!(json["owner"]["driver_micros"], 5100);
        assert!(json["linux"].is_null() && holder["linux"].is_null());
        let json = serde_json::to_value(report_beside(rows(), Some(comparison()))).unwrap();
        assert_eq!(keys(&json["linux"]), "group release remove_micros");
        let beside = |n: usize| &json["holders"][n]["linux"];
        assert_eq!(keys(beside(0)), "after_micros got holds still_asleep why_not");
        assert_eq!((&beside(2)["still_asleep"], &beside(2)["got"]), (&true.into(), &().into()));
        assert_eq!(beside(1)["why_not"], "no file of cgroup2 lets a reader sleep");
    }

    /// What Linux 6.18 gives.
    fn comparison() -> Comparison {
        let fate = |(role, _): (Role, Place)| {
            let fate = match role.holds_of_cgroup2() {
                Err(why) => Fate::NotOffered(why),
                Ok(path) if role.sleeps() => {
                    Fate::StillAsleep(path.into(), Duration::from_millis(1_004))
                }
                Ok(path) => {
                    Fate::Got(path.into(), role.expected(12), Duration::from_micros(12_345))
                }
            };
            (role, fate)
        };
        Comparison {
            release: "6.18".into(),
            group: "/cg/kernfs-demo-1".into(),
            removed: Duration::from_micros(90),
            fates: Role::MOUNTED.into_iter().map(fate).collect(),
        }
    }

    #[test]
    fn what_linux_gave_stands_beside_it() {
        let report = report_beside(rows(), Some(comparison()));
        for (width, title) in
            [(80, "HOLDER           HOLDS"), (120, "HOLDER            PID  HOLDS")]
        {
            let text = plain(&report.to_tables(width));
            assert!(text.contains(title), "{text}");
            assert!(text.contains("  12 B, ENODEV  12345 µs\n"), "{text}");
            assert!(text.contains("PRI|ERR       20 µs  still asleep     1.0 s\n"), "{text}");
            assert!(
                text.contains("\nLINUX 6.18: rmdir took 90 µs, of\n  /cg/kernfs-demo-1\n"),
                "{text}"
            );
            assert!(text.contains("\n  holds the group itself: half-way lister\n"), "{text}");
            assert!(
                text.contains("\n  - for no file of cgroup2 can be mapped: mapped page; mapping\n"),
                "{text}"
            );
            for line in text.lines() {
                assert!(line.width() <= width, "too wide: {line}");
            }
        }
    }
}
