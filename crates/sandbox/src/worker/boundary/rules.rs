//! Which policy holds for a session: what its environment says and what the worker's owner says, and never more than
//! either.

use outwork_egress::policy::HostPattern;
use outwork_egress::policy::document::RuleText;
use outwork_egress::policy::presets::PRESETS;
use outwork_egress::policy::text::Ports;
use outwork_egress::{Document, Policy, narrower};

use super::error::BoundaryError;
use super::repository::Repository;
use super::said::{Kind, Said};

/// A policy, and whether anything fits it.
#[derive(Clone)]
pub(crate) struct Rules {
    pub policy: Policy,
    /// False if it lets nothing through.
    pub open: bool,
}

impl Rules {
    fn nothing() -> Self {
        Self {
            policy: Policy::nothing(),
            open: false,
        }
    }

    fn of(label: &str, document: &Document, mcp: &[(HostPattern, u16)]) -> Self {
        Self {
            policy: Policy::new(label, document, mcp),
            open: !document.allow.is_empty()
                || !document.presets.is_empty()
                || (document.mcp_servers && !mcp.is_empty()),
        }
    }

    fn narrower(self, own: Option<Self>) -> Self {
        match own {
            None => self,
            Some(own) => Self {
                policy: narrower(self.policy, own.policy),
                open: self.open && own.open,
            },
        }
    }
}

/// The policy of a session's sandbox. A session of a `cloud` environment may reach what that says, and its own
/// repositories; any other what the worker's owner allows, which is nothing if there is no policy.
///
/// If the session has secrets, TLS is opened for every host: a placeholder on its way to one that it is not for is then
/// seen, blocked and recorded.
pub(crate) fn of_session(
    said: Option<&Said>,
    own: Option<&Document>,
    repositories: &[Repository],
    has_secrets: bool,
) -> Result<Rules, BoundaryError> {
    let mcp = said.map_or(&[][..], |said| &said.mcp_hosts);
    let own = own.map(|document| {
        let mut document = document.clone();
        document.inspect |= has_secrets;
        Rules::of("worker", &document, mcp)
    });
    match said {
        Some(said) if said.kind == Kind::Cloud => {
            let mut document = match &said.networking {
                Some(networking) => networking.document().map_err(BoundaryError::Policy)?,
                None => Document::default(),
            };
            document.inspect |= has_secrets;
            document.allow.extend(repositories.iter().map(rule));
            Ok(Rules::of("environment", &document, mcp).narrower(own))
        }
        _ => Ok(own.unwrap_or_else(Rules::nothing)),
    }
}

/// The policy under which a repository is brought: that one, as far as the worker's owner allows it.
pub(crate) fn of_repository(said: Option<&Said>, own: Option<&Document>, repository: &Repository) -> Rules {
    let document = Document {
        allow: vec![rule(repository)],
        ..Document::default()
    };
    let cloud = said.is_some_and(|said| said.kind == Kind::Cloud);
    let own = own.map(|document| Rules::of("worker", document, &[]));
    match own {
        // Nobody allowed a self-hosted session anything.
        None if !cloud => Rules::nothing(),
        own => Rules::of("repository", &document, &[]).narrower(own),
    }
}

/// The policy under which packages are installed: the registries of package managers and the mirrors that the worker's
/// owner names, as far as the owner allows them, and to read only. TLS is opened for it.
pub(crate) fn of_packages(own: Option<&Document>, mirrors: &[(HostPattern, u16)]) -> Rules {
    let registries = PRESETS.iter().map(|preset| {
        let hosts = preset.hosts.iter().filter_map(|host| host.parse().ok()).collect();
        RuleText::hosts(preset.name, hosts, preset.ports.to_vec())
    });
    let mirrors = mirrors.iter().map(|(host, port)| {
        let mut rule = RuleText::hosts(format!("mirror {host}"), vec![host.clone()], vec![Ports::one(*port)]);
        // It was named by the owner, who may have it in a network of their own.
        rule.addresses = ["0.0.0.0/0", "::/0"]
            .iter()
            .filter_map(|range| range.parse().ok())
            .collect();
        rule
    });
    let allow = registries.chain(mirrors).map(|mut rule| {
        rule.methods = vec!["GET".to_owned(), "HEAD".to_owned()];
        rule
    });
    let document = Document {
        allow: allow.collect(),
        ..Document::default()
    };
    let own = own.map(|document| Rules::of("worker", document, &[]));
    Rules::of("packages", &document, &[]).narrower(own)
}

/// The repository's own part of its host.
fn rule(repository: &Repository) -> RuleText {
    let name = format!("repository {}", repository.id);
    let mut rule = RuleText::hosts(name, vec![repository.host.clone()], vec![Ports::one(repository.port)]);
    rule.paths = repository
        .paths()
        .iter()
        .map(|path| format!("{}/**", literal(path)))
        .collect();
    rule
}

