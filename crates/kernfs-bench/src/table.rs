//! The table that is printed.

use crate::measure::{Figures, Samples};

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The times, or the size.
    pub figures: Figures,
    /// `ns`, or `bytes`.
    pub unit: &'static str,
    /// In what else it is expressed: how many of which.
    pub ratios: Vec<(Figures, &'static str)>,
    /// What the first ratio shall not exceed.
    pub target: Option<f64>,
    /// What there is to add.
    pub note: String,
}

impl Row {
    /// A time in nanoseconds for one operation.
    #[must_use]
    pub fn time(samples: &Samples) -> Self {
        Self {
            what: samples.name.clone(),
            figures: samples.figures(),
            unit: "ns",
            ratios: Vec::new(),
            target: None,
            note: String::new(),
        }
    }

    /// A size in bytes.
    pub fn bytes(what: impl Into<String>, bytes: f64) -> Self {
        Self {
            what: what.into(),
            figures: Figures::exact(bytes),
            unit: "bytes",
            ratios: Vec::new(),
            target: None,
            note: String::new(),
        }
    }

    /// Adds a ratio.
    #[must_use]
    pub fn ratio(mut self, ratio: Figures, of: &'static str) -> Self {
        self.ratios.push((ratio, of));
        self
    }

    /// Sets what the first ratio shall not exceed.
    #[must_use]
    pub fn target(mut self, most: f64) -> Self {
        self.target = Some(most);
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// Makes a row of each case, with its ratio to the first one.
#[must_use]
pub fn rows_over_first(samples: &[Samples], unit: &'static str) -> Vec<Row> {
    let first = &samples[0];
    samples.iter().map(|samples| Row::time(samples).ratio(samples.over(first), unit)).collect()
}

/// Prints what the columns are.
pub fn print_head() {
    println!("Time of one operation in ns, or size in bytes: median, and min..max of all rounds.");
    println!("Ratios are medians of the ratios of each round; in brackets their min..max.");
}

/// Prints the rows of a section.
pub fn print_section(name: &str, rows: &[Row]) {
    let rounds = rows.iter().map(|row| row.figures.rounds).max().unwrap_or(0);
    println!("\n{name} ({rounds} rounds)");
    for row in rows {
        let Row { what, figures, unit, .. } = row;
        let range = if figures.rounds > 1 {
            format!("{}..{}", number(figures.min), number(figures.max))
        } else {
            String::new()
        };
        let mut line = format!("  {what:<46} {:>9} {unit:<5} {range:<20}", number(figures.median));
        for (at, (ratio, of)) in row.ratios.iter().enumerate() {
            let range = format!("[{:.2}..{:.1}]", ratio.min, ratio.max);
            line += &format!(" {:>7.2} {of} {range:<14}", ratio.median);
            if let (0, Some(target)) = (at, row.target) {
                let verdict = if ratio.median <= target { "met" } else { "MISSED" };
                line += &format!(" target {target}: {verdict}");
            }
        }
        if !row.note.is_empty() {
            line += &format!(" {}", row.note);
        }
        println!("{}", line.trim_end());
    }
}

/// Three digits that count, without exponents.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
