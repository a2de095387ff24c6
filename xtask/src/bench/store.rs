//! Durable appends, as the store's own example measures them.

use anyhow::{Context, Result};

use super::Setting;
use super::table::Row;

/// Events per second over 64 sessions, each append on disk before it counts.
pub(crate) fn append(setting: &Setting) -> Result<Vec<Row>> {
    let printed = super::example(setting, "outwork-store", "append")?;
    let rate = printed["appends_per_second"]
        .as_f64()
        .with_context(|| format!("the example printed no appends_per_second: {printed}"))?;
    Ok(vec![
        Row::new("durable event appends, 64 sessions", "1/s", vec![rate]).goal("20000"),
    ])
}
