//! Pages of lists: keyset pagination both ways, over a time (or a number) and an id.
//!
//! A page is found by the key of the row beside it, never by an offset, so rows that come or go elsewhere do
//! not shift it. `next` and `prev` are given only when a row is really there.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use sha2::{Digest, Sha256};

use crate::StoreError;
use crate::cursor::{Cursor, Direction};

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows, in the list's order.
    pub rows: Vec<T>,
    /// Where the list goes on; absent on the last page.
    pub next: Option<String>,
    /// Where the page before is; absent on the first page.
    pub prev: Option<String>,
}

/// In which order a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

impl Order {
    pub(crate) fn reversed(self) -> Self {
        match self {
            Self::Asc => Self::Desc,
            Self::Desc => Self::Asc,
        }
    }

    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::Asc => "ASC",
            Self::Desc => "DESC",
        }
    }
}

/// Where a page is and how long it may be.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// At most so many rows; at least one.
    pub limit: usize,
    /// A cursor of the same list; absent for its beginning.
    pub cursor: Option<String>,
}

/// Conditions of a list, with their values.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    sql: String,
    values: Vec<Value>,
}

impl Filter {
    /// A further condition; each `?` in it takes one value.
    pub(crate) fn and(mut self, sql: &str, values: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        if !self.sql.is_empty() {
            self.sql.push_str(" AND ");
        }
        self.sql.push_str(sql);
        self.values.extend(values.into_iter().map(Into::into));
        self
    }

    /// A further condition on one value, if there is one.
    pub(crate) fn and_if(self, sql: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.and(sql, [value]),
            None => self,
        }
    }

    /// A further condition without a value.
    pub(crate) fn and_plain(self, sql: &str) -> Self {
        self.and(sql, std::iter::empty::<Value>())
    }

    /// That a column is one of some texts; no text at all sets no condition.
    pub(crate) fn and_in(self, column: &str, texts: &[String]) -> Self {
        if texts.is_empty() {
            return self;
        }
        let marks = vec!["?"; texts.len()].join(", ");
        self.and(&format!("{column} IN ({marks})"), texts.iter().cloned())
    }

    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    /// What a cursor must carry to be one of this list.
    pub(crate) fn fingerprint(&self, list: &str, order: Order) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(format!("{list}\n{order:?}\n{}\n{:?}", self.sql, self.values));
        let mut short = [0; 8];
        short.copy_from_slice(&hash.finalize()[..8]);
        short
    }
}

/// A list that is sorted by a number and an id.
pub(crate) struct Keyset<'a> {
    /// The list's name, for the fingerprint.
    pub(crate) list: &'static str,
    /// `SELECT … FROM …`, without conditions.
    pub(crate) select: &'a str,
    /// The column that sorts, then the one that breaks ties.
    pub(crate) key: (&'a str, &'a str),
    pub(crate) order: Order,
    pub(crate) filter: Filter,
}

impl Keyset<'_> {
    /// Reads one page. `key_of` gives a row's values of the key columns.
    pub(crate) fn page<T>(
        &self,
        conn: &Connection,
        request: &PageRequest,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
        key_of: impl Fn(&T) -> (i64, String),
    ) -> Result<Page<T>, StoreError> {
        let fingerprint = self.filter.fingerprint(self.list, self.order);
        let limit = request.limit.max(1);
        let cursor = match &request.cursor {
            Some(text) => Some(Cursor::of_list(text, fingerprint)?),
            None => None,
        };
        let direction = cursor.as_ref().map_or(Direction::Next, |c| c.direction);
        let from = cursor.map(|c| (c.number, c.name));

        let (sql, values) = self.query(direction, from.as_ref(), limit + 1);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut rows = statement
            .query_map(params_from_iter(values), map)?
            .collect::<rusqlite::Result<Vec<T>>>()?;
        let further = rows.len() > limit;
        rows.truncate(limit);
        if direction == Direction::Prev {
            rows.reverse();
        }

        let cursor_at = |direction, row: &T| {
            let (number, name) = key_of(row);
            Cursor {
                direction,
                fingerprint,
                number,
                name,
            }
            .encode()
        };
        let beyond = |direction, row: Option<&T>| -> Result<bool, StoreError> {
            match row {
                Some(row) if from.is_some() => self.exists(conn, direction, &key_of(row)),
                _ => Ok(false),
            }
        };
        let (has_next, has_prev) = match direction {
            Direction::Next => (further, beyond(Direction::Prev, rows.first())?),
            Direction::Prev => (beyond(Direction::Next, rows.last())?, further),
        };
        Ok(Page {
            next: rows
                .last()
                .filter(|_| has_next)
                .map(|row| cursor_at(Direction::Next, row)),
            prev: rows
                .first()
                .filter(|_| has_prev)
                .map(|row| cursor_at(Direction::Prev, row)),
            rows,
        })
    }

    fn exists(&self, conn: &Connection, direction: Direction, key: &(i64, String)) -> Result<bool, StoreError> {
        let (sql, values) = self.query(direction, Some(key), 1);
        Ok(conn.prepare_cached(&sql)?.exists(params_from_iter(values))?)
    }

    fn query(&self, direction: Direction, from: Option<&(i64, String)>, limit: usize) -> (String, Vec<Value>) {
        let order = match direction {
            Direction::Next => self.order,
            Direction::Prev => self.order.reversed(),
        };
        let (number, name) = self.key;
        let mut values = self.filter.values.clone();
        let mut sql = format!("{} WHERE {}", self.select, self.filter.sql);
        if let Some((n, s)) = from {
            let sign = match order {
                Order::Asc => '>',
                Order::Desc => '<',
            };
            sql.push_str(&format!(" AND ({number}, {name}) {sign} (?, ?)"));
            values.push(Value::Integer(*n));
            values.push(Value::Text(s.clone()));
        }
        let order = order.sql();
        sql.push_str(&format!(" ORDER BY {number} {order}, {name} {order} LIMIT ?"));
        values.push(Value::Integer(limit as i64));
        (sql, values)
    }
}
