//! What is printed: text, or one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use serde::Serialize;
use similar::TextDiff;

use super::finding::{Finding, Meaning, name};
use super::trial::{Printed, Trial};
use super::{Hunt, Hunted};
use crate::client::Outcome;
use crate::demo::table::elide;
use crate::printable::{plural, printable};

/// What came out of a hunt; its JSON is described in `kernfs hunt --help`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    /// Whether nothing crashed and nothing hung.
    pub(crate) clean: bool,
    command: Vec<String>,
    tree: String,
    nodes: usize,
    action: &'static str,
    on: &'static str,
    timeout_secs: f64,
    undisturbed: Undisturbed,
    parts: Vec<PartReport>,
    untouched: Vec<String>,
    /// Whether outputs are to be shown, since only a few runs were asked for.
    #[serde(skip)]
    shows_output: bool,
}

/// What is known beforehand.
pub(crate) struct Heading {
    pub(crate) command: Vec<String>,
    pub(crate) tree: String,
    pub(crate) nodes: usize,
    pub(crate) action: &'static str,
    pub(crate) on: &'static str,
    pub(crate) timeout: Duration,
    /// Whether only a few runs were asked for.
    pub(crate) is_of_few: bool,
}

/// What the command does when nothing is taken away.
#[derive(Debug, Serialize)]
struct Undisturbed {
    status: i32,
    /// The last line on stderr.
    says: Option<String>,
    operations: u64,
    millis: u128,
    same_output: bool,
    same_operations: bool,
}

/// What came out for a part.
#[derive(Debug, Serialize)]
struct PartReport {
    path: String,
    links: Vec<String>,
    operations: usize,
    runs: usize,
    /// Runs in which something else happened before the action than undisturbed.
    diverged: usize,
    /// How the run without the part ended.
    without: String,
    #[serde(skip)]
    without_is_bad: bool,
    groups: Vec<Group>,
    findings: Vec<Line>,
}

/// Runs that came to the same.
#[derive(Debug, Serialize)]
struct Group {
    meaning: Meaning,
    says: String,
    leaks: bool,
    ks: Vec<usize>,
    /// How many runs struck at each kind of operation.
    at: BTreeMap<&'static str, usize>,
    first: Line,
    /// Whether the first came out the same when it was tried again; `None` where it was not.
    again: Option<bool>,
    places: Vec<String>,
    stdout: String,
    stderr: String,
    reproduce: String,
    #[serde(skip)]
    diff: String,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
struct Line {
    k: usize,
    operation: &'static str,
    path: String,
    meaning: Meaning,
    leaked: usize,
    diverged: Option<usize>,
    operations_after: u64,
    millis: u128,
}

impl Report {
    /// The version of the JSON object.
    const VERSION: u32 = 1;

    /// Puts together what came out; `reproduce` says how to come to one operation of one part.
    pub(crate) fn new(
        heading: Heading,
        hunt: &Hunt,
        reproduce: impl Fn(&[u8], usize) -> String,
    ) -> Self {
        let parts = hunt.hunted.iter();
        let parts: Vec<_> = parts.map(|it| PartReport::new(it, hunt, &reproduce)).collect();
        let all = parts.iter().flat_map(|part| &part.groups);
        Self {
            version: Self::VERSION,
            clean: { all }.all(|group| !group.meaning.is_bad()),
            command: heading.command,
            tree: heading.tree,
            nodes: heading.nodes,
            action: heading.action,
            on: heading.on,
            timeout_secs: heading.timeout.as_secs_f64(),
            undisturbed: Undisturbed::new(hunt),
            parts,
            untouched: hunt.untouched.iter().map(super::part::Part::name).collect(),
            shows_output: heading.is_of_few,
        }
    }

    /// Renders the JSON object, with a line break at its end.
    ///
    /// # Errors
    ///
    /// None is known.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Renders it for people, with colours.
    pub(crate) fn to_text(&self, width: usize) -> String {
        let mut out = String::new();
        self.write_heading(&mut out);
        for part in &self.parts {
            part.write_to(&mut out, self, width);
        }
        self.write_verdict(&mut out);
        out
    }

    fn write_heading(&self, out: &mut String) {
        let command = super::shell::line(&self.command);
        let Undisturbed { status, operations, millis, .. } = self.undisturbed;
        let says = self.undisturbed.says.as_ref().filter(|_| status != 0);
        let _ = writeln!(out, "{BOLD}{command}{BOLD:#}");
        let _ = writeln!(out, "on {}, {}", self.tree, plural(self.nodes, "node", "nodes"));
        let _ = writeln!(out, "undisturbed: status {status}, {operations} operations, {millis} ms");
        if let Some(says) = says {
            let _ = writeln!(out, "  {says}");
        }
        if !self.undisturbed.same_output {
            out.push_str("Its output is another one each time: it is not compared.\n");
        }
        if !self.undisturbed.same_operations {
            out.push_str("Its operations are others each time: k is not the same twice.\n");
        }
        out.push('\n');
    }

