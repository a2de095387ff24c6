//! The sandbox, as its own example measures it: cold starts in turn with `bwrap`, and calls in a running one.

use anyhow::{Result, bail};

use super::Setting;
use super::table::{Row, Summary};

/// Cold start to exit of a static program beside bwrap, and calls in a running sandbox.
pub(crate) fn sandbox(setting: &Setting) -> Result<Vec<Row>> {
    let rounds = setting.times(200).to_string();
    let printed = super::example(setting, "outwork-sandbox", "bench_sandbox", &[rounds], 5)?;
    let lines: Vec<(String, Summary)> = printed.lines().filter_map(figures).collect();
    let mut rows = Vec::new();
    let mut peer = None;
    for (name, summary) in lines {
        if name.starts_with("bwrap") {
            peer = Some((name, summary));
        } else if name.contains("cold start to exit") {
            rows.insert(0, Row::of(name, "ms", summary).goal("half of bwrap"));
        } else {
            let row = Row::of(name, "ms", summary);
            rows.push(row);
        }
    }
    if rows.is_empty() {
        bail!("the example printed no figures: {printed}");
    }
    if let Some((name, summary)) = peer {
        let start = rows.remove(0).beside(name.split(',').next().unwrap_or(&name), summary);
        rows.insert(0, start);
    }
    Ok(rows)
}

/// A line that ends in `min 1.0  p50 2.0  p95 3.0 ms`: its name and its figures.
fn figures(line: &str) -> Option<(String, Summary)> {
    let (name, rest) = line.split_once(" min ")?;
    let mut words = rest.split_whitespace();
    let mut number = |label: Option<&str>| -> Option<f64> {
        if let Some(label) = label
            && words.next()? != label
        {
            return None;
        }
        words.next()?.parse().ok()
    };
    let summary = Summary {
        least: number(None)?,
        median: number(Some("p50"))?,
        p95: number(Some("p95"))?,
    };
    Some((name.trim().to_owned(), summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_figures_is_read() {
        let line = "sandbox cold start to exit, static program   min   1.250  p50   2.500  p95  10.000 ms";
        let (name, summary) = figures(line).unwrap();
        assert_eq!(name, "sandbox cold start to exit, static program");
        assert_eq!((summary.least, summary.median, summary.p95), (1.25, 2.5, 10.0));
        assert!(figures("ratio of p50: 0.40").is_none());
    }
}
