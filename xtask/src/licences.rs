//! The licences of everything that is linked: each package's SPDX expression must be satisfied by the
//! allow-list of `deny.toml`, the same list that `cargo deny check licenses` reads. A package without
//! an expression fails; so does an allow-list that has a GPL or LGPL licence in it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::metadata;
use crate::workspace::Workspace;

/// Checks every package of the lock file; the error names each one that is not allowed.
pub(crate) fn check(workspace: &Workspace) -> Result<usize> {
    let path = workspace.root.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let allowed = allow_list(&text).with_context(|| format!("in {}", path.display()))?;
    let packages = metadata::packages(workspace)?;
    let mut wrong = Vec::new();
    for package in &packages {
        match package.licence.as_deref() {
            None => wrong.push(format!("{} {} names no licence", package.name, package.version)),
            Some(expression) => match satisfied(expression, &allowed) {
                Ok(true) => {}
                Ok(false) => wrong.push(format!("{} {} is under {expression}", package.name, package.version)),
                Err(error) => wrong.push(format!("{} {}: {error}", package.name, package.version)),
            },
        }
    }
    if wrong.is_empty() {
        return Ok(packages.len());
    }
    bail!(
        "packages whose licence is not in the allow-list of deny.toml:\n  {}",
        wrong.join("\n  ")
    );
}

fn allow_list(text: &str) -> Result<BTreeSet<String>> {
    let document: toml::Table = text.parse().context("the file is not TOML")?;
    let list = document
        .get("licenses")
        .and_then(|section| section.get("allow"))
        .and_then(toml::Value::as_array)
        .context("it has no list `allow` under [licenses]")?;
    let mut allowed = BTreeSet::new();
    for entry in list {
        let name = entry
            .as_str()
            .context("the list `allow` holds something that is not a string")?;
        if name.contains("GPL") {
            bail!("{name} is allowed there; no GPL or LGPL code may be linked");
        }
        allowed.insert(name.to_owned());
    }
    Ok(allowed)
}

/// Whether an SPDX expression can be satisfied with the allowed licences only.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> Result<bool> {
    // Old manifests write `MIT/Apache-2.0` for a choice.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Expression { words: &words, allowed };
    let result = parser.choice()?;
    match parser.words.first() {
        None => Ok(result),
        Some(word) => {
            bail!("the licence expression {expression:?} has {word:?} where it should end")
        }
    }
}

struct Expression<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl<'a> Expression<'a> {
    fn choice(&mut self) -> Result<bool> {
        let mut result = self.conjunction()?;
        while self.take("OR") {
            result |= self.conjunction()?;
        }
        Ok(result)
    }

    fn conjunction(&mut self) -> Result<bool> {
        let mut result = self.licence()?;
        while self.take("AND") {
            result &= self.licence()?;
        }
        Ok(result)
    }

    fn licence(&mut self) -> Result<bool> {
        if self.take("(") {
            let result = self.choice()?;
            if !self.take(")") {
                bail!("a licence expression has an open parenthesis");
            }
            return Ok(result);
        }
        let name = self
            .next()
            .context("a licence expression ends where a licence should be")?;
        if self.take("WITH") {
            let exception = self.next().context("a licence expression ends after WITH")?;
            return Ok(self.allowed.contains(&format!("{name} WITH {exception}")));
        }
        Ok(self.allowed.contains(name))
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> BTreeSet<String> {
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn expressions_are_decided_by_the_list() {
        let cases = [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-3.0", false),
            ("LGPL-2.1 OR GPL-3.0", false),
            ("(MIT OR GPL-2.0) AND Apache-2.0", true),
            ("(MIT AND GPL-2.0) OR ISC", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("Apache-2.0 WITH Classpath-exception-2.0", false),
        ];
        for (expression, expected) in cases {
            assert_eq!(satisfied(expression, &allowed()).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn a_broken_expression_is_an_error() {
        for expression in ["", "MIT OR", "(MIT", "MIT Apache-2.0"] {
            assert!(satisfied(expression, &allowed()).is_err(), "{expression:?}");
        }
    }

    #[test]
    fn a_list_with_gpl_in_it_is_refused() {
        let error = allow_list("[licenses]\nallow = [\"MIT\", \"LGPL-2.1\"]").unwrap_err();
        assert!(error.to_string().contains("LGPL-2.1"), "{error}");
    }
}
