//! Runs cases against a subject and tells what became of them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cases::{Case, Env, all};
use crate::subject::{Needs, Subject};

/// Puts every case whose number or title `filter` accepts to a subject.
pub fn run(subject: &dyn Subject, filter: impl Fn(&Case) -> bool) -> Report {
    let cases = all().into_iter().filter(filter);
    let lines = cases.map(|case| (case, run_case(subject, &case))).collect();
    Report { subject: subject.name(), lines }
}

fn run_case(subject: &dyn Subject, case: &Case) -> Outcome {
    let missing = case.needs.difference(subject.can());
    if !missing.is_empty() {
        let known = missing.iter().find_map(|need| subject.why_not(need));
        return Outcome::Skipped(known.unwrap_or_else(|| reason(missing)));
    }
    let env = Env::new(subject);
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&env)));
    if let (Ok(()), Some(why)) = (&result, env.skipped()) {
        return Outcome::Skipped(why);
    }
    if let (Ok(()), Some(what)) = (&result, env.failure()) {
        return Outcome::KnownFailure(what);
    }
    match result {
        Ok(()) if env.differences().is_empty() => Outcome::Passed,
        Ok(()) => Outcome::Differs(env.differences().join("; ")),
        Err(panic) => Outcome::Failed(message(&*panic)),
    }
}

fn reason(missing: Needs) -> String {
    let names: Vec<_> = missing.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    format!("this subject has no {}", names.join(", no ").replace('_', " "))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The subject behaves as the contract says.
    Passed,
    /// It was checked to behave differently in this, as is known of such a subject.
    Differs(String),
    /// The subject cannot show it, for this reason.
    Skipped(String),
    /// It has a defect that is known, and not mended yet.
    KnownFailure(String),
    /// It behaves differently: how.
    Failed(String),
}

/// What became of all cases.
#[derive(Debug)]
pub struct Report {
    subject: String,
    lines: Vec<(Case, Outcome)>,
}

impl Report {
    /// Returns each case with its outcome.
    pub fn lines(&self) -> &[(Case, Outcome)] {
        &self.lines
    }

    /// Tells whether no case failed.
    pub fn is_good(&self) -> bool {
        !self.lines.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }

    fn count(&self, kind: fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|(_, outcome)| kind(outcome)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        let width = self.lines.iter().map(|(case, _)| case.title.chars().count()).max();
        let width = width.unwrap_or(0);
        let mut group = None;
        for (case, outcome) in &self.lines {
            if group.replace(case.group) != Some(case.group) {
                writeln!(f, "\n{}", case.group)?;
            }
            let (verdict, detail) = match outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Differs(how) => ("differs", how.as_str()),
                Outcome::Skipped(reason) => ("skipped", reason.as_str()),
                Outcome::KnownFailure(what) => ("KNOWN", what.as_str()),
                Outcome::Failed(message) => ("FAILED", message.as_str()),
            };
            let line = format!("{:>5}  {:width$}  {verdict:7}  {detail}", case.number, case.title);
            writeln!(f, "{}", line.trim_end())?;
        }
        let passed = self.count(|outcome| matches!(outcome, Outcome::Passed));
        let differ = self.count(|outcome| matches!(outcome, Outcome::Differs(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        write!(f, "\n{passed} passed, {differ} differ as expected, ")?;
        let known = self.count(|outcome| matches!(outcome, Outcome::KnownFailure(_)));
        if known > 0 {
            write!(f, "{known} known to fail, ")?;
        }
        write!(f, "{skipped} skipped, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_panics_has_failed_with_its_message() {
        let case = Case {
            number: "0",
            group: "Z. Nothing",
            title: "fails",
            needs: Needs::empty(),
            run: |_| panic!("left {}, right {}", 1, 2),
        };
        let subject = crate::InProcess::new();
        let outcome = run_case(&subject, &case);
        assert_eq!(outcome, Outcome::Failed("left 1, right 2".into()));
        let report = Report { subject: "nobody".into(), lines: vec![(case, outcome)] };
        assert!(!report.is_good());
        let table = report.to_string();
        assert!(table.contains("    0  fails  FAILED   left 1, right 2"), "{table}");
    }
}
