//! The edge in this process, the gateway in one of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_gateway::run::{self, Options};
use outwork_tunnel::certificate::{Authority, SERVER_LIFETIME, make_authority, make_server_certificate};
use outwork_tunnel::edge::{self, Admission, Authenticator, Credentials, Edge};
use outwork_tunnel::frame::RefusedCode;
use outwork_tunnel::inner::Connector;
use outwork_tunnel::tls::Identity;
use outwork_wire::Time;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{Caller, Failure, Plan, relay};

const TUNNEL: &str = "tnl_bench";
const DOMAIN: &str = "bench.test";

/// An edge, a gateway, and what they show each other.
pub(crate) struct World {
    pub(crate) mode: &'static str,
    edge: edge::Handle,
    connector: Connector,
    authorities: Vec<CertificateDer<'static>>,
    pub(crate) gateway: Process,
    pub(crate) relay: Option<relay::Relay>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl World {
    /// With `relayed`, the first of two links goes through a relay.
    pub(crate) async fn start(mode: &'static str, plan: &Plan, relayed: bool) -> Result<Arc<Self>, Failure> {
        let upstream = plan.upstream;
        let folder = tempfile::tempdir()?;
        let identity = Identity::self_signed(&folder.path().join("edge"), &["127.0.0.1".to_owned()])?;
        let pin = identity.fingerprint().unwrap_or_default().to_owned();
        let options = edge::Options::new("127.0.0.1:0".parse()?, identity);
        let (service, edge) = Edge::bind(options, Arc::new(Anybody)).await?;
        let stop = CancellationToken::new();
        tokio::spawn(service.run(stop.clone()));
        let relay = match relayed {
            true => Some(relay::Relay::start(edge.address(), true).await),
            false => None,
        };
        let mut addresses = vec![edge.address().to_string()];
        if let Some(relay) = &relay {
            addresses.insert(0, relay.address.to_string());
        }

        let authority = make_authority("bench", Time::now())?;
        let certificate = make_server_certificate(&authority, DOMAIN, SERVER_LIFETIME, Time::now())?;
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write("tls.crt", &certificate.certificate_pem)?;
        write("tls.key", certificate.key_pem.expose_secret())?;
        write("token", "token")?;
        write("approvals.yaml", "approvals: []\n")?;
        // JSON is YAML.
        let config = json!({
            "tunnel_domain": DOMAIN,
            "tunnel_id": TUNNEL,
            "token_file": "token",
            "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
            "upstream": {"allowed_ips": ["127.0.0.1/32"]},
            "edge": {"addresses": addresses, "fingerprint": pin, "transport": mode},
            "ledger": {"dir": "ledger"},
            "approvals_file": "approvals.yaml",
            "log_level": "error",
            "routes": {
                "plain": format!("http://{upstream}"),
                "ruled": {
                    "url": format!("http://{upstream}"),
                    "tools": {"allow": ["read", "search_*"], "deny": ["drop_*"], "read_only": true},
                    "limits": {"per_tool": "1000000/s", "per_session": "1000000/s", "per_route": "1000000/s"},
                    "request_max": "1MiB",
                    "response_max": "4MiB",
                    "headers": {"set": {"x-through": "gateway"}, "remove": ["cookie"]},
                    "approvals": [{"tool": "deploy*"}],
                    "redact": [
                        {"detector": "all", "action": "redact", "direction": "both"},
                        {"name": "order", "pattern": "ORD-[0-9]{6}", "action": "block"},
                    ],
                },
            },
        });
        write("config.yaml", &config.to_string())?;
        let gateway = Process::gateway(plan.program.as_deref(), folder.path())?;
        let up = async {
            while edge.connections(TUNNEL).len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), up)
            .await
            .map_err(|_| "the gateway's links did not come up")?;
        let authority = Authority::parse(&authority.certificate_pem, Time::now())?;
        Ok(Arc::new(Self {
            mode,
            edge,
            connector: Connector::new(),
            authorities: vec![authority.der],
            gateway,
            relay,
            stop,
            _folder: folder,
        }))
    }

    /// A connection for calls on a route.
    pub(crate) async fn caller(&self, route: &str) -> Result<Caller, Failure> {
        let host = format!("{route}.{DOMAIN}");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let opened = self
            .connector
            .open(&self.edge, TUNNEL, &host, &self.authorities, deadline);
        Caller::over(opened.await?, host).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Admits everybody: what is measured is the path, not the tokens.
struct Anybody;

impl Authenticator for Anybody {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        let tunnel_id = credentials.tunnel_id.to_owned();
        Box::pin(async move {
            Ok(Admission {
                tunnel_id,
                generation: 1,
            })
        })
    }
}

/// What the gateway's process does, where it is this program.
pub(crate) async fn gateway(folder: &Path) -> Result<(), Failure> {
    let _gateway = run::start(Options::new(folder.join("config.yaml"))).await?;
    // The parent ends this process.
    std::future::pending().await
}

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// The private server, and where it listens.
    pub(crate) fn upstream() -> Result<(Self, SocketAddr), Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Self(
            command
                .arg("upstream")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let output = process.0.stdout.take().ok_or("a process without output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok((process, line.trim().parse()?))
    }

    /// A gateway over a folder: the product's, or else this program in that role.
    fn gateway(program: Option<&Path>, folder: &Path) -> Result<Self, Failure> {
        let mut command = match program {
            Some(program) => Command::new(program),
            None => Command::new(std::env::current_exe()?),
        };
        match program {
            Some(_) => command.args(["tunnel", "run", "--folder"]),
            None => command.arg("gateway"),
        };
        Ok(Self(
            command.arg(folder).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?,
        ))
    }

    /// Resident megabytes: all, as `VmRSS`; what is its own and not read from files, as `RssAnon`.
    pub(crate) fn resident(&self, kind: &str) -> f64 {
        let path = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(kind)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        kilobytes.unwrap_or(f64::NAN) / 1024.0
    }
}

impl Process {
    /// Seconds of processor time that its threads have spent.
    pub(crate) fn spent(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id()))
            .into_iter()
            .flatten();
        let nanos = threads.flatten().filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        nanos.sum::<f64>() / 1e9
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
