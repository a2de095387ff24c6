//! A federation rule as the settings give it, parsed once.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use outwork_wire::id::{FederationRuleId, WorkspaceId};

/// Whose tokens are believed, and what they are exchanged for.
#[derive(Clone, Debug, Default)]
pub struct FederationOptions {
    /// What callers must name as their organization.
    pub organization_id: String,
    /// The rules; none means that no token is believed.
    pub rules: Vec<FederationRule>,
}

/// Which tokens of which identity provider open what.
#[derive(Clone, Debug)]
pub struct FederationRule {
    /// What callers name the rule by.
    pub id: FederationRuleId,
    /// The `iss` of the tokens, exactly; its keys are found from here.
    pub issuer: String,
    /// What must be among the `aud` of the tokens.
    pub audience: String,
    /// Which `sub` are let in.
    pub subject: SubjectPattern,
    /// What the workload may do.
    pub scope: Scope,
    /// How long the token that it gets lasts at most.
    pub lifetime: Duration,
    /// The workspace that it opens; the default one if it is absent.
    pub workspace: Option<WorkspaceId>,
}

/// What a workload may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything with tunnels and their certificates, in one workspace.
    ManageTunnels,
}

impl Scope {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManageTunnels => "workspace:manage_tunnels",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::ManageTunnels]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a scope; use workspace:manage_tunnels"))
    }
}

/// A pattern of subjects: `*` stands for any characters, everything else for itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SubjectPattern(String);

impl FromStr for SubjectPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim_matches('*').is_empty() {
            return Err(format!(
                "`{text}` would let in everybody whom the issuer knows; name a subject, or the beginning of one"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SubjectPattern {
    /// Whether a subject fits the whole pattern.
    pub fn matches(&self, subject: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return self.0 == subject;
        };
        let Some(mut left) = subject.strip_prefix(head) else {
            return false;
        };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(before) = left.strip_suffix(tail) else {
            return false;
        };
        left = before;
        // The parts between stars, each as early as it can be, leave the most for those behind.
        middle
            .split('*')
            .filter(|part| !part.is_empty())
            .all(|part| match left.find(part) {
                Some(at) => {
                    left = &left[at + part.len()..];
                    true
                }
                None => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, subject: &str) -> bool {
        pattern.parse::<SubjectPattern>().unwrap().matches(subject)
    }

    #[test]
    fn a_pattern_fits_whole_subjects_only() {
        for (pattern, subject) in [
            ("repo:a/b", "repo:a/b"),
            ("repo:a/b:*", "repo:a/b:ref:refs/heads/main"),
            ("repo:a/b:*", "repo:a/b:"),
            ("repo:*:environment:prod", "repo:a/b:environment:prod"),
            ("*:prod", "a:prod"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "abc"),
        ] {
            assert!(fits(pattern, subject), "{pattern} {subject}");
        }
        for (pattern, subject) in [
            ("repo:a/b", "repo:a/bc"),
            ("repo:a/b", "xrepo:a/b"),
            ("repo:a/b:*", "repo:a/b"),
            ("repo:a/b:*", "repo:a/bb:main"),
            ("*:prod", "a:prod:x"),
            ("a*b*c", "acb"),
            // The head and the tail do not share characters.
            ("ab*ba", "aba"),
            ("a*b*b", "ab"),
            ("repo:?", "repo:a"),
        ] {
            assert!(!fits(pattern, subject), "{pattern} {subject}");
        }
        for wide in ["", "*", "**"] {
            assert!(wide.parse::<SubjectPattern>().is_err(), "{wide}");
        }
    }

    #[test]
    fn scopes_are_known_by_name() {
        assert_eq!("workspace:manage_tunnels".parse::<Scope>(), Ok(Scope::ManageTunnels));
        for other in ["", "org:admin", "workspace:developer"] {
            assert!(other.parse::<Scope>().is_err(), "{other}");
        }
    }
}
