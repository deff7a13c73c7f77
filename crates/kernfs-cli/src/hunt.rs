//! `kernfs hunt`: a command is run again and again, and the plug is pulled at each operation.

// In the order in which to read them.
pub(crate) mod command;

mod report;

mod shell;

mod finding;

pub(crate) mod trial;

mod site;

pub(crate) mod over;

mod trap;

mod part;

mod action;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use self::action::{Action, On};
use self::finding::{Baselines, Finding};
use self::part::Part;
use self::site::Site;
use self::trap::{At, Plan, Step};
use self::trial::{Subject, Trial};
use crate::client::Outcome;
use crate::watchdog::Stage;
use crate::wrong_usage::WrongUsage;

/// What to hunt.
pub(crate) struct Options {
    pub(crate) subject: Subject,
    pub(crate) parts: Vec<Part>,
    pub(crate) on: On,
    pub(crate) action: Action,
    /// The operations at which the action is to happen; all if there are none.
    pub(crate) only: BTreeSet<usize>,
    /// How many runs there may be at once.
    pub(crate) jobs: NonZeroUsize,
}

/// What came out.
pub(crate) struct Hunt {
    pub(crate) undisturbed: Trial,
    /// Whether a second undisturbed run printed the same.
    pub(crate) same_output: bool,
    /// Whether a second undisturbed run did the same below the parts.
    pub(crate) same_steps: bool,
    pub(crate) hunted: Vec<Hunted>,
    /// Parts that the command does not touch.
    pub(crate) untouched: Vec<Part>,
}

/// What came out for one part.
pub(crate) struct Hunted {
    pub(crate) part: Arc<Part>,
    /// How many operations of the undisturbed run count.
    pub(crate) operations: usize,
    /// The run without the part.
    pub(crate) without: Trial,
    /// In the order of their operations.
    pub(crate) findings: Vec<Finding>,
    /// For each crash and hang, the first of its kind was tried again: these came out the same.
    pub(crate) again: BTreeSet<usize>,
}

/// Who wants to know how far it is.
pub(crate) trait Progress: Sync {
    /// Hears that a part is begun, with so many runs to come.
    fn part(&self, part: &Part, runs: usize);
    /// Hears of a run.
    fn run(&self, finding: &Finding);
}

/// What is slow takes so long, or half of the limit if that is less: enough for who counts on
/// milliseconds.
const DELAY: Duration = Duration::from_secs(2);

/// Runs the command as often as it takes.
///
/// # Errors
///
/// [`WrongUsage`] if the command does not do undisturbed what it has to; or it cannot be run.
pub(crate) fn run(options: &Options, progress: &dyn Progress, stage: &Stage) -> Result<Hunt> {
    stage.enter("making directories to mount on");
    let sites = (0..options.jobs.get()).map(|_| Site::new()).collect::<Result<Vec<_>>>()?;
    stage.enter("running the command undisturbed");
    let undisturbed = undisturbed(&options.subject, &sites[0])?;
    let second = options.subject.run(&sites[0], None)?;
    let mut hunt = Hunt {
        // What is said on stderr may have times and numbers of processes in it.
        same_output: (&undisturbed.outcome, &undisturbed.stdout)
            == (&second.outcome, &second.stdout),
        same_steps: true,
        undisturbed,
        hunted: Vec::new(),
        untouched: Vec::new(),
    };
    for part in &options.parts {
        let plan = options.plan(Arc::new(part.clone()), At::Start);
        let expected = plan.counted(&hunt.undisturbed);
        if expected.is_empty() {
            hunt.untouched.push(part.clone());
            continue;
        }
        let is_same = |(one, other): (&Step, &Step)| one.is(other);
        let again = plan.counted(&second);
        hunt.same_steps &=
            expected.len() == again.len() && expected.iter().zip(&*again).all(is_same);
        stage.enter(format!("taking {} away", part.name()));
        let hunted = hunt.part(options, plan, &expected, &sites, progress)?;
        hunt.hunted.push(hunted);
    }
    Ok(hunt)
}

fn undisturbed(subject: &Subject, site: &Site) -> Result<Trial> {
    let trial = subject.run(site, None)?;
    let last_words = || {
        let text = trial.stderr.text();
        text.lines().last().map(|line| format!(": {}", crate::printable::printable(line)))
    };
    let why = match &trial.outcome {
        Outcome::Exit(status) if subject.over.is_some() && *status == i32::from(over::FAILED) => {
            bail!(WrongUsage::from_error(
                last_words().unwrap_or_default().trim_start_matches(": ")
            ));
        }
        Outcome::Exit(_) => return Ok(trial),
        Outcome::Signal { .. } => trial.outcome.to_string(),
        Outcome::Hang(_) => format!("did not end in {} s", subject.limit.as_secs_f32()),
    };
    bail!(WrongUsage::from_error(format!(
        "undisturbed, the command {why}{}; expected one that ends by itself, in less than --timeout",
        last_words().unwrap_or_default()
    )))
}

