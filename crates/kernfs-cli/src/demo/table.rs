//! Tables for terminals.

use std::fmt::Write;

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

/// Rows of cells in columns that are as wide as they must be.
pub(crate) struct Table {
    /// Those of one cell are headings.
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// A text in a table.
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// Makes a cell that is left-aligned.
    pub(crate) fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style, right: false }
    }

    /// Has it right-aligned.
    pub(crate) fn right_aligned(self) -> Self {
        Self { right: true, ..self }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

impl Table {
    /// Renders it with its styles.
    pub(crate) fn write_to(&self, out: &mut String) {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (n, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let Cell { text, style, right } = cell;
                let gap = if n > 0 { "  " } else { "" };
                // Padded outside the style, and not by `{:>}`, which counts characters.
                let pad = " ".repeat(width - cell.width());
                let (before, behind) = if *right { (&*pad, "") } else { ("", &*pad) };
                let _ = write!(line, "{gap}{before}{style}{text}{style:#}{behind}");
            }
            out.push_str(line.trim_end_matches(' '));
            out.push('\n');
        }
    }

    /// Cuts what is in a column, so that the table fits into so many columns of a terminal.
    pub(crate) fn elide(&mut self, column: usize, width: usize) {
        let widths = self.widths();
        let others = self.width() - widths[column];
        let width = width.saturating_sub(others).max(PATH_WIDTH);
        for row in &mut self.rows {
            row[column].text = elide(&row[column].text, width);
        }
    }

    /// Returns how many columns of a terminal it takes.
    pub(crate) fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    /// Leaves a column out.
    pub(crate) fn remove(&mut self, column: usize) {
        self.rows.iter_mut().for_each(|row| drop(row.remove(column)));
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        // A row of one cell is a heading and sets no width.
        for row in self.rows.iter().filter(|row| row.len() > 1) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        for row in self.rows.iter().filter(|row| row.len() == 1) {
            widths[0] = row[0].width().max(widths[0]);
        }
        widths
    }
}

/// The columns of a terminal between two cells.
const GAP: usize = 2;

/// What is left of a path at least.
const PATH_WIDTH: usize = 12;

/// Cuts a text in its middle to a width in columns; the end of a path tells most.
pub(crate) fn elide(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.into();
    }
    let room = width - 1;
    let head = fitting(text.chars(), room / 3);
    let tail = fitting(text.chars().rev(), room - room / 3);
    let (head, tail): (String, Vec<char>) = (head.collect(), tail.collect());
    head + "…" + &tail.into_iter().rev().collect::<String>()
}

fn fitting(chars: impl Iterator<Item = char>, width: usize) -> impl Iterator<Item = char> {
    let mut used = 0;
    chars.take_while(move |c| {
        used += c.to_string().width();
        used <= width
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_in_the_middle() {
        assert_eq!(elide("files/a", 20), "files/a");
        assert_eq!(elide("files/cpu0/cache/index0/shared_cpu_list", 20), "files/…ared_cpu_list");
        assert_eq!(elide("名名名名名名", 7), "名…名名");
    }

    #[test]
    fn a_column_is_cut_as_far_as_the_terminal_wants() {
        let mut table = Table {
            rows: vec![vec![
                Cell::new("files/cpu0/cache/index0", Style::new()),
                Cell::new("x", Style::new()),
            ]],
        };
        table.elide(0, 80);
        assert_eq!(table.rows[0][0].text, "files/cpu0/cache/index0");
        table.elide(0, 20);
        assert_eq!(table.rows[0][0].text, "files…ache/index0");
        table.elide(0, 1);
        assert_eq!(table.rows[0][0].width(), PATH_WIDTH);
    }
}
