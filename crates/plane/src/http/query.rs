//! Query strings, strictly: every parameter is taken by name, and what is left over is refused by name.
//!
//! Lists come as `name[]=a&name[]=b`, as the published SDKs write them; `name=a&name=b` is taken as well.

use std::str::FromStr;

use outwork_wire::Time;

use crate::error::ApiError;

/// The parameters of a request that are not taken yet.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses a query string. `beta=true`, which the SDKs add, means nothing.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(text.unwrap_or_default().as_bytes())
            .into_owned()
            .filter(|(name, value)| !(name == "beta" && value == "true"))
            .collect();
        Self { pairs }
    }

    /// Takes the one value of a parameter.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.take(name);
        match values.len() {
            0 => Ok(None),
            1 => Ok(values.pop()),
            _ => Err(ApiError::invalid(format!("{name}: was given more than once"))),
        }
    }

    /// Takes a parameter that parses as a `T`.
    pub(crate) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        self.text(name)?
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::invalid(format!("{name}: `{}` is not {expected}", shortened(&text))))
            })
            .transpose()
    }

    /// Takes a point in time.
    pub(crate) fn time(&mut self, name: &str) -> Result<Option<Time>, ApiError> {
        self.parsed(name, "an RFC 3339 timestamp such as 2026-01-31T09:30:00Z")
    }

    /// Takes `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.parsed(name, "`true` or `false`")
    }

    /// Takes `limit`, from 1 to `max`.
    pub(crate) fn limit(&mut self, default: usize, max: usize) -> Result<usize, ApiError> {
        match self.parsed::<usize>("limit", "a whole number")? {
            None => Ok(default),
            Some(limit) if (1..=max).contains(&limit) => Ok(limit),
            Some(limit) => Err(ApiError::invalid(format!(
                "limit: must be from 1 to {max}, not {limit}"
            ))),
        }
    }

    /// Takes a list whose values must be among `allowed`.
    pub(crate) fn list(&mut self, name: &str, allowed: &[&str]) -> Result<Vec<String>, ApiError> {
        let mut values = self.take(&format!("{name}[]"));
        values.extend(self.take(name));
        for value in &values {
            if !allowed.contains(&value.as_str()) {
                return Err(ApiError::invalid(format!(
                    "{name}: `{}` is not supported; use one of {}",
                    shortened(value),
                    allowed.join(", ")
                )));
            }
        }
        Ok(values)
    }

    /// Takes a list of any texts.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let mut values = self.take(&format!("{name}[]"));
        values.extend(self.take(name));
        if values.iter().any(String::is_empty) {
            return Err(ApiError::invalid(format!("{name}: must not have empty entries")));
        }
        Ok(values)
    }

    /// Takes `order`: true for ascending.
    pub(crate) fn ascending(&mut self, default: bool) -> Result<bool, ApiError> {
        match self.text("order")?.as_deref() {
            None => Ok(default),
            Some("asc") => Ok(true),
            Some("desc") => Ok(false),
            Some(other) => Err(ApiError::invalid(format!(
                "order: `{}` is not supported; use asc or desc",
                shortened(other)
            ))),
        }
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(format!(
                "{}: unknown query parameter",
                shortened(name)
            ))),
        }
    }

    fn take(&mut self, name: &str) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(n, _)| n == name);
        self.pairs = rest;
        taken.into_iter().map(|(_, v): (String, String)| v).collect()
    }
}

/// The beginning of a text that a client sent, for an error message.
pub(crate) fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(80).filter(|c| !c.is_control()).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_known_and_refuses_the_rest() {
        let mut query = Query::parse(Some(
            "beta=true&limit=5&types[]=user.message&types[]=agent.message&created_at%5Bgt%5D=2026-01-01T00:00:00Z&x=1",
        ));
        assert_eq!(query.limit(20, 100).unwrap(), 5);
        assert_eq!(
            query.list("types", &["user.message", "agent.message"]).unwrap().len(),
            2
        );
        assert!(query.time("created_at[gt]").unwrap().is_some());
        let error = query.finish().unwrap_err();
        assert!(error.message.contains('x'), "{}", error.message);
    }

    #[test]
    fn refuses_values_that_do_not_fit() {
        assert!(Query::parse(Some("limit=0")).limit(20, 100).is_err());
        assert!(Query::parse(Some("limit=101")).limit(20, 100).is_err());
        assert!(Query::parse(Some("limit=1&limit=2")).limit(20, 100).is_err());
        assert!(Query::parse(Some("order=up")).ascending(true).is_err());
        assert!(Query::parse(Some("types[]=nope")).list("types", &["a"]).is_err());
    }
}
