//! Lists that come in pages.

use std::collections::VecDeque;

use futures_util::{Stream, stream};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Client, ClientError, Query, Result};

/// Every item of a list, fetched page by page as it is asked for.
pub struct Pages<T> {
    client: Client,
    path: String,
    query: Query,
    next: Next,
    ready: VecDeque<T>,
}

enum Next {
    First,
    With(&'static str, String),
    Done,
}

/// The answer to a list: the contract has two ways to name the next page.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default = "Vec::new")]
    data: Vec<T>,
    #[serde(default)]
    next_page: Option<String>,
    #[serde(default)]
    has_more: Option<bool>,
    #[serde(default)]
    last_id: Option<String>,
}

impl<T: DeserializeOwned> Pages<T> {
    pub(crate) fn new(client: Client, path: String, query: Query) -> Self {
        Self {
            client,
            path,
            query,
            next: Next::First,
            ready: VecDeque::new(),
        }
    }

    /// The next item; `None` after the last one. An error ends the list.
    pub async fn next(&mut self) -> Option<Result<T>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            match self.next_page().await {
                Ok(Some(items)) => self.ready = items.into(),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next page of items; `None` after the last one. An error ends the list.
    pub async fn next_page(&mut self) -> Result<Option<Vec<T>>> {
        let query = match std::mem::replace(&mut self.next, Next::Done) {
            Next::Done => return Ok(None),
            Next::First => self.query.clone(),
            Next::With(name, cursor) => self.query.clone().with(name, cursor),
        };
        let page: Page<T> = self.client.get(self.path.clone(), &query).await?;
        self.next = match (page.next_page, page.has_more, page.last_id) {
            (Some(cursor), _, _) if !cursor.is_empty() => Next::With("page", cursor),
            (_, Some(true), Some(last)) => Next::With("after_id", last),
            _ => Next::Done,
        };
        // A server that gives the same cursor again would be followed for ever.
        if let Next::With(name, cursor) = &self.next
            && query.0.iter().any(|(n, v)| n == name && v == cursor)
        {
            return Err(ClientError::Decode {
                call: format!("GET {}", self.path),
                cause: "the next page is this page again".into(),
            });
        }
        Ok(Some(page.data))
    }

    /// Every item that is left, at most `limit`.
    pub async fn collect(mut self, limit: usize) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while items.len() < limit
            && let Some(item) = self.next().await
        {
            items.push(item?);
        }
        Ok(items)
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<T>> {
        stream::unfold(
            self,
            |mut pages| async move { pages.next().await.map(|item| (item, pages)) },
        )
    }
}
