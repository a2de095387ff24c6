//! `[ledger]`: where the server's ledger is, how long records stay, and where they go as they come.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use outwork_ledger::exports::{self, Endpoint, Form, Start, Syslog, Target, Tls, Transport};
use outwork_plane::LedgerOptions;
use secrecy::SecretString;
use serde::Deserialize;

use super::settings::Span;

/// The shortest retention: what is younger may still be asked for.
const MIN_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// The least that a limit of the size leaves.
const MIN_SIZE: u64 = 64 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LedgerSettings {
    dir: Option<PathBuf>,
    retention: Option<Span>,
    max_size: Option<ByteSize>,
    #[serde(default)]
    exports: Vec<ExportSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportSettings {
    name: String,
    #[serde(rename = "type")]
    kind: ExportType,
    form: Option<FormSetting>,
    start: Option<StartSetting>,
    path: Option<PathBuf>,
    url: Option<String>,
    headers_file: Option<PathBuf>,
    address: Option<String>,
    transport: Option<TransportSetting>,
    ca_file: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExportType {
    File,
    Syslog,
    Otlp,
    Http,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormSetting {
    Lines,
    Ocsf,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartSetting {
    Beginning,
    Now,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TransportSetting {
    Udp,
    Tcp,
    Tls,
}

/// What the table says.
pub(super) fn resolve(settings: &LedgerSettings) -> Result<LedgerOptions> {
    if settings.retention.is_some_and(|span| span.0 < MIN_RETENTION) {
        bail!("ledger.retention must be at least 24h");
    }
    if settings.max_size.is_some_and(|size| size.as_u64() < MIN_SIZE) {
        bail!("ledger.max_size must be at least 64MiB");
    }
    let mut exports: Vec<exports::Options> = Vec::new();
    for export in &settings.exports {
        if exports.iter().any(|other| other.name == export.name) {
            bail!("ledger.exports: two have the name `{}`", export.name);
        }
        exports.push(
            export
                .resolve()
                .with_context(|| format!("the export `{}` of the ledger", export.name))?,
        );
    }
    Ok(LedgerOptions {
        dir: settings.dir.clone(),
        retention: settings.retention.map(|span| span.0),
        keep_bytes: settings.max_size.map(|size| size.as_u64()),
        exports,
    })
}

impl ExportSettings {
    fn resolve(&self) -> Result<exports::Options> {
        self.check_fields()?;
        let target = match self.kind {
            ExportType::File => Target::File {
                path: self.path.clone().context("`path` is missing: the file to append to")?,
                form: self.form(Form::Lines),
            },
            ExportType::Http => Target::Http {
                endpoint: self.endpoint()?,
                form: self.form(Form::Lines),
            },
            ExportType::Otlp => Target::Otlp(self.endpoint()?),
            ExportType::Syslog => Target::Syslog(Syslog {
                address: self
                    .address
                    .clone()
                    .context("`address` is missing: the receiver as host:port")?,
                transport: match self.transport.unwrap_or(TransportSetting::Tls) {
                    TransportSetting::Udp => Transport::Udp,
                    TransportSetting::Tcp => Transport::Tcp,
                    TransportSetting::Tls => Transport::Tls(self.tls()?),
                },
                header: exports::syslog::Header::default(),
                form: self.form(Form::Ocsf),
            }),
        };
        let mut options = exports::Options::new(self.name.as_str(), target);
        options.start = match self.start {
            Some(StartSetting::Now) => Start::Now,
            Some(StartSetting::Beginning) | None => Start::Beginning,
        };
        Ok(options)
    }

    /// A field that says nothing for this type is a mistake.
    fn check_fields(&self) -> Result<()> {
        use ExportType::{File, Http, Otlp, Syslog};
        let web: &[ExportType] = &[Http, Otlp];
        let secured: &[ExportType] = &[Http, Otlp, Syslog];
        let fields: [(&str, bool, &[ExportType]); 8] = [
            ("path", self.path.is_some(), &[File]),
            ("form", self.form.is_some(), &[File, Http, Syslog]),
            ("url", self.url.is_some(), web),
            ("headers_file", self.headers_file.is_some(), web),
            ("address", self.address.is_some(), &[Syslog]),
            ("transport", self.transport.is_some(), &[Syslog]),
            ("ca_file", self.ca_file.is_some(), secured),
            (
                "client_cert",
                self.client_cert.is_some() || self.client_key.is_some(),
                secured,
            ),
        ];
        match fields
            .iter()
            .find(|(_, given, kinds)| *given && !kinds.contains(&self.kind))
        {
            Some((name, ..)) => bail!("`{name}` says nothing for an export of this type; leave it out"),
            None => Ok(()),
        }
    }

    fn form(&self, usual: Form) -> Form {
        match self.form {
            Some(FormSetting::Lines) => Form::Lines,
            Some(FormSetting::Ocsf) => Form::Ocsf,
            None => usual,
        }
    }

    fn endpoint(&self) -> Result<Endpoint> {
        Ok(Endpoint {
            url: self.url.clone().context("`url` is missing: where to post to")?,
            headers: self
                .headers_file
                .as_deref()
                .map(headers)
                .transpose()?
                .unwrap_or_default(),
            tls: self.tls()?,
        })
    }

    fn tls(&self) -> Result<Tls> {
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => bail!("`client_cert` and `client_key` go together"),
        };
        Ok(Tls {
            ca: self.ca_file.clone(),
            identity,
        })
    }
}

/// Headers from a file of lines `name: value`, since what authenticates is no setting.
fn headers(path: &Path) -> Result<Vec<(String, SecretString)>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("could not read the headers in {}", path.display()))?;
    let mut headers = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            bail!("{}, line {}: a header is `name: value`", path.display(), number + 1);
        };
        headers.push((name.trim().to_owned(), SecretString::from(value.trim())));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{DEFAULTS, Settings, parse};
    use super::*;

    fn of(text: &str) -> Result<LedgerOptions> {
        resolve(&parse::<Settings>(text, "test.toml")?.ledger)
    }

    #[test]
    fn the_defaults_keep_everything_and_send_nothing() {
        let options = of(DEFAULTS).unwrap();
        assert!(options.dir.is_none() && options.retention.is_none() && options.keep_bytes.is_none());
        assert!(options.exports.is_empty());
    }

    #[test]
    fn each_type_of_export_is_taken() {
        let text = r#"
            [ledger]
            dir = "/srv/ledger"
            retention = "8760h"
            max_size = "10GiB"
            exports = [
                { name = "a", type = "file", path = "/var/log/outwork.jsonl" },
                { name = "b", type = "syslog", address = "siem:6514", form = "lines", start = "now" },
                { name = "c", type = "otlp", url = "https://otel.example/v1/logs" },
                { name = "d", type = "http", url = "https://siem.example/in", form = "ocsf" },
            ]
        "#;
        let options = of(text).unwrap();
        assert_eq!(options.exports.len(), 4);
        assert!(matches!(
            options.exports[0].target,
            Target::File { form: Form::Lines, .. }
        ));
        assert!(matches!(&options.exports[1].target, Target::Syslog(s) if matches!(s.transport, Transport::Tls(_))));
        assert_eq!(options.exports[1].start, Start::Now);
        assert!(matches!(
            options.exports[3].target,
            Target::Http { form: Form::Ocsf, .. }
        ));
        assert_eq!(options.keep_bytes, Some(10 << 30));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, named) in [
            ("[ledger]\nretention = \"1h\"", "24h"),
            ("[ledger]\nmax_size = \"1MB\"", "64MiB"),
            ("[[ledger.exports]]\nname = \"a\"\ntype = \"file\"", "path"),
            ("[[ledger.exports]]\nname = \"a\"\ntype = \"pigeon\"", "pigeon"),
            (
                "[[ledger.exports]]\nname = \"a\"\ntype = \"file\"\npath = \"/x\"\nurl = \"http://x\"",
                "url",
            ),
            ("[[ledger.exports]]\nname = \"a\"\ntype = \"otlp\"", "url"),
            (
                "[[ledger.exports]]\nname = \"a\"\ntype = \"http\"\nurl = \"http://x\"\nclient_key = \"k\"",
                "client_cert",
            ),
            (
                "[ledger]\nexports = [{ name = \"a\", type = \"file\", path = \"/x\" }, { name = \"a\", type = \"file\", path = \"/y\" }]",
                "two",
            ),
        ] {
            let error = format!("{:#}", of(text).err().unwrap());
            assert!(error.contains(named), "{error}");
        }
    }
}
