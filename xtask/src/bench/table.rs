//! The table: per row the minimum, the median and the 95th percentile of ours, the same of the peer, and the
//! ratio of the medians. Machines are noisy; the ratio is what travels.

/// One figure, measured some times.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    ours: Summary,
    peer: Option<(String, Summary)>,
    goal: Option<&'static str>,
}

impl Row {
    /// A row of ours alone, from every measurement.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, ours: Vec<f64>) -> Self {
        Self::of(what, unit, Summary::of(&ours))
    }

    /// A row of ours alone, from figures that were summed up elsewhere.
    pub(crate) fn of(what: impl Into<String>, unit: &'static str, ours: Summary) -> Self {
        Self {
            what: what.into(),
            unit,
            ours,
            peer: None,
            goal: None,
        }
    }

    /// Beside it the peer's, measured in turn with ours.
    pub(crate) fn beside(mut self, name: impl Into<String>, peer: Summary) -> Self {
        self.peer = Some((name.into(), peer));
        self
    }

    /// What the figure should be.
    pub(crate) fn goal(mut self, goal: &'static str) -> Self {
        self.goal = Some(goal);
        self
    }
}

/// Lays the rows out for a terminal.
pub(crate) fn render(rows: &[Row]) -> String {
    let head = [
        "what", "unit", "min", "median", "p95", "peer", "min", "median", "p95", "ratio", "goal",
    ];
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    for row in rows {
        let ours = row.ours;
        let mut line = vec![row.what.clone(), row.unit.to_owned()];
        line.extend(ours.cells());
        match &row.peer {
            None => line.extend(std::iter::repeat_n(String::new(), 5)),
            Some((name, peer)) => {
                line.push(name.clone());
                line.extend(peer.cells());
                line.push(format!("{:.2}", ours.median / peer.median));
            }
        }
        line.push(row.goal.unwrap_or_default().to_owned());
        lines.push(line);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let shown = |line: &Vec<String>| {
        let cells = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 | 1 | 5 | 10 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(shown).collect::<Vec<_>>().join("\n")
}

/// The three figures of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    /// The smallest.
    pub(crate) least: f64,
    /// The one in the middle.
    pub(crate) median: f64,
    /// The one that 95 % do not exceed.
    pub(crate) p95: f64,
}

impl Summary {
    pub(crate) fn of(measured: &[f64]) -> Self {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            // The nearest rank: the smallest value that at least this share does not exceed.
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
        };
        Self {
            least: sorted.first().copied().unwrap_or(f64::NAN),
            median: at(0.5),
            p95: at(0.95),
        }
    }

    fn cells(&self) -> [String; 3] {
        [self.least, self.median, self.p95].map(|value| {
            if value.is_nan() {
                "-".to_owned()
            } else if value.abs() >= 1000.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.2}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_takes_the_nearest_rank() {
        let summary = Summary::of(&(1..=100).map(f64::from).collect::<Vec<_>>());
        assert_eq!((summary.least, summary.median, summary.p95), (1.0, 50.0, 95.0));
        let one = Summary::of(&[7.0]);
        assert_eq!((one.least, one.median, one.p95), (7.0, 7.0, 7.0));
    }

    #[test]
    fn the_ratio_is_of_the_medians() {
        let row = Row::new("x", "ms", vec![1.0, 2.0, 3.0])
            .beside("other", Summary::of(&[4.0]))
            .goal("half");
        let text = render(&[row]);
        let line = text.lines().nth(1).unwrap();
        assert!(
            line.contains("other") && line.contains("0.50") && line.ends_with("half"),
            "{text}"
        );
    }
}
