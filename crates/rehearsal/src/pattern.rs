//! Values of a scenario file that need a parser of their own: patterns and captures.
//!
//! A pattern is compiled when the file is read, so a file that was accepted has no bad expression left in it.
//! Matching is linear in its input (the `regex` crate), so a pattern cannot stall the server.

use std::fmt;

use regex::Regex;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

/// A regular expression of a scenario file.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    pub fn new(expression: &str) -> Result<Self, regex::Error> {
        Regex::new(expression).map(Self)
    }

    /// Whether the expression occurs anywhere in the text.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// What the first match captures: group 1, or the whole match where there is no group.
    pub(crate) fn first_group(&self, text: &str) -> Option<String> {
        let captures = self.0.captures(text)?;
        let group = captures.get(1).or_else(|| captures.get(0))?;
        Some(group.as_str().to_owned())
    }

    /// The named groups of the expression.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }

    /// The named groups of the first match with their text.
    pub(crate) fn named_groups(&self, text: &str) -> Vec<(String, String)> {
        let Some(captures) = self.0.captures(text) else {
            return Vec::new();
        };
        self.names()
            .filter_map(|name| {
                captures
                    .name(name)
                    .map(|group| (name.to_owned(), group.as_str().to_owned()))
            })
            .collect()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expression = String::deserialize(deserializer)?;
        Pattern::new(&expression).map_err(de::Error::custom)
    }
}

/// Reads one pattern or a list of them.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pattern>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Pattern>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a regular expression or a list of them")
        }
        fn visit_str<E: de::Error>(self, expression: &str) -> Result<Self::Value, E> {
            Pattern::new(expression).map(|pattern| vec![pattern]).map_err(E::custom)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut patterns = Vec::new();
            while let Some(pattern) = list.next_element()? {
                patterns.push(pattern);
            }
            Ok(patterns)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

/// Where a capture looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureSource {
    /// The text of the tool results that came in just before this step.
    #[default]
    Result,
    /// The text of the last human message.
    User,
    /// The system prompt.
    System,
}

/// A named capture: a pattern, where to look, and what to use when it does not match.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Where to look.
    pub from: CaptureSource,
    /// Group 1 is captured, or the whole match where there is no group.
    pub pattern: Pattern,
    /// Used when the pattern does not match; without it the play stops and says so.
    pub default: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureTable {
    #[serde(default)]
    from: CaptureSource,
    pattern: Pattern,
    default: Option<String>,
}

impl<'de> Deserialize<'de> for Capture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PatternOrTable;
        impl<'de> Visitor<'de> for PatternOrTable {
            type Value = Capture;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a regular expression, or a table of `pattern`, `from` and `default`")
            }
            fn visit_str<E: de::Error>(self, expression: &str) -> Result<Capture, E> {
                let pattern = Pattern::new(expression).map_err(E::custom)?;
                Ok(Capture {
                    from: CaptureSource::Result,
                    pattern,
                    default: None,
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Capture, A::Error> {
                let table = CaptureTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Capture {
                    from: table.from,
                    pattern: table.pattern,
                    default: table.default,
                })
            }
        }
        deserializer.deserialize_any(PatternOrTable)
    }
}
