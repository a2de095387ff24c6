//! The sandbox, as its own example measures it: cold starts in turn with `bwrap`, and calls in a running one.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Setting;
use super::table::Row;

/// Cold start to exit of a static program beside bwrap, and a call in a running sandbox.
pub(crate) fn sandbox(setting: &Setting) -> Result<Vec<Row>> {
    let printed = super::example(setting, "outwork-sandbox", "bench_sandbox")?;
    let list = |field: &str| -> Result<Vec<f64>> {
        let values = printed[field]
            .as_array()
            .with_context(|| format!("the example printed no list {field}"))?;
        let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
        numbers.with_context(|| format!("{field} holds something that is not a number"))
    };
    let mut start = Row::new("sandbox cold start to exit", "ms", list("cold_start_ms")?).goal("half of bwrap");
    // Without bwrap on the machine there is nothing to stand beside.
    if printed["bwrap_ms"].as_array().is_some_and(|values| !values.is_empty()) {
        start = start.beside("bwrap --unshare-all", list("bwrap_ms")?);
    }
    Ok(vec![
        start,
        Row::new("a call in a running sandbox", "ms", list("call_ms")?).goal("1"),
    ])
}
