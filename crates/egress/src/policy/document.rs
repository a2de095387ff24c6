//! A policy as a person writes it, in TOML or JSON.
//!
//! ```toml
//! presets = ["pypi", "debian"]
//!
//! [[allow]]
//! name = "issues"
//! host = "api.github.com"
//! methods = ["GET", "POST"]
//! paths = ["/repos/acme/*/issues", "/repos/acme/*/issues/**"]
//! quota = { bytes_out = "10MiB", requests = "60/m burst 10" }
//!
//! [[allow]]
//! cidr = "10.1.0.0/16"
//! ports = [5432]
//!
//! [[deny]]
//! host = "*.blob.example.com"
//! ```
//!
//! Nothing is allowed that no rule allows. Every key that is not known is refused, with file, line and rule.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::host::HostPattern;
use super::presets;
use super::text::{Ports, Range, Rate, Size, one_or_many};
use crate::error::Error;

/// The largest policy that is read.
const LARGEST: usize = 4 << 20;

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Whether TLS is opened for every host.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inspect: bool,
    /// Named sets of hosts; see [`presets::PRESETS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub presets: Vec<PresetName>,
    /// Whether the hosts of the session's MCP servers are allowed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mcp_servers: bool,
    /// What everything together may use.
    #[serde(default, skip_serializing_if = "QuotaText::is_empty")]
    pub quota: QuotaText,
    /// What is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<RuleText>,
    /// What is refused although a rule allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<RuleText>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The name of a preset that exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PresetName(String);

impl PresetName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<PresetName> for String {
    fn from(name: PresetName) -> String {
        name.0
    }
}

impl TryFrom<String> for PresetName {
    type Error = String;

    fn try_from(name: String) -> Result<PresetName, String> {
        if presets::named(&name).is_some() {
            return Ok(PresetName(name));
        }
        let known: Vec<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
        Err(format!(
            "there is no preset `{name}`; there are {} and {}",
            known.join(", "),
            presets::PACKAGE_MANAGERS
        ))
    }
}

/// What may be used up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaText {
    /// Bytes from the sandbox, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<Size>,
    /// Bytes to the sandbox, in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<Size>,
    /// Connections, and requests on opened ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Rate>,
}

impl QuotaText {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == QuotaText::default()
    }
}

/// A rule. It names hosts or ranges of addresses, not both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RuleFields")]
pub struct RuleText {
    /// What it is called in records and refusals; `allow[3]` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostPattern>,
    /// Ranges of addresses that may be reached without a name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr: Vec<Range>,
    /// Ports; 443 and 80 if a rule that allows names none, every port if a rule that refuses names none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Ports>,
    /// Methods of HTTP; any if there is none. Opens TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Patterns of paths: `*` within a segment, `**` over several. Any if there is none. Opens TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Patterns of values of the query that must be there. Opens TLS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Whether TLS is opened although nothing else asks for it.
    #[serde(skip_serializing_if = "is_false")]
    pub inspect: bool,
    /// Ranges that the hosts' addresses must be in. Opens private ranges for these hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Range>,
    /// What the rule may use up.
    #[serde(skip_serializing_if = "QuotaText::is_empty")]
    pub quota: QuotaText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields {
    name: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    host: Vec<HostPattern>,
    #[serde(default, deserialize_with = "one_or_many")]
    cidr: Vec<Range>,
    #[serde(default, deserialize_with = "one_or_many")]
    ports: Vec<Ports>,
    #[serde(default, deserialize_with = "one_or_many")]
    methods: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    paths: Vec<String>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    inspect: bool,
    #[serde(default, deserialize_with = "one_or_many")]
    addresses: Vec<Range>,
    #[serde(default)]
    quota: QuotaText,
}

impl TryFrom<RuleFields> for RuleText {
    type Error = String;

    fn try_from(fields: RuleFields) -> Result<RuleText, String> {
        let rule = RuleText {
            name: fields.name,
            host: fields.host,
            cidr: fields.cidr,
            ports: fields.ports,
            methods: fields
                .methods
                .iter()
                .map(|method| method.to_ascii_uppercase())
                .collect(),
            paths: fields.paths,
            query: fields.query,
            inspect: fields.inspect,
            addresses: fields.addresses,
            quota: fields.quota,
        };
        rule.check()?;
        Ok(rule)
    }
}

impl RuleText {
    /// A rule for hosts.
    pub fn hosts(name: impl Into<String>, host: Vec<HostPattern>, ports: Vec<Ports>) -> RuleText {
        RuleText {
            name: Some(name.into()),
            host,
            ports,
            ..RuleText::default()
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.host.is_empty() == self.cidr.is_empty() {
            return Err("a rule names `host` or `cidr`, and not both".to_owned());
        }
        if self.host.is_empty() && !self.addresses.is_empty() {
            return Err("`addresses` belongs to a rule with `host`".to_owned());
        }
        if let Some(name) = &self.name {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/ []".contains(c);
            if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
                return Err(format!("`{name}` is not a name of letters, digits and `-_.:/`"));
            }
        }
        for method in &self.methods {
            if http::Method::from_bytes(method.as_bytes()).is_err() || method == "CONNECT" {
                return Err(format!("`{method}` is not a method that can be allowed"));
            }
        }
        for path in &self.paths {
            if !path.starts_with('/') {
                return Err(format!("the path `{path}` does not begin with `/`"));
            }
            glob(path).map_err(|why| format!("the path `{path}`: {why}"))?;
        }
        for (key, value) in &self.query {
            glob(value).map_err(|why| format!("the query `{key}={value}`: {why}"))?;
        }
        Ok(())
    }
}

/// A pattern of a path or a value.
pub(super) fn glob(text: &str) -> Result<globset::GlobMatcher, String> {
    globset::GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| error.kind().to_string())
}

