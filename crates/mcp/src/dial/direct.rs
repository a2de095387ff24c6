//! Dialling over the network that the plane is in.
//!
//! A name is resolved, every answer is checked, and one of the checked addresses is connected to: nothing resolves
//! again between the check and the connection, so a name that changes its answers gains nothing. A name with one
//! forbidden address among its answers is refused as a whole.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{BoxStream, Dial, DialError, Scheme, Target, address};

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 8;
/// How long one address is tried while there are others.
const ATTEMPT: Duration = Duration::from_millis(2500);

/// Names to addresses.
pub trait Resolve: Send + Sync {
    /// The addresses of a name, in the order in which they are to be tried.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0))
                .await?
                .map(|address| address.ip())
                .collect())
        })
    }
}

/// Connects over the network that the plane is in.
#[derive(Clone)]
pub struct Direct {
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
}

/// A [`Direct`] that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// A further root certificate is none.
    #[error("a further root certificate for MCP servers is not valid: {0}")]
    Root(#[source] rustls::Error),
    /// The TLS library does not take its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
}

impl Direct {
    /// Trusts the public roots (those of Mozilla) and `extra` ones.
    pub fn new(
        resolver: Arc<dyn Resolve>,
        extra: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, DirectError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        for root in extra {
            roots.add(root).map_err(DirectError::Root)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(DirectError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            resolver,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, DialError> {
        let ips = match target.host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self
                .resolver
                .resolve(&target.host)
                .await
                .map_err(|error| DialError::Resolve {
                    host: target.host.clone(),
                    reason: error.to_string(),
                })?,
        };
        if ips.is_empty() {
            return Err(DialError::Resolve {
                host: target.host.clone(),
                reason: "it has no address".into(),
            });
        }
        for ip in &ips {
            if let Some(reason) = address::refusal(*ip, &target.policy.allow) {
                return Err(DialError::Refused {
                    host: target.host.clone(),
                    reason,
                });
            }
        }
        Ok(ips
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(|ip| SocketAddr::new(ip, target.port))
            .collect())
    }

    async fn open(&self, target: &Target, deadline: Instant) -> Result<BoxStream, DialError> {
        let addresses = self.addresses(target).await?;
        let mut last = None;
        let count = addresses.len();
        for (index, address) in addresses.into_iter().enumerate() {
            let until = if index + 1 == count {
                deadline
            } else {
                deadline.min(Instant::now() + ATTEMPT)
            };
            match timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.secure(target, stream).await,
                Ok(Err(error)) => last = Some(error.kind()),
                Err(_) => last = Some(io::ErrorKind::TimedOut),
            }
        }
        // The kind and not the error: that one may carry the address.
        let reason = last.unwrap_or(io::ErrorKind::NotFound).to_string();
        Err(DialError::Connect {
            host: target.host.clone(),
            reason,
        })
    }

    async fn secure(&self, target: &Target, stream: TcpStream) -> Result<BoxStream, DialError> {
        let tls = |reason: String| DialError::Tls {
            host: target.host.clone(),
            reason,
        };
        // Small requests wait for answers: nothing is gained by gathering them. A failure costs only time.
        let _ = stream.set_nodelay(true);
        match target.scheme {
            Scheme::Http => Ok(BoxStream::new(stream)),
            Scheme::Https => {
                let name = ServerName::try_from(target.host.clone())
                    .map_err(|_| tls("the host is neither a name nor an address".into()))?;
                let stream = self
                    .tls
                    .connect(name, stream)
                    .await
                    .map_err(|error| tls(error.to_string()))?;
                Ok(BoxStream::new(stream))
            }
        }
    }
}

impl Dial for Direct {
    fn dial<'a>(&'a self, target: &'a Target, deadline: Instant) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            if target.scheme == Scheme::Http && !target.policy.plain_http {
                return Err(DialError::Refused {
                    host: target.host.clone(),
                    reason: "without TLS",
                });
            }
            match timeout_at(deadline, self.open(target, deadline)).await {
                Ok(result) => result,
                Err(_) => Err(DialError::Timeout {
                    host: target.host.clone(),
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::AddressPolicy;

    struct Fixed(Vec<&'static str>);

    impl Resolve for Fixed {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            Box::pin(async { Ok(self.0.iter().map(|ip| ip.parse().unwrap()).collect()) })
        }
    }

    async fn dial(addresses: Vec<&'static str>, host: &str, scheme: Scheme, policy: AddressPolicy) -> DialError {
        let direct = Direct::new(Arc::new(Fixed(addresses)), []).unwrap();
        let target = Target {
            scheme,
            host: host.into(),
            port: 1,
            policy,
        };
        direct
            .dial(&target, Instant::now() + Duration::from_secs(5))
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn one_forbidden_address_spoils_the_name() {
        let error = dial(
            vec!["1.1.1.1", "10.0.0.1"],
            "a.test",
            Scheme::Https,
            AddressPolicy::default(),
        )
        .await;
        assert!(
            matches!(error, DialError::Refused { reason: "private", .. }),
            "{error:?}"
        );
        assert!(!error.to_string().contains("10.0.0.1"), "{error}");
    }

    #[tokio::test]
    async fn an_address_in_the_url_is_checked_too() {
        for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let error = dial(vec![], host, Scheme::Https, AddressPolicy::default()).await;
            assert!(
                matches!(error, DialError::Refused { reason: "loopback", .. }),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn plain_http_needs_leave() {
        let error = dial(vec!["1.1.1.1"], "a.test", Scheme::Http, AddressPolicy::default()).await;
        assert!(
            matches!(
                error,
                DialError::Refused {
                    reason: "without TLS",
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_told() {
        let error = dial(vec![], "a.test", Scheme::Https, AddressPolicy::default()).await;
        assert!(matches!(error, DialError::Resolve { .. }), "{error:?}");
    }
}
