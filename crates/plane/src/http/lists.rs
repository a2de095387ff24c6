//! Where a request may hold a list.
//!
//! The parsers read the fields of an object from a list as well, by position: `"config": ["self_hosted"]` would
//! pass. The contract knows no such thing, so a list is refused wherever the contract has none: under a field that
//! is not named here, and directly inside another list. What is below a free-form field is the client's own.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::ApiError;

/// The fields of requests that hold lists.
const LISTS: &[&str] = &[
    "agents",
    "allowed_domains",
    "allowed_fallback_models",
    "allowed_hosts",
    "apt",
    "blocked_domains",
    "cargo",
    "configs",
    "content",
    "events",
    "files",
    "gem",
    "go",
    "ids",
    "initial_events",
    "inputs",
    "lifecycle",
    "mcp_servers",
    "npm",
    "outputs",
    "phases",
    "pip",
    "predefined_agents",
    "resources",
    "session_ids",
    "skills",
    "statuses",
    "tools",
    "types",
    "vault_ids",
];

/// Fields whose content is not ours to judge.
const FREE_FORM: &[&str] = &["input_schema"];

/// Refuses a body that is a list, or that has one where the contract has none.
pub(crate) fn check(body: &[u8]) -> Result<(), ApiError> {
    let mut fault = None;
    let place = Place {
        field: None,
        path: &Path::Root,
        fault: &mut fault,
    };
    // What is not JSON is named by the parser that comes next.
    let _ = place.deserialize(&mut serde_json::Deserializer::from_slice(body));
    fault.map_or(Ok(()), |message| Err(ApiError::invalid(message)))
}

/// The way to a value, kept on the stack: it is only written out for a fault.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Item(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

struct Place<'a> {
    /// The field that the value is in; `None` for the body itself and for the items of a list.
    field: Option<&'a str>,
    path: &'a Path<'a>,
    fault: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if FREE_FORM.contains(&&*name) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            map.next_value_seed(Place {
                field: Some(&name),
                path: &Path::Field(self.path, &name),
                fault: &mut *self.fault,
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.field.is_some_and(|field| LISTS.contains(&field)) {
            *self.fault = Some(match self.path {
                Path::Root => "the body must be a JSON object, not an array".to_owned(),
                path => format!("{path}: invalid type: an array is not allowed here"),
            });
            return Err(A::Error::custom("an array"));
        }
        for index in 0.. {
            let item = Place {
                field: None,
                path: &Path::Item(self.path, index),
                fault: &mut *self.fault,
            };
            if list.next_element_seed(item)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
