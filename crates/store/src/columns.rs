//! Columns to values and back: ids, times, JSON and the names of kinds, with one place that says how.

use std::error::Error;
use std::str::FromStr;

use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use rusqlite::types::Type;
use rusqlite::{Row, RowIndex};
use serde::de::DeserializeOwned;

use crate::StoreError;

/// A text column that parses: an id, a state, a status.
pub(crate) fn parsed<T>(row: &Row<'_>, column: impl RowIndex + Copy) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(unreadable)
}

/// A JSON column.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: impl RowIndex + Copy) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(unreadable)
}

/// A time column.
pub(crate) fn time(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Time> {
    Ok(Time::from_micros(row.get(column)?))
}

/// A time column that may be null.
pub(crate) fn maybe_time(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Option<Time>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Time::from_micros))
}

/// A count, a version or a generation.
pub(crate) fn count(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

/// A column with the kind of an environment.
pub(crate) fn kind(row: &Row<'_>, column: impl RowIndex + Copy) -> rusqlite::Result<EnvironmentKind> {
    match row.get_ref(column)?.as_str()? {
        "self_hosted" => Ok(EnvironmentKind::SelfHosted),
        "cloud" => Ok(EnvironmentKind::Cloud),
        other => Err(unreadable(StoreError::internal(format!(
            "`{other}` is no kind of environment"
        )))),
    }
}

/// The name of an environment's kind.
pub(crate) fn kind_name(kind: EnvironmentKind) -> &'static str {
    match kind {
        EnvironmentKind::SelfHosted => "self_hosted",
        EnvironmentKind::Cloud => "cloud",
    }
}

/// Microseconds of a time that may be absent.
pub(crate) fn micros(time: Option<Time>) -> Option<i64> {
    time.map(Time::as_micros)
}

fn unreadable(error: impl Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}
