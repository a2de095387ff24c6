//! What must not leave: patterns and detectors over texts, and what happens where one matches.
//!
//! A redactor looks at decoded text. [`json`] walks the strings and numbers of a JSON text with it, [`sse`] the events
//! of a stream, so that neither an escape nor the border of a chunk hides anything. It sees one string at a time: what
//! is spread over several strings of one message is not found, and documentation says so.

pub mod detector;
pub mod json;
pub mod sse;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::Deserialize;

use crate::config::RedactFile;

/// What happens to a match.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The match is replaced by its rule's name.
    Redact,
    /// The whole message is refused.
    Block,
    /// The text ends where the match begins.
    Truncate,
}

/// Which way a rule looks.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// At what the upstream answers.
    #[default]
    Results,
    /// At what the caller sends: arguments.
    Arguments,
    /// At both.
    Both,
}

/// A message held something that blocks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The rule that matched.
    pub rule: String,
}

/// The rules of one direction.
pub struct Redactor {
    rules: Vec<Rule>,
    /// All patterns at once: one pass tells that nothing matches, which is what most texts are like.
    any: RegexSet,
}

struct Rule {
    name: String,
    pattern: Regex,
    /// Whether a match of the pattern is one indeed: checksums.
    confirm: detector::Confirm,
    action: Action,
}

impl Redactor {
    /// The rules that look one way; `None` when there is none.
    pub(crate) fn compile(files: &[RedactFile], direction: Direction) -> Result<Option<Redactor>, String> {
        Self::compile_beside(files, direction, None)
    }

    /// The same, with what has been compiled for the other way where the patterns are the same.
    pub(crate) fn compile_beside(
        files: &[RedactFile],
        direction: Direction,
        other: Option<&Redactor>,
    ) -> Result<Option<Redactor>, String> {
        let mut rules = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let at = |why: String| format!("redact[{index}]: {why}");
            let looks = file.direction == direction || file.direction == Direction::Both;
            match (&file.pattern, &file.detector) {
                (Some(pattern), None) => {
                    let name = file.name.clone().unwrap_or_else(|| format!("pattern-{}", index + 1));
                    let pattern = RegexBuilder::new(pattern)
                        .size_limit(1 << 20)
                        .build()
                        .map_err(|error| at(format!("the pattern does not compile: {error}")))?;
                    if pattern.is_match("") {
                        return Err(at(
                            "the pattern matches the empty text, so it would match everywhere".to_owned()
                        ));
                    }
                    if looks {
                        rules.push(Rule {
                            name,
                            pattern,
                            confirm: detector::AS_IT_IS,
                            action: file.action,
                        });
                    }
                }
                (None, Some(name)) => {
                    let found = detector::named(name).ok_or_else(|| {
                        at(format!(
                            "there is no detector `{name}`; there are {}",
                            detector::names().join(", ")
                        ))
                    })?;
                    for detector in found.into_iter().filter(|_| looks) {
                        rules.push(Rule {
                            name: file.name.clone().unwrap_or_else(|| detector.name.to_owned()),
                            pattern: detector
                                .compiled()
                                .map_err(|error| at(format!("detector {}: {error}", detector.name)))?,
                            confirm: detector.confirm,
                            action: file.action,
                        });
                    }
                }
                (None, None) => return Err(at("it needs a pattern or a detector".to_owned())),
                (Some(_), Some(_)) => {
                    return Err(at("pattern and detector exclude each other: leave one out".to_owned()));
                }
            }
        }
        if rules.is_empty() {
            return Ok(None);
        }
        let patterns = || rules.iter().map(|rule| rule.pattern.as_str());
        let any = match other.filter(|other| patterns().eq(other.any.patterns())) {
            Some(other) => other.any.clone(),
            None => RegexSetBuilder::new(patterns())
                .size_limit(32 << 20)
                .build()
                .map_err(|error| format!("redact: the patterns together do not compile: {error}"))?,
        };
        Ok(Some(Redactor { rules, any }))
    }

    /// What is left of a text: `None` when all of it.
    pub fn text(&self, text: &str) -> Result<Option<String>, Blocked> {
        if !self.any.is_match(text) {
            return Ok(None);
        }
        let mut current: Option<String> = None;
        for rule in &self.rules {
            let now = current.as_deref().unwrap_or(text);
            if let Some(changed) = rule.apply(now)? {
                current = Some(changed);
            }
        }
        Ok(current)
    }
}

