//! All subjects beside each other.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::cases::{Case, all};
use crate::report::{Outcome, Report, run};
use crate::subject::{Needs, Subject};
use crate::{Cgroup2, InProcess, Mounted, Sysfs};

/// What became of all cases that a system call can show, with each subject.
#[derive(Debug)]
pub struct Matrix {
    cases: Vec<Case>,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    outcomes: Vec<Outcome>,
}

impl Matrix {
    /// Puts the cases that `filter` accepts to all subjects, one after the other.
    ///
    /// A subject that is not to be had here skips all of them, with the reason.
    pub fn run(filter: impl Fn(&Case) -> bool) -> Self {
        // One at a time: the subjects of the kernel share the group of this process.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let is_for_all = |case: &Case| !case.needs.contains(Needs::LIBRARY) && filter(case);
        let cases: Vec<_> = all().into_iter().filter(is_for_all).collect();
        let column = |name, subject: Result<Box<dyn Subject>, String>| {
            let outcomes = match subject {
                Ok(subject) => run(&*subject, is_for_all).into_outcomes(),
                Err(reason) => vec![Outcome::Skipped(reason); cases.len()],
            };
            Column { name, outcomes }
        };
        let columns = vec![
            column("in process", Ok(Box::new(InProcess::new()))),
            column("mount", Mounted::subject().map(|subject| Box::new(subject) as _)),
            column("groups", InProcess::cgroups().map(|subject| Box::new(subject) as _)),
            column("groups mt", Mounted::cgroups().map(|subject| Box::new(subject) as _)),
            column("cgroup2", Cgroup2::subject().map(|subject| Box::new(subject) as _)),
            column("sysfs", Sysfs::subject().map(|subject| Box::new(subject) as _)),
        ];
        Self { cases, columns }
    }

    /// Tells whether no case failed.
    pub fn is_good(&self) -> bool {
        let mut outcomes = self.columns.iter().flat_map(|column| &column.outcomes);
        !outcomes.any(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// Returns the number of cases that each subject showed, as expected of it.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.columns.iter().map(|column| {
            let shown =
                |outcome: &&Outcome| matches!(outcome, Outcome::Passed | Outcome::Differs(_));
            (column.name, column.outcomes.iter().filter(shown).count())
        })
    }

    /// Writes the notes below the table: what a word in it stands for, each once.
    fn notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for column in &self.columns {
            let mut known: Vec<(String, Vec<&str>)> = Vec::new();
            for (case, outcome) in self.cases.iter().zip(&column.outcomes) {
                let (word, detail) = verdict(outcome);
                let text = format!("{word}: {detail}");
                match known.iter_mut().find(|(other, _)| *other == text) {
                    _ if detail.is_empty() => {}
                    Some((_, numbers)) => numbers.push(case.number),
                    None => known.push((text, vec![case.number])),
                }
            }
            if !known.is_empty() {
                writeln!(f, "\n{}", column.name)?;
            }
            for (text, numbers) in known {
                writeln!(f, "  {text} ({})", numbers.join(", "))?;
            }
        }
        Ok(())
    }
}

fn verdict(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Passed => ("ok", ""),
        Outcome::Differs(how) => ("differs", how),
        Outcome::Skipped(reason) => ("skip", reason),
        Outcome::KnownFailure(what) => ("KNOWN", what),
        Outcome::Failed(message) => ("FAILED", message),
    }
}

impl Report {
    fn into_outcomes(self) -> Vec<Outcome> {
        self.lines().iter().map(|(_, outcome)| outcome.clone()).collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.cases.iter().map(|case| case.title.chars().count()).max().unwrap_or(0);
        let row = |f: &mut fmt::Formatter<'_>, number, title, words: Vec<&str>| {
            let words: Vec<_> = words.into_iter().map(|word| format!("{word:10}")).collect();
            writeln!(
                f,
                "{}",
                format!("{number:>4}  {title:width$}  {}", words.join("  ")).trim_end()
            )
        };
        row(f, "", "", self.columns.iter().map(|column| column.name).collect())?;
        let mut group = None;
        for (at, case) in self.cases.iter().enumerate() {
            if group.replace(case.group) != Some(case.group) {
                writeln!(f, "\n{}", case.group)?;
            }
            let words = self.columns.iter().map(|column| verdict(&column.outcomes[at]).0);
            row(f, case.number, case.title, words.collect())?;
        }
        self.notes(f)?;
        writeln!(f)?;
        const COUNTED: [(&str, &str); 5] = [
            ("ok", "ok"),
            ("differs", "differs as expected"),
            ("skip", "skipped"),
            ("KNOWN", "known failures of ours"),
            ("FAILED", "FAILED"),
        ];
        for (word, title) in COUNTED {
            let counts = self.columns.iter().map(|column| {
                let is_word = |outcome: &&Outcome| verdict(outcome).0 == word;
                format!("{} {}", column.name, column.outcomes.iter().filter(is_word).count())
            });
            let counts: Vec<_> = counts.collect();
            // The last line has no end, as the lines of others have not.
            let separator = if word == "ok" { "" } else { "\n" };
            write!(f, "{separator}{title}: {}", counts.join(", "))?;
        }
        Ok(())
    }
}
