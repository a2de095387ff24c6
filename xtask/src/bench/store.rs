//! Durable appends, as the store's own example measures them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Setting;
use super::table::{Row, Summary};

/// Events over 64 sessions, each append on disk before it counts; the data folder is where the build folder is.
pub(crate) fn append(setting: &Setting) -> Result<Vec<Row>> {
    let folder = setting.workspace.kept("bench")?.display().to_string();
    let arguments = ["64".to_owned(), setting.times(2000).to_string(), folder];
    let printed = super::example(setting, "outwork-store", "append", &arguments, 5)?;
    let figures: Value = printed
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("the example printed no JSON: {printed}"))?;
    let figure = |field: &str| {
        figures[field]
            .as_f64()
            .with_context(|| format!("it printed no {field}: {figures}"))
    };
    let each = Summary {
        least: f64::NAN,
        median: figure("p50_ms")?,
        p95: figure("p95_ms")?,
    };
    Ok(vec![
        Row::new(
            "durable event appends over 64 sessions",
            "1/s",
            vec![figure("events_per_second")?],
        )
        .goal("20000"),
        Row::of("one of them, until it is on disk", "ms", each),
    ])
}
