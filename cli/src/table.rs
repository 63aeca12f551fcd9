//! Tables for people.
//!
//! Columns are as wide as their longest cell. Where the terminal is narrower, the widest columns that may shrink do so,
//! and what no longer fits ends in `…`. Away from a terminal nothing is cut: other programs read it.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

/// Between two columns.
const GAP: &str = "  ";
/// A column that shrinks keeps this much.
const WIDTH_MIN: usize = 8;

/// Rows under headers. Cells may carry colours.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    header: String,
    alignment: Alignment,
    may_shrink: bool,
}

impl Table {
    /// Headers may start with a mark: `>` aligns to the right (numbers), `~` may be cut (long texts).
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        let column = |header: &str| {
            let (alignment, may_shrink, text) = match header.split_at_checked(1) {
                Some((">", text)) => (Alignment::Right, false, text),
                Some(("~", text)) => (Alignment::Left, true, text),
                _ => (Alignment::Left, false, header),
            };
            Column { header: text.to_owned(), alignment, may_shrink }
        };
        Self { columns: headers.iter().map(|header| column(header)).collect(), rows: Vec::new() }
    }

    /// Adds a row with a cell for every header. A cell is one line.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into_iter().map(|cell| cell.replace('\n', " ")).collect());
    }

    /// The lines of the table, headers first, at most `width` columns wide where that is possible.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widths = self.widths(width);
        let headers: Vec<String> = self.columns.iter().map(|column| column.header.clone()).collect();
        std::iter::once(&headers).chain(&self.rows).map(|cells| self.render(cells, &widths)).collect()
    }

    /// Prints the table on stdout, as wide as the terminal allows.
    pub fn print(&self) -> anyhow::Result<()> {
        self.lines(crate::output::width()).into_iter().try_for_each(crate::output::line)
    }

    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let longest = |(i, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| measure_text_width(&row[i]));
            cells.chain([measure_text_width(&column.header)]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = self.columns.iter().enumerate().map(longest).collect();
        let Some(width) = width else { return widths };
        loop {
            let total = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
            let excess = total.saturating_sub(width);
            let widest = (0..widths.len())
                .filter(|i| self.columns[*i].may_shrink && widths[*i] > WIDTH_MIN)
                .max_by_key(|i| widths[*i]);
            match widest {
                Some(i) if excess > 0 => widths[i] -= 1,
                _ => return widths,
            }
        }
    }

    fn render(&self, cells: &[String], widths: &[usize]) -> String {
        let pad = |((cell, column), width): ((&String, &Column), &usize)| {
            let cell = truncate_str(cell, *width, "…");
            pad_str(&cell, *width, column.alignment, None).into_owned()
        };
        let cells: Vec<String> = cells.iter().zip(&self.columns).zip(widths).map(pad).collect();
        cells.join(GAP).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(rows: &[(&str, &str, &str)]) -> Table {
        let mut table = Table::new(["APP", ">READY", "~REASON"]);
        for (app, ready, reason) in rows {
            table.row([(*app).to_owned(), (*ready).to_owned(), (*reason).to_owned()]);
        }
        table
    }

    #[test]
    fn numbers_stand_right_and_lines_have_no_trailing_blanks() {
        let lines = table(&[("hello", "1/2", ""), ("a", "10/10", "fine")]).lines(None);
        assert_eq!(lines, ["APP    READY  REASON", "hello    1/2", "a      10/10  fine"]);
    }

    #[test]
    fn a_narrow_terminal_cuts_only_what_may_be_cut() {
        let lines = table(&[("hello", "1/2", "the guest ended with exit code 3")]).lines(Some(26));
        assert_eq!(lines[1], "hello    1/2  the guest e…");
        let whole = table(&[("hello", "1/2", "the guest ended with exit code 3")]).lines(None);
        assert!(whole[1].ends_with("exit code 3"));
    }

    #[test]
    fn line_ends_in_a_cell_stay_in_its_row() {
        assert_eq!(table(&[("a", "1", "x\ny")]).lines(None).len(), 2);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(cells in proptest::collection::vec("[a-z ]{0,80}", 0..10), width in 30..200_usize) {
            let mut table = Table::new(["APP", ">READY", "~REASON"]);
            for cell in cells {
                table.row(["app".to_owned(), "1/1".to_owned(), cell]);
            }
            for line in table.lines(Some(width)) {
                prop_assert!(measure_text_width(&line) <= width);
            }
        }
    }
}
