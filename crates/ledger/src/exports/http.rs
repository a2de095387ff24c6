//! Posting to an HTTP endpoint, and what its answer means for what was sent.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use secrecy::ExposeSecret as _;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::Endpoint;
use super::sink::Failure;

/// The most of an answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

pub(crate) struct Poster {
    agent: Agent,
    endpoint: Endpoint,
}

impl Poster {
    pub(crate) fn new(endpoint: &Endpoint, timeout: Duration) -> Result<Self, String> {
        let is_tls = endpoint.url.starts_with("https://");
        if !is_tls && !endpoint.url.starts_with("http://") {
            return Err("the URL of an export begins with `https://` or `http://`".into());
        }
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()));
        if is_tls {
            let roots: Vec<Certificate<'static>> = endpoint
                .tls
                .roots()?
                .iter()
                .map(|der| Certificate::from_der(der).to_owned())
                .collect();
            tls = tls.root_certs(RootCerts::new_with_certs(&roots));
            if let Some((chain, key)) = &endpoint.tls.identity {
                tls = tls.client_cert(Some(identity(chain, key)?));
            }
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(timeout))
            // Neither a proxy from the environment nor a redirect may decide where evidence goes.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Ok(Self {
            agent: config.new_agent(),
            endpoint: endpoint.clone(),
        })
    }

    /// The URL for people.
    fn shown(&self) -> String {
        shown(&self.endpoint.url)
    }

    /// Posts, and gives the body of an answer that says yes.
    pub(crate) fn post(&self, content_type: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let url = self.shown();
        let mut request = self.agent.post(&self.endpoint.url).header("content-type", content_type);
        for (name, value) in &self.endpoint.headers {
            request = request.header(name, value.expose_secret());
        }
        let mut answer = request
            .send(body)
            .map_err(|error| Failure::away(format!("`{url}` did not answer: {}", describe(&error))))?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        match status.as_u16() {
            200..=299 => text.map_err(|error| Failure::away(format!("`{url}` broke off: {}", describe(&error)))),
            // Who asks to wait, is not allowed yet, or is not itself just now may take it later.
            401 | 403 | 404 | 407 | 408 | 425 | 429 | 500..=599 => {
                Err(Failure::away(format!("`{url}` answered {status}")))
            }
            _ => Err(Failure::refused(format!("`{url}` answered {status}"))),
        }
    }
}

/// A URL without its query and its user, which could be secrets.
pub(crate) fn shown(url: &str) -> String {
    let rest = url.split(['?', '#']).next().unwrap_or_default();
    match rest.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!(
                "{scheme}://{}{path}",
                host.rsplit_once('@').map_or(host, |(_, host)| host)
            )
        }
        None => rest.to_owned(),
    }
}

/// What went wrong, without what was sent: a header could be in the text of a protocol error.
fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "it took too long".into(),
        ureq::Error::HostNotFound => "its name has no address".into(),
        ureq::Error::ConnectionFailed => "it cannot be reached".into(),
        ureq::Error::Rustls(error) => format!("TLS failed: {error}"),
        _ => "the request could not be made or the answer not be read".into(),
    }
}

fn identity(chain: &std::path::Path, key: &std::path::Path) -> Result<ClientCert, String> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))
    };
    let mut certificates = Vec::new();
    for item in parse_pem(&read(chain)?) {
        match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(format!("`{}` is not PEM", chain.display())),
        }
    }
    let key = PrivateKey::from_pem(&zeroize::Zeroizing::new(read(key)?))
        .map_err(|_| format!("`{}` holds no private key in PEM", key.display()))?;
    Ok(ClientCert::new_with_certs(&certificates, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_secrets() {
        for (url, text) in [
            (
                "https://user:pw@log.example:4318/v1/logs?key=x#y",
                "https://log.example:4318/v1/logs",
            ),
            ("http://log.example", "http://log.example"),
            ("http://log.example/a@b", "http://log.example/a@b"),
        ] {
            assert_eq!(shown(url), text);
        }
    }
}