    fn write_verdict(&self, out: &mut String) {
        if !self.untouched.is_empty() {
            let parts = plural(self.untouched.len(), "part is", "parts are");
            let _ = writeln!(out, "{parts} not touched by the command.\n");
        }
        let runs: usize = self.parts.iter().map(|part| part.runs).sum();
        let count = |name: &str| {
            let groups = self.parts.iter().flat_map(|part| &part.groups);
            let groups = groups.filter(|group| group.meaning.name() == name);
            groups.map(|group| group.ks.len()).sum::<usize>()
        };
        let (crashes, hangs) = (count("crash"), count("hang"));
        let style = if self.clean { GOOD } else { BAD };
        let _ = writeln!(
            out,
            "{style}{}, {}{style:#} in {}.",
            plural(crashes, "crash", "crashes"),
            plural(hangs, "hang", "hangs"),
            plural(runs, "run", "runs")
        );
    }
}

impl Undisturbed {
    fn new(hunt: &Hunt) -> Self {
        let trial = &hunt.undisturbed;
        let Outcome::Exit(status) = trial.outcome else { unreachable!("others are refused") };
        Self {
            status,
            says: trial.stderr.text().lines().last().map(printable),
            operations: trial.seen.total,
            millis: trial.after.as_millis(),
            same_output: hunt.same_output,
            same_operations: hunt.same_steps,
        }
    }
}

impl PartReport {
    fn new(hunted: &Hunted, hunt: &Hunt, reproduce: impl Fn(&[u8], usize) -> String) -> Self {
        let mut groups: Vec<Vec<&Finding>> = Vec::new();
        for finding in &hunted.findings {
            match groups.iter_mut().find(|group| group[0].is_like(finding)) {
                Some(group) => group.push(finding),
                None => groups.push(vec![finding]),
            }
        }
        groups.sort_by(|a, b| (&a[0].meaning, a[0].k).cmp(&(&b[0].meaning, b[0].k)));
        let path = &hunted.part.path;
        let group = |findings: Vec<&Finding>| {
            let reproduce = reproduce(path, findings[0].k);
            Group::new(&findings, hunted, hunt, reproduce)
        };
        use std::os::unix::ffi::OsStrExt;
        let links = hunted.part.links.iter();
        Self {
            path: hunted.part.name(),
            links: links.map(|link| printable(std::ffi::OsStr::from_bytes(link))).collect(),
            operations: hunted.operations,
            runs: hunted.findings.len(),
            diverged: hunted.findings.iter().filter(|it| it.diverged.is_some()).count(),
            without: hunted.without.outcome.to_string(),
            without_is_bad: !matches!(hunted.without.outcome, Outcome::Exit(_)),
            groups: groups.into_iter().map(group).collect(),
            findings: hunted.findings.iter().map(Line::new).collect(),
        }
    }

    fn write_to(&self, out: &mut String, report: &Report, width: usize) {
        let _ = writeln!(
            out,
            "{BOLD}{}{BOLD:#}: {}, {}",
            self.path,
            report.action,
            match self.runs {
                runs if runs >= self.operations => {
                    format!("at each of {}", plural(runs, "operation", "operations"))
                }
                runs => format!("at {runs} of {} operations", self.operations),
            }
        );
        if self.without_is_bad {
            let _ = writeln!(out, "  Without it from the start, the command {}.", self.without);
        }
        for group in &self.groups {
            group.write_to(out, report.shows_output, width);
        }
        if self.diverged > 0 {
            let _ = writeln!(
                out,
                "  {} took another way before the action than the undisturbed run.",
                plural(self.diverged, "run", "runs")
            );
        }
        out.push('\n');
    }
}

impl Group {
    fn new(findings: &[&Finding], hunted: &Hunted, hunt: &Hunt, reproduce: String) -> Self {
        let first = findings[0];
        let mut at = BTreeMap::new();
        for finding in findings {
            *at.entry(finding.step.kind.name()).or_default() += 1;
        }
        let printed = findings.iter().find_map(|finding| finding.printed.as_deref());
        let text = |at: usize| printed.map(|printed| printed[at].text()).unwrap_or_default();
        let diff = printed.map(|[stdout, _]| diff(&hunt.undisturbed, &hunted.without, stdout));
        Self {
            meaning: first.meaning.clone(),
            says: says(&first.meaning),
            leaks: first.leaked > 0,
            ks: findings.iter().map(|finding| finding.k).collect(),
            at,
            first: Line::new(first),
            again: first.meaning.is_bad().then(|| hunted.again.contains(&first.k)),
            places: first.places.clone(),
            stdout: text(0),
            stderr: text(1),
            reproduce,
            diff: diff.unwrap_or_default(),
        }
    }