impl Document {
    /// Reads a file: JSON if its name ends in `.json`, TOML otherwise.
    ///
    /// # Errors
    /// [`Error::Read`] if it cannot be read, [`Error::Policy`] if it is wrong.
    pub fn read(path: &Path) -> Result<Document, Error> {
        let failed = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let name = path.display().to_string();
        match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) {
            true => Document::from_json(&name, &text),
            false => Document::from_toml(&name, &text),
        }
    }

    /// Reads TOML; `name` is the file's name for errors.
    ///
    /// # Errors
    /// [`Error::Policy`] with line and rule.
    pub fn from_toml(name: &str, text: &str) -> Result<Document, Error> {
        let line = |span: Option<std::ops::Range<usize>>| {
            span.and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.matches('\n').count() + 1)
        };
        size(name, text)?;
        let parsed =
            toml::Deserializer::parse(text).map_err(|error| wrong(name, line(error.span()), ".", error.message()))?;
        serde_path_to_error::deserialize(parsed).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            wrong(name, line(inner.span()), &path, inner.message())
        })
    }

    /// Reads JSON; `name` is the file's name for errors.
    ///
    /// # Errors
    /// [`Error::Policy`] with line and rule.
    pub fn from_json(name: &str, text: &str) -> Result<Document, Error> {
        size(name, text)?;
        let mut json = serde_json::Deserializer::from_str(text);
        let document = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            wrong(name, inner.line().max(1), &path, &inner.to_string())
        })?;
        json.end()
            .map_err(|error| wrong(name, error.line().max(1), ".", &error.to_string()))?;
        Ok(document)
    }

    /// The document in TOML, for people.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

fn size(name: &str, text: &str) -> Result<(), Error> {
    if text.len() > LARGEST {
        return Err(wrong(name, 1, ".", &format!("it has more than {LARGEST} bytes")));
    }
    Ok(())
}

fn wrong(file: &str, line: usize, path: &str, reason: &str) -> Error {
    let rule = if path == "." {
        "the policy".to_owned()
    } else {
        path.to_owned()
    };
    Error::Policy {
        file: file.to_owned(),
        line,
        rule,
        reason: reason.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_policies_name_line_and_rule() {
        for (text, line, rule, part) in [
            ("inspct = true\n", 1, "inspct", "unknown field"),
            (
                "\n[[allow]]\nhost = \"a.b\"\nport = 1\n",
                4,
                "allow[0].port",
                "unknown field",
            ),
            (
                "[[allow]]\nhost = \"a.b\"\n[[allow]]\nhost = \"1.2.3.4\"\n",
                4,
                "allow[1].host",
                "use `cidr`",
            ),
            ("[[allow]]\nports = [1]\n", 1, "allow[0]", "`host` or `cidr`"),
            (
                "[[allow]]\nhost = \"a.b\"\nports = [0]\n",
                3,
                "allow[0].ports[0]",
                "not a port",
            ),
            (
                "[[allow]]\ncidr = \"169.254.169.254\"\n",
                2,
                "allow[0].cidr",
                "cloud metadata",
            ),
            ("[[allow]]\ncidr = \"10.0.0.1/8\"\n", 2, "allow[0].cidr", "10.0.0.0/8"),
            ("presets = [\"pip\"]\n", 1, "presets[0]", "there is no preset `pip`"),
            (
                "[[allow]]\nhost = \"a.b\"\npaths = [\"x\"]\n",
                1,
                "allow[0]",
                "does not begin",
            ),
            (
                "[[allow]]\nhost = \"a.b\"\nquota = { requests = \"10\" }\n",
                3,
                "allow[0].quota.requests",
                "not a rate",
            ),
            ("a = = 1", 1, "the policy", ""),
        ] {
            match Document::from_toml("p.toml", text).unwrap_err() {
                Error::Policy {
                    line: at,
                    rule: named,
                    reason,
                    ..
                } => {
                    assert_eq!(at, line, "{text}: {reason}");
                    assert!(
                        named.starts_with(rule) || rule.starts_with(&named),
                        "{text}: {named}: {reason}"
                    );
                    assert!(reason.contains(part), "{text}: {reason}");
                }
                other => panic!("{other}"),
            }
        }
        let error = Document::from_json("p.json", "{\n \"allow\": [\n {\"host\": \"a.b\", \"x\": 1}]}").unwrap_err();
        assert!(error.to_string().contains("p.json:3"), "{error}");
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = "presets = [\"npm\"]\n[[allow]]\nhost = [\"a.b\", \"*.c.d\"]\nports = [443, \"8000-8010\"]\nmethods = \"get\"\n";
        let json =
            r#"{"presets":["npm"],"allow":[{"host":["a.b","*.c.d"],"ports":[443,"8000-8010"],"methods":["GET"]}]}"#;
        let toml = Document::from_toml("p", toml).unwrap();
        assert_eq!(toml, Document::from_json("p", json).unwrap());
        assert_eq!(Document::from_toml("p", &toml.to_toml()).unwrap(), toml);
    }
}
