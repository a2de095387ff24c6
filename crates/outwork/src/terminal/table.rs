//! Tables of list commands: aligned columns, no borders, so that `awk` and people both read them.
//!
//! Cells are made harmless here, since names and titles come from other people.

use super::{Look, columns, pad, sanitize, style};

/// A table with a heading per column.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| sanitize::line(&cell)).collect();
        self.rows.push(cells);
    }

    /// The table as text. Ids are never cut; the last column may be as long as it likes.
    pub(crate) fn render(&self, look: &Look) -> String {
        let widths: Vec<usize> = self
            .headings
            .iter()
            .enumerate()
            .map(|(place, heading)| {
                let widest = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(place))
                    .map(|cell| columns(cell))
                    .max();
                widest.unwrap_or(0).max(columns(heading))
            })
            .collect();
        let line = |cells: &[String]| {
            let last = cells.len().saturating_sub(1);
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(place, (cell, width))| if place == last { cell.clone() } else { pad(cell, *width) })
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let headings: Vec<String> = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
        let mut out = look.paint(style::FAINT, &line(&headings));
        for row in &self.rows {
            out.push('\n');
            out.push_str(&line(row));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_are_harmless() {
        let mut table = Table::new(&["ID", "NAME", "STATE"]);
        table.row(["agent_1".into(), "日本".into(), "idle".into()]);
        table.row(["agent_22".into(), "a\x1b[31m".into(), "running".into()]);
        let look = Look {
            width: 80,
            colour: false,
            live: false,
        };
        assert_eq!(
            table.render(&look),
            "ID        NAME    STATE\nagent_1   日本    idle\nagent_22  a␛[31m  running"
        );
    }
}
