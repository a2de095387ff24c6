//! Which route a host name leads to. Pure.
//!
//! First the routes whose name is the whole host, then the label under the tunnel's domain. A host that is neither leads
//! nowhere: there is no default route, and never another one.

use std::borrow::Cow;
use std::collections::HashMap;

/// Routes by name.
#[derive(Debug, Clone)]
pub struct Table<T> {
    full: HashMap<String, T>,
    labels: HashMap<String, T>,
    domain: Option<String>,
}

impl<T> Table<T> {
    /// A table of routes by name, valid and in lower case: a name with a dot is a whole host, one without a label under
    /// `domain`.
    pub fn new(routes: impl IntoIterator<Item = (String, T)>, domain: Option<String>) -> Table<T> {
        let (full, labels) = routes.into_iter().partition(|(name, _)| name.contains('.'));
        Table { full, labels, domain }
    }

    /// The route of a host as [`host`] returns it.
    pub fn find(&self, host: &str) -> Option<&T> {
        if let Some(route) = self.full.get(host) {
            return Some(route);
        }
        let label = host.strip_suffix(self.domain.as_deref()?)?.strip_suffix('.')?;
        self.labels.get(label)
    }

    /// Every route.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.full.values().chain(self.labels.values())
    }

    /// The host names that lead to routes, with the routes.
    pub fn hosts(&self) -> impl Iterator<Item = (String, &T)> {
        let labels = self
            .labels
            .iter()
            .filter_map(|(label, route)| self.domain.as_ref().map(|domain| (format!("{label}.{domain}"), route)));
        self.full
            .iter()
            .map(|(name, route)| (name.clone(), route))
            .chain(labels)
    }
}

/// The host of a `Host` header or authority: in lower case, without a final dot, without the port if that is 443.
/// `None` when it is no host name, or names another port: callers mean `https://host`.
pub fn host(authority: &str) -> Option<Cow<'_, str>> {
    let name = authority.strip_suffix(":443").unwrap_or(authority);
    let name = name.strip_suffix('.').unwrap_or(name);
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.is_empty()
        || name.len() > 253
        || !name.bytes().all(valid)
        || name.split('.').any(|l| l.is_empty() || l.len() > 63)
    {
        return None;
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(Cow::Owned(name.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table<&'static str> {
        let routes = [
            ("wiki", "label"),
            ("db", "db"),
            ("wiki.t.example", "full"),
            ("other.example", "other"),
        ];
        Table::new(
            routes.map(|(name, to)| (name.to_owned(), to)),
            Some("t.example".to_owned()),
        )
    }

    #[test]
    fn full_hosts_come_first() {
        for (host, to) in [
            ("wiki.t.example", Some("full")),
            ("db.t.example", Some("db")),
            ("other.example", Some("other")),
            ("other.t.example", None),
            ("t.example", None),
            (".t.example", None),
            ("db", None),
            ("a.db.t.example", None),
            ("dbt.example", None),
            ("db.t.example.evil", None),
            ("db.evilt.example", None),
            ("", None),
        ] {
            assert_eq!(table().find(host), to.as_ref(), "{host}");
        }
        let none = Table::new([("wiki".to_owned(), 1)], None);
        assert_eq!(none.find("wiki"), None);
    }

    #[test]
    fn hosts_are_normal() {
        for (text, normal) in [
            ("wiki.t.example", Some("wiki.t.example")),
            ("WIKI.t.Example", Some("wiki.t.example")),
            ("wiki.t.example:443", Some("wiki.t.example")),
            ("wiki.t.example.", Some("wiki.t.example")),
            ("wiki.t.example:80", None),
            ("wiki.t.example:443:443", None),
            ("user@wiki.t.example", None),
            ("wiki.t.example/x", None),
            ("wiki..t.example", None),
            ("wiki.t.example..", None),
            ("[::1]", None),
            ("wiki\u{2024}t.example", None),
            ("wiki t.example", None),
            ("", None),
            (":443", None),
        ] {
            assert_eq!(host(text).as_deref(), normal, "{text}");
        }
    }

    proptest! {
        #[test]
        fn only_a_named_route_is_found(text in "[a-zA-Z0-9.:-]{0,40}") {
            if let Some(host) = host(&text) {
                let found = table().find(&host).copied();
                let named = table().hosts().find(|(name, _)| *name == host).map(|(_, to)| *to);
                prop_assert_eq!(found.is_some(), named.is_some());
            }
        }
    }
}
