//! The `packages` of an environment: which names are accepted, the script that installs them, and the key of the result.
//!
//! Names are checked against what each package manager calls a name with an optional version. Refused: options, paths,
//! addresses, aliases, markers, everything that a shell or a manager could take for something else. What passes is quoted
//! nevertheless. Managers run in the order of their names.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result, shown};

/// Part of every key: goes up when the script changes.
const SCRIPT: u32 = 2;
/// Packages of one manager.
const MOST: usize = 500;
/// Bytes of one name.
const NAME_BYTES: usize = 200;

/// What is to be installed, by package manager.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Packages {
    /// Debian packages: `name`, `name=version`, `name/release`, `name:architecture`.
    pub apt: Vec<String>,
    /// Rust programs: `name`, `name@version`.
    pub cargo: Vec<String>,
    /// Ruby gems: `name`, `name:version`.
    pub gem: Vec<String>,
    /// Go programs: `module/path`, `module/path@version`.
    pub go: Vec<String>,
    /// Node packages, installed globally: `name`, `@scope/name`, with `@version` or `@range`.
    pub npm: Vec<String>,
    /// Python packages: `name`, `name[extra]`, with version specifiers.
    pub pip: Vec<String>,
}

/// Says whether a text is a package with an optional version, to one package manager.
type Valid = fn(&str) -> bool;

/// Checked packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked(Packages);

impl Packages {
    /// True if there is nothing to install.
    pub fn is_empty(&self) -> bool {
        [&self.apt, &self.cargo, &self.gem, &self.go, &self.npm, &self.pip]
            .iter()
            .all(|list| list.is_empty())
    }

    /// Checks every name. Order and repetition do not matter, so lists come out sorted.
    pub fn check(&self) -> Result<Checked> {
        let mut checked = self.clone();
        let lists: [(&'static str, &mut Vec<String>, Valid); 6] = [
            ("apt", &mut checked.apt, apt),
            ("cargo", &mut checked.cargo, cargo),
            ("gem", &mut checked.gem, gem),
            ("go", &mut checked.go, go),
            ("npm", &mut checked.npm, npm),
            ("pip", &mut checked.pip, pip),
        ];
        for (manager, list, valid) in lists {
            if list.len() > MOST {
                return Err(Error::TooLarge {
                    what: format!("packages.{manager}"),
                    limit: MOST as u64,
                    unit: "packages",
                });
            }
            if let Some(wrong) = list.iter().find(|name| name.len() > NAME_BYTES || !valid(name)) {
                return Err(Error::Package {
                    manager,
                    name: shown(wrong.as_bytes()),
                    problem: "is not the name of a package with an optional version; options, paths and addresses are refused",
                });
            }
            list.sort();
            list.dedup();
        }
        Ok(Checked(checked))
    }
}

impl Checked {
    /// What was checked, sorted.
    pub fn packages(&self) -> &Packages {
        &self.0
    }

    /// Every package with its manager, for people: `pip idna, npm left-pad`.
    pub fn describe(&self) -> String {
        let Packages {
            apt,
            cargo,
            gem,
            go,
            npm,
            pip,
        } = &self.0;
        let lists = [
            ("apt", apt),
            ("cargo", cargo),
            ("gem", gem),
            ("go", go),
            ("npm", npm),
            ("pip", pip),
        ];
        let named = lists
            .iter()
            .flat_map(|(manager, list)| list.iter().map(move |name| format!("{manager} {name}")));
        named.collect::<Vec<_>>().join(", ")
    }

    /// The name of the layer that these packages make on a base, as [`crate::ImageDigest`] writes it.
    pub(crate) fn key(&self, base: &str) -> Digest {
        let text = serde_json::to_vec(&(SCRIPT, base, &self.0)).expect("lists of strings are plain data");
        Digest::of(&text)
    }

    /// The lines of a POSIX shell script that installs everything, or ends with an error at the first failure. To be run
    /// as the owner of the root filesystem, with the network that the environment allows for package managers.
    pub fn script(&self) -> String {
        let Packages {
            apt,
            cargo,
            gem,
            go,
            npm,
            pip,
        } = &self.0;
        let mut lines = vec!["set -eu".to_owned(), "umask 022".to_owned()];
        let mut manager = |program: &str, list: &[String], commands: &dyn Fn(&str) -> Vec<String>| {
            if list.is_empty() {
                return;
            }
            let missing = format!("packages: the image has no {program}");
            lines.push(format!(
                "command -v {program} >/dev/null 2>&1 || {{ echo {} >&2; exit 127; }}",
                quote(&missing)
            ));
            lines.extend(commands(
                &list.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" "),
            ));
        };
        manager("apt-get", apt, &|names| {
            vec![
                "export DEBIAN_FRONTEND=noninteractive".into(),
                "apt-get update -q".into(),
                // The layer is written to disk as a whole when it is kept.
                format!(
                    "apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io -- {names}"
                ),
                "rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb".into(),
            ]
        });
        manager("cargo", cargo, &|names| {
            vec![format!("cargo install --locked --root /usr/local -- {names}")]
        });
        // No `--` here: what follows it goes to the compilers of native parts.
        manager("gem", gem, &|names| {
            vec![format!("gem install --no-document --bindir /usr/local/bin {names}")]
        });
        manager("go", go, &|_| {
            let each = go.iter().map(|name| {
                let latest = if name.contains('@') { "" } else { "@latest" };
                format!(
                    "GOBIN=/usr/local/bin go install -- {}",
                    quote(&format!("{name}{latest}"))
                )
            });
            each.collect()
        });
        manager("npm", npm, &|names| {
            vec![format!("npm install --global --no-audit --no-fund -- {names}")]
        });
        manager("python3", pip, &|names| {
            vec![format!(
                "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 python3 -m pip install -- {names}"
            )]
        });
        lines.push(String::new());
        lines.join("\n")
    }
}