impl Options {
    fn plan(&self, part: Arc<Part>, at: At) -> Plan {
        let delay = DELAY.min(self.subject.limit / 2);
        Plan { part, on: self.on, action: self.action, delay, at }
    }
}

impl Plan {
    /// Returns the operations of an undisturbed run that count.
    fn counted(&self, undisturbed: &Trial) -> Arc<[Step]> {
        undisturbed.seen.steps.iter().filter(|step| self.counts(step)).cloned().collect()
    }
}

impl Hunt {
    /// Takes one part away at each operation.
    fn part(
        &self,
        options: &Options,
        plan: Plan,
        expected: &Arc<[Step]>,
        sites: &[Site],
        progress: &dyn Progress,
    ) -> Result<Hunted> {
        let part = Arc::clone(&plan.part);
        // Of those that do not count, none is missing.
        let runs = if options.only.is_empty() { expected.len() } else { options.only.len() };
        progress.part(&part, runs);
        let without = options.subject.run(&sites[0], Some(plan))?;
        let baselines =
            Baselines { with: &self.undisturbed, without: &without, comparable: self.same_output };
        let chase = Chase { options, part: &part, expected, baselines, progress };
        let findings = chase.all(sites)?;
        let again = chase.again(&findings, &sites[0])?;
        Ok(Hunted { part, operations: expected.len(), without, findings, again })
    }
}

/// The runs for one part.
struct Chase<'a> {
    options: &'a Options,
    part: &'a Arc<Part>,
    expected: &'a Arc<[Step]>,
    baselines: Baselines<'a>,
    progress: &'a dyn Progress,
}

/// What the workers share.
struct Shared {
    /// How many operations were taken on.
    taken: AtomicUsize,
    /// The operation that was not reached any more, or where something went wrong.
    end: AtomicUsize,
    findings: Mutex<Vec<Finding>>,
}

impl Chase<'_> {
    /// Lets each site have its share, until there are no more operations.
    fn all(&self, sites: &[Site]) -> Result<Vec<Finding>> {
        let shared = Shared {
            taken: AtomicUsize::new(0),
            end: AtomicUsize::new(usize::MAX),
            findings: Mutex::default(),
        };
        thread::scope(|scope| {
            let shared = &shared;
            let work = |site| scope.spawn(move || self.work(shared, site));
            let workers: Vec<_> = sites.iter().map(work).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Result<()>>| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // All are waited for, also where one fails.
            let results: Vec<_> = workers.into_iter().map(join).collect();
            results.into_iter().collect::<Result<()>>()
        })?;
        let mut findings = shared.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        findings.sort_by_key(|finding| finding.k);
        Ok(findings)
    }

    fn work(&self, shared: &Shared, site: &Site) -> Result<()> {
        loop {
            let n = shared.taken.fetch_add(1, Ordering::Relaxed);
            let only = &self.options.only;
            let k = if only.is_empty() { Some(n + 1) } else { only.iter().nth(n).copied() };
            let Some(k) = k.filter(|&k| k < shared.end.load(Ordering::Relaxed)) else {
                return Ok(());
            };
            let trial = self.options.subject.run(site, Some(self.at(k)));
            let trial = trial.inspect_err(|_| shared.end.store(0, Ordering::Relaxed))?;
            match Finding::new(k, trial, &self.baselines) {
                Some(finding) => {
                    self.progress.run(&finding);
                    shared.add(finding);
                }
                // It made fewer operations; a run with a smaller number may still be under way.
                None => drop(shared.end.fetch_min(k, Ordering::Relaxed)),
            }
        }
    }

    /// Tries the first crash and hang of each kind again; returns those that came again.
    fn again(&self, findings: &[Finding], site: &Site) -> Result<BTreeSet<usize>> {
        let mut again = BTreeSet::new();
        for (at, finding) in findings.iter().enumerate() {
            let is_first = findings[..at].iter().all(|before| !before.is_like(finding));
            if !finding.meaning.is_bad() || !is_first {
                continue;
            }
            let trial = self.options.subject.run(site, Some(self.at(finding.k)))?;
            let second = Finding::new(finding.k, trial, &self.baselines);
            if second.is_some_and(|second| second.meaning == finding.meaning) {
                again.insert(finding.k);
            }
        }
        Ok(again)
    }

    fn at(&self, k: usize) -> Plan {
        let expected = Arc::clone(self.expected);
        self.options.plan(Arc::clone(self.part), At::Operation { k, expected })
    }
}

impl Shared {
    /// Keeps a finding; what was printed only of the first of its kind.
    fn add(&self, mut finding: Finding) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.iter().any(|other| other.is_like(&finding)) {
            finding.printed = None;
        }
        findings.push(finding);
    }
}