    fn write_to(&self, out: &mut String, shows_output: bool, width: usize) {
        let style = style_of(&self.meaning, self.leaks);
        let name = self.meaning.name();
        let says = elide(&self.says, width - INDENT);
        let _ = writeln!(out, "  {style}{name:<10}{style:#} {:>5}  {says}", self.ks.len());
        let is_fine = matches!(self.meaning, Meaning::With | Meaning::Without);
        if is_fine && !self.leaks && !shows_output {
            return;
        }
        let indent = " ".repeat(INDENT);
        if self.leaks {
            let files = plural(self.first.leaked, "more file is", "more files are");
            let _ = writeln!(out, "{indent}{BAD}leak{BAD:#}: {files} left open at the end");
        }
        let ks = fitting(&ranges(&self.ks), width - INDENT);
        let _ = writeln!(out, "{indent}k = {ks}");
        let Line { operation, path, .. } = &self.first;
        let before = format!("first before {operation} of ");
        let path = elide(path, width - INDENT - before.len());
        let _ = writeln!(out, "{indent}{before}{path}");
        if self.again == Some(false) {
            let _ = writeln!(out, "{indent}tried again, it did not come again");
        }
        for place in &self.places {
            let _ = writeln!(out, "{indent}{}", elide(place, width - INDENT));
        }
        if shows_output {
            write_lines(out, "stdout, beside the nearest of those with and without", &self.diff);
            write_lines(out, "stderr", &self.stderr);
        } else {
            // Not cut, and not far in: it is to be pasted.
            let _ = writeln!(out, "    $ {}", self.reproduce);
        }
    }
}

/// Says what a meaning means.
fn says(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Crash { signal, by_shell: false } => format!("killed by {signal}"),
        Meaning::Crash { signal, by_shell: true } => format!("a shell tells of {signal}"),
        Meaning::Hang { place } => place.clone(),
        Meaning::Silent => "stdout neither as with the part nor as without it".into(),
        Meaning::Failed { status } => format!("ended with status {status}"),
        Meaning::Told => "as silent, but stderr is another one too".into(),
        Meaning::Without => "all as without the part".into(),
        Meaning::With => "all as with the part".into(),
        Meaning::Uncompared => "ended as it does with the part or without".into(),
    }
}

fn style_of(meaning: &Meaning, leaks: bool) -> Style {
    match meaning {
        Meaning::Crash { .. } | Meaning::Hang { .. } => BAD,
        Meaning::Silent | Meaning::Failed { .. } | Meaning::Told => ODD,
        _ if leaks => ODD,
        _ => GOOD,
    }
}

/// Says what changed in the output, beside the baseline that is nearer.
fn diff(with: &Trial, without: &Trial, stdout: &Printed) -> String {
    let text = escaped(&stdout.text());
    let diffs = [with, without].map(|base| {
        let base = escaped(&base.stdout.text());
        let diff = TextDiff::configure().timeout(DIFF_LIMIT).diff_lines(&base, &text);
        diff.unified_diff().context_radius(1).to_string()
    });
    diffs.into_iter().min_by_key(String::len).unwrap_or_default()
}

/// How long two outputs are compared to find the shortest difference.
const DIFF_LIMIT: Duration = Duration::from_millis(500);

fn escaped(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// How many lines of an output are shown.
const LINES_MAX: usize = 40;

fn write_lines(out: &mut String, title: &str, text: &str) {
    if text.is_empty() {
        return;
    }
    let _ = writeln!(out, "    {title}:");
    let lines: Vec<_> = text.lines().collect();
    for line in lines.iter().take(LINES_MAX) {
        let _ = writeln!(out, "      {}", printable(line));
    }
    if lines.len() > LINES_MAX {
        let _ = writeln!(out, "      ({} more lines)", lines.len() - LINES_MAX);
    }
}

/// Writes numbers that follow each other as a range.
fn ranges(ks: &[usize]) -> Vec<String> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &k in ks {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == k => *last = k,
            _ => ranges.push((k, k)),
        }
    }
    let text =
        |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect()
}

/// Joins as many as fit.
fn fitting(ranges: &[String], width: usize) -> String {
    let mut text = String::new();
    for (at, range) in ranges.iter().enumerate() {
        // Room for what says that there are more.
        if at > 0 && text.len() + range.len() + 10 > width {
            return text + ", ...";
        }
        text += if at > 0 { ", " } else { "" };
        text += range;
    }
    text
}

/// Where the text of a group begins: behind its name and number.
const INDENT: usize = 20;

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const ODD: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

impl Line {
    fn new(finding: &Finding) -> Self {
        Self {
            k: finding.k,
            operation: finding.step.kind.name(),
            path: name(&finding.step),
            meaning: finding.meaning.clone(),
            leaked: finding.leaked,
            diverged: finding.diverged,
            operations_after: finding.since,
            millis: finding.after.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_put_together() {
        assert_eq!(ranges(&[1, 2, 3, 5, 7, 8]), ["1-3", "5", "7-8"]);
        assert_eq!(ranges(&[]), [""; 0]);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let all: Vec<_> = (1..100).map(|k| (2 * k).to_string()).collect();
        let text = fitting(&all, 60);
        assert!(
            text.len() <= 60 && text.starts_with("2, 4, 6") && text.ends_with(", ..."),
            "{text}"
        );
        assert_eq!(fitting(&all[..2], 60), "2, 4");
    }
}