impl Rule {
    fn apply(&self, text: &str) -> Result<Option<String>, Blocked> {
        let mut out = String::new();
        let mut kept = 0;
        let mut from = 0;
        // Where a checksum fails, the search goes on one character later: a number may begin inside another.
        while let Some(found) = self.pattern.find_at(text, from) {
            let Some(end) = (self.confirm)(text, found.start(), found.end()) else {
                from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
                continue;
            };
            match self.action {
                Action::Block => {
                    return Err(Blocked {
                        rule: self.name.clone(),
                    });
                }
                Action::Truncate => {
                    out.push_str(&text[kept..found.start()]);
                    out.push_str(&format!("[truncated:{}]", self.name));
                    return Ok(Some(out));
                }
                Action::Redact => {
                    out.push_str(&text[kept..found.start()]);
                    out.push_str(&format!("[redacted:{}]", self.name));
                    kept = end;
                    from = kept;
                }
            }
        }
        if kept == 0 {
            return Ok(None);
        }
        out.push_str(&text[kept..]);
        Ok(Some(out))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn redactor(detector: &str, action: Action) -> Redactor {
        let file = RedactFile {
            name: None,
            pattern: None,
            detector: Some(detector.to_owned()),
            action,
            direction: Direction::Results,
        };
        Redactor::compile(&[file], Direction::Results).unwrap().unwrap()
    }

    fn pattern(pattern: &str) -> RedactFile {
        RedactFile {
            name: Some("secret".to_owned()),
            pattern: Some(pattern.to_owned()),
            detector: None,
            action: Action::Redact,
            direction: Direction::Results,
        }
    }

    #[test]
    fn each_action() {
        let text = "before 4111 1111 1111 1111 after";
        assert_eq!(
            redactor("card_number", Action::Redact).text(text).unwrap().unwrap(),
            "before [redacted:card_number] after"
        );
        assert_eq!(
            redactor("card_number", Action::Truncate).text(text).unwrap().unwrap(),
            "before [truncated:card_number]"
        );
        assert_eq!(
            redactor("card_number", Action::Block).text(text),
            Err(Blocked {
                rule: "card_number".into()
            })
        );
        assert_eq!(
            redactor("card_number", Action::Block).text("4111 1111 1111 1112"),
            Ok(None)
        );
    }

    #[test]
    fn a_rule_looks_one_way_only() {
        assert!(
            Redactor::compile(&[pattern("x")], Direction::Arguments)
                .unwrap()
                .is_none()
        );
        assert!(
            Redactor::compile(&[pattern("x")], Direction::Results)
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn patterns_that_cannot_be_are_refused() {
        for bad in ["(", "x*", ""] {
            assert!(Redactor::compile(&[pattern(bad)], Direction::Results).is_err(), "{bad}");
        }
        let unknown = RedactFile {
            pattern: None,
            detector: Some("dna".into()),
            ..pattern("")
        };
        assert!(
            Redactor::compile(&[unknown], Direction::Results)
                .err()
                .unwrap()
                .contains("private_key")
        );
    }

    #[test]
    fn a_number_that_begins_inside_another_is_found() {
        // Sixteen digits that fail the checksum come first; the card begins after the space.
        let text = redactor("card_number", Action::Redact)
            .text("2 4111111111111111")
            .unwrap();
        assert_eq!(text.unwrap(), "2 [redacted:card_number]");
    }
}
