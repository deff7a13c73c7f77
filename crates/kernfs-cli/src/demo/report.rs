//! What is printed: tables, or one JSON object.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::Serialize;

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
    after_micros: Option<u128>,
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
    pub(crate) fn new(source: Summary, reach: Reach, rows: Vec<Row>, facts: &Facts) -> Self {
        let promise = judge(&rows, facts);
        let kept = promise.iter().all(|point| point.held);
        let holders = rows.into_iter().map(Line::from).collect();
        let owner = Owner::new(facts);
        Self { version: Self::VERSION, kept, source, reach, holders, owner, promise }
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
        let mut table = Table { rows: vec![Vec::new()] };
        for title in ["HOLDER", "PID", "HOLDS", "EXPECTED", "GOT", "AFTER"] {
            let cell = Cell::new(title, BOLD);
            table.rows[0].push(if is_number(title) { cell.right_aligned() } else { cell });
        }
        for line in &self.holders {
            let style = verdict_style(line.as_expected);
            let pid = line.pid.map_or("-".into(), |pid| pid.to_string());
            let after = line.after_micros.map_or(String::new(), |micros| format!("{micros} µs"));
            let mut row = vec![
                Cell::new(line.who, PLAIN),
                Cell::new(pid, PLAIN).right_aligned(),
                Cell::new(line.holds.as_str(), PLAIN),
                Cell::new(line.expected.as_str(), PLAIN),
                Cell::new(line.got.as_deref().unwrap_or("nothing"), style),
                Cell::new(after, PLAIN).right_aligned(),
            ];
            if !line.as_expected {
                row.push(Cell::new("FAILED", BAD));
            }
            table.rows.push(row);
        }
        if !processes {
            table.rows.iter_mut().for_each(|row| drop(row.remove(PID_COLUMN)));
        }
        table.elide(if processes { PID_COLUMN + 1 } else { PID_COLUMN }, width);
        table
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

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        Self {
            who: row.role.name(),
            pid: row.pid,
            holds: printable(&row.holds),
            expected: row.expected.to_string(),
            as_expected: row.is_as_expected(),
            after_micros: row.got.as_ref().map(|(_, after)| after.as_micros()),
            got: row.got.map(|(answer, _)| answer.to_string()),
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

/// Where the process ids stand in the table of holders.
const PID_COLUMN: usize = 1;

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
    use std::time::Duration;
    use unicode_width::UnicodeWidthStr;

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
        let reuse = Reuse { served: true, dead: 11, dead_when_shown: true };
        let end = Balance { freed_once: 7, ..balance };
        Facts { removal, dead_after: 12, reuse, end, left_open: 0 }
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
        let source = Summary { from: "dir".into(), files: 1, dirs: 2, ..Summary::default() };
        Report::new(source, reach(), rows, &facts())
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
        assert_eq!(keys(&json), "holders kept owner promise reach source version");
        assert_eq!(keys(&json["source"]), "bytes dirs files from links skipped stopped");
        assert_eq!(keys(&json["reach"]), "mode mounted_on recovered why");
        assert_eq!(json["reach"]["mode"], "mount");
        let holder = &json["holders"][0];
        assert_eq!(keys(holder), "after_micros as_expected expected got holds pid who");
        assert_eq!(keys(&json["promise"][0]), "held point says seen");
        assert_eq!(json["owner"]["driver_micros"], 5100);
    }
}