/// As one word of a POSIX shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn made_of(text: &str, first: fn(char) -> bool, rest: fn(char) -> bool) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(first) && chars.all(rest)
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

fn version(text: &str) -> bool {
    made_of(text, word, |c| word(c) || ".+-_~".contains(c))
}

fn apt(text: &str) -> bool {
    let (name, rest) = text
        .find(['=', '/'])
        .map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let (name, architecture) = name
        .split_once(':')
        .map_or((name, None), |(name, architecture)| (name, Some(architecture)));
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    // A name that ends in `-` or `+` means something else to apt-get: remove, install.
    name.len() >= 2
        && made_of(name, lower, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c)
        })
        && (!name.ends_with(['-', '+']) || name.ends_with("++"))
        && architecture.is_none_or(|text| {
            made_of(text, lower, |c| {
                c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
            })
        })
        && rest
            .is_none_or(|text| made_of(text, word, |c| word(c) || ".+-_~:".contains(c)) && !text.ends_with(['-', '+']))
}

fn cargo(text: &str) -> bool {
    let (name, req) = text
        .split_once('@')
        .map_or((text, None), |(name, req)| (name, Some(req)));
    made_of(name, |c| c.is_ascii_alphabetic(), |c| word(c) || c == '-' || c == '_')
        && req.is_none_or(|req| version(req.trim_start_matches(['=', '^', '~'])))
}

fn gem(text: &str) -> bool {
    let (name, number) = text
        .split_once(':')
        .map_or((text, None), |(name, number)| (name, Some(number)));
    made_of(name, |c| word(c) || c == '_', |c| word(c) || "._-".contains(c))
        && !name.ends_with(".gem")
        && number.is_none_or(version)
}

fn go(text: &str) -> bool {
    let (path, at) = text.split_once('@').map_or((text, None), |(path, at)| (path, Some(at)));
    let part = |part: &str| {
        made_of(
            part,
            |c| word(c) || c == '_' || c == '~',
            |c| word(c) || "._~-".contains(c),
        ) && !part.ends_with('.')
    };
    // The first part is a host: without a dot it would be a package of the standard library or of the folder.
    path.split('/').all(part) && path.split('/').next().is_some_and(|host| host.contains('.')) && at.is_none_or(version)
}

fn npm(text: &str) -> bool {
    let (scope, rest) = match text.strip_prefix('@') {
        Some(scoped) => match scoped.split_once('/') {
            Some((scope, rest)) => (Some(scope), rest),
            None => return false,
        },
        None => (None, text),
    };
    let (name, range) = rest
        .split_once('@')
        .map_or((rest, None), |(name, range)| (name, Some(range)));
    let part = |part: &str| made_of(part, word, |c| word(c) || "._-".contains(c));
    // A name with the ending of an archive would be taken for a file.
    let file = [".tgz", ".tar", ".tar.gz"].iter().any(|ending| text.ends_with(ending));
    scope.is_none_or(part)
        && part(name)
        && !file
        && range.is_none_or(|range| {
            made_of(
                range,
                |c| word(c) || "^~<>=*".contains(c),
                |c| word(c) || "^~<>=*.+- |".contains(c),
            ) && range.trim() == range
        })
}

fn pip(text: &str) -> bool {
    let end = text.find(['[', '=', '<', '>', '!', '~', ' ']).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let named = |name: &str| made_of(name, word, |c| word(c) || "._-".contains(c)) && name.ends_with(word);
    // A name with the ending of an archive would be taken for a file.
    let file = [".whl", ".zip", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz"]
        .iter()
        .any(|ending| name.ends_with(ending));
    if !named(name) || file {
        return false;
    }
    if let Some(extras) = rest.strip_prefix('[') {
        let Some((extras, after)) = extras.split_once(']') else {
            return false;
        };
        if !extras.split(',').all(|extra| named(extra.trim())) {
            return false;
        }
        rest = after;
    }
    let rest = rest.trim();
    let specifier = |text: &str| {
        let text = text.trim();
        let operator = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"]
            .iter()
            .find(|operator| text.starts_with(**operator));
        operator.is_some_and(|operator| {
            made_of(text[operator.len()..].trim_start(), word, |c| {
                word(c) || ".+-_!*".contains(c)
            })
        })
    };
    rest.is_empty() || rest.split(',').all(specifier)
}

#[cfg(test)]
#[path = "packages_tests.rs"]
mod tests;
