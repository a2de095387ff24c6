//! Hosts that belong together and have a name: package registries.
//!
//! Each row says which hosts a package manager of that name needs to install from its public registry, and at which
//! ports. A preset opens hosts, not uploads: publishing to a registry goes to the same hosts, so who wants to forbid it
//! writes a rule with methods instead.

use super::text::Ports;

/// A named set of hosts.
#[derive(Debug)]
pub struct Preset {
    /// Its name in a policy.
    pub name: &'static str,
    /// The hosts, as patterns.
    pub hosts: &'static [&'static str],
    /// The ports.
    pub ports: &'static [Ports],
}

const TLS: &[Ports] = &[Ports::one(443)];
/// Distributions sign their indexes and serve them in the clear too.
const BOTH: &[Ports] = &[Ports::one(80), Ports::one(443)];

/// Every preset. `package-managers` stands for all of them.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "pypi",
        hosts: &["pypi.org", "files.pythonhosted.org"],
        ports: TLS,
    },
    Preset {
        name: "conda",
        hosts: &["conda.anaconda.org", "repo.anaconda.com"],
        ports: TLS,
    },
    Preset {
        name: "npm",
        hosts: &["registry.npmjs.org", "registry.yarnpkg.com"],
        ports: TLS,
    },
    Preset {
        name: "crates",
        hosts: &["crates.io", "index.crates.io", "static.crates.io"],
        ports: TLS,
    },
    Preset {
        name: "rubygems",
        hosts: &["rubygems.org", "index.rubygems.org"],
        ports: TLS,
    },
    Preset {
        name: "golang",
        hosts: &["proxy.golang.org", "sum.golang.org", "storage.googleapis.com"],
        ports: TLS,
    },
    Preset {
        name: "maven",
        hosts: &["repo.maven.apache.org", "repo1.maven.org", "plugins.gradle.org"],
        ports: TLS,
    },
    Preset {
        name: "packagist",
        hosts: &["packagist.org", "repo.packagist.org"],
        ports: TLS,
    },
    Preset {
        name: "nuget",
        hosts: &["api.nuget.org", "globalcdn.nuget.org"],
        ports: TLS,
    },
    Preset {
        name: "hex",
        hosts: &["hex.pm", "repo.hex.pm", "builds.hex.pm"],
        ports: TLS,
    },
    Preset {
        name: "debian",
        hosts: &["deb.debian.org", "security.debian.org", "snapshot.debian.org"],
        ports: BOTH,
    },
    Preset {
        name: "ubuntu",
        hosts: &[
            "archive.ubuntu.com",
            "security.ubuntu.com",
            "ports.ubuntu.com",
            "*.archive.ubuntu.com",
        ],
        ports: BOTH,
    },
    Preset {
        name: "alpine",
        hosts: &["dl-cdn.alpinelinux.org"],
        ports: BOTH,
    },
    Preset {
        name: "fedora",
        hosts: &["mirrors.fedoraproject.org", "dl.fedoraproject.org"],
        ports: BOTH,
    },
];

/// The name that stands for every preset of this table.
pub const PACKAGE_MANAGERS: &str = "package-managers";

/// The presets of a name.
pub fn named(name: &str) -> Option<&'static [Preset]> {
    if name == PACKAGE_MANAGERS {
        return Some(PRESETS);
    }
    let at = PRESETS.iter().position(|preset| preset.name == name)?;
    Some(&PRESETS[at..=at])
}