/// A path as a pattern that fits nothing else.
fn literal(path: &str) -> String {
    let mut pattern = String::new();
    for character in path.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use outwork_egress::Networking;
    use outwork_egress::policy::check;

    use super::*;

    fn said(kind: Kind, networking: Option<Networking>) -> Said {
        Said {
            hash: "1".into(),
            workspace: "wrkspc_1".into(),
            environment: "env_1".into(),
            agent: ("agent_1".into(), 1),
            kind,
            networking,
            packages: outwork_image::Packages::default(),
            mcp_hosts: vec![("mcp.example".parse().unwrap(), 8443)],
            stop: None,
        }
    }

    fn limited(hosts: &[&str], mcp: bool) -> Option<Networking> {
        Some(Networking::Limited {
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            allow_package_managers: false,
            allow_mcp_servers: mcp,
        })
    }

    fn allows(rules: &Rules, host: &str, port: u16, path: &str) -> bool {
        check(&rules.policy, host, port, Some(("GET", path))).unwrap().allowed()
    }

    fn own(text: &str) -> Document {
        Document::from_toml("worker.toml", text).unwrap()
    }

    #[test]
    fn the_narrower_wins_and_nothing_is_what_nobody_said() {
        let cloud = said(Kind::Cloud, limited(&["a.example", "b.example"], true));
        let policy = own("[[allow]]\nhost = [\"a.example\", \"c.example\"]");
        let both = of_session(Some(&cloud), Some(&policy), &[], false).unwrap();
        let alone = of_session(Some(&cloud), None, &[], false).unwrap();
        for (host, port, by_both, by_one) in [
            ("a.example", 443, true, true),
            ("b.example", 443, false, true),
            ("c.example", 443, false, false),
            ("mcp.example", 8443, false, true),
        ] {
            assert_eq!(allows(&both, host, port, "/"), by_both, "{host}");
            assert_eq!(allows(&alone, host, port, "/"), by_one, "{host}");
        }
        assert!(both.open && alone.open);
        let hosted = of_session(Some(&said(Kind::SelfHosted, None)), None, &[], false).unwrap();
        assert!(!hosted.open && !allows(&hosted, "a.example", 443, "/"));
        let unknown = of_session(None, Some(&policy), &[], false).unwrap();
        assert!(unknown.open && allows(&unknown, "c.example", 443, "/"));
        for closed in [
            of_session(None, None, &[], false).unwrap(),
            of_session(Some(&said(Kind::Cloud, None)), None, &[], false).unwrap(),
            of_session(Some(&said(Kind::Cloud, limited(&[], false))), None, &[], false).unwrap(),
            of_session(Some(&cloud), Some(&Document::default()), &[], false).unwrap(),
        ] {
            assert!(!closed.open && !allows(&closed, "a.example", 443, "/"));
        }
    }

    #[test]
    fn registries_are_open_for_reading_as_far_as_the_owner_allows() {
        let mirror = [("pypi.test.example".parse().unwrap(), 8443)];
        let may = |rules: &Rules, method: &str, host: &str, port: u16| {
            check(&rules.policy, host, port, Some((method, "/x")))
                .unwrap()
                .allowed()
        };
        let rules = of_packages(None, &mirror);
        for (method, host, port, allowed) in [
            ("GET", "pypi.org", 443, true),
            ("HEAD", "files.pythonhosted.org", 443, true),
            ("POST", "pypi.org", 443, false),
            ("PUT", "registry.npmjs.org", 443, false),
            ("GET", "deb.debian.org", 80, true),
            ("GET", "pypi.org", 22, false),
            ("GET", "pypi.test.example", 8443, true),
            ("POST", "pypi.test.example", 8443, false),
            ("GET", "other.test.example", 443, false),
        ] {
            assert_eq!(may(&rules, method, host, port), allowed, "{method} {host}:{port}");
        }
        let narrow = of_packages(Some(&own("presets = [\"npm\"]")), &mirror);
        assert!(narrow.open && may(&narrow, "GET", "registry.npmjs.org", 443));
        assert!(!may(&narrow, "GET", "pypi.org", 443) && !may(&narrow, "GET", "pypi.test.example", 8443));
        assert!(!of_packages(Some(&Document::default()), &mirror).open);
    }

    #[test]
    fn a_repository_opens_its_own_part_of_its_host() {
        let repository = Repository::read(
            "sesrsc_1",
            "https://git.example/team/na[m]e",
            "/workspace/name",
            None,
            true,
        );
        let repository = repository.unwrap();
        let cloud = said(Kind::Cloud, limited(&[], false));
        for rules in [
            of_session(Some(&cloud), None, std::slice::from_ref(&repository), true).unwrap(),
            of_repository(Some(&cloud), None, &repository),
        ] {
            assert!(rules.open);
            assert!(allows(&rules, "git.example", 443, "/team/na[m]e/info/refs"));
            assert!(allows(&rules, "git.example", 443, "/team/na[m]e.git/git-receive-pack"));
            assert!(!allows(&rules, "git.example", 443, "/team/name/info/refs"));
            assert!(!allows(&rules, "git.example", 443, "/team/other/info/refs"));
            assert!(!allows(&rules, "git.example", 8443, "/team/na[m]e/info/refs"));
        }
        let hosted = said(Kind::SelfHosted, None);
        assert!(!of_repository(Some(&hosted), None, &repository).open);
        let policy = own("[[allow]]\nhost = \"git.example\"");
        let rules = of_repository(Some(&hosted), Some(&policy), &repository);
        assert!(allows(&rules, "git.example", 443, "/team/na[m]e/info/refs"));
        assert!(!allows(&rules, "git.example", 443, "/team/other/info/refs"));
    }
}
