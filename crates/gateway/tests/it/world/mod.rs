//! What every test stands on: an authority, an upstream, a gateway over a folder, a caller.

pub mod caller;
pub mod server;
pub mod tokens;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_gateway::record::{Call, Recorder};
use outwork_gateway::upstream::dial::Resolver;
use outwork_gateway::{Gateway, Setup};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_util::sync::CancellationToken;

pub use caller::Caller;
pub use server::Server;

/// The tunnel's domain in all tests.
pub const DOMAIN: &str = "t.example";

/// An authority that signs server certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().to_vec());
        Authority {
            issuer: Issuer::new(params, key),
            pem,
            der,
        }
    }

    /// A certificate and key for names, PEM.
    pub fn sign(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Keeps calls in memory.
#[derive(Default)]
pub struct Calls {
    calls: Mutex<Vec<Call>>,
    pub payloads: bool,
    pub broken: std::sync::atomic::AtomicBool,
}

impl Recorder for Calls {
    fn record(&self, call: Call) -> BoxFuture<'_, Result<(), String>> {
        self.calls.lock().unwrap().push(call);
        Box::pin(std::future::ready(Ok(())))
    }
    fn healthy(&self) -> bool {
        !self.broken.load(std::sync::atomic::Ordering::Relaxed)
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn wants_payloads(&self) -> bool {
        self.payloads
    }
}

impl Calls {
    pub fn all(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

/// Names of the tests' network. Each question takes the next answer; the last one stays.
#[derive(Default)]
pub struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    pub asked: std::sync::atomic::AtomicUsize,
}

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers
            .iter()
            .map(|list| list.iter().map(|text| text.parse().unwrap()).collect())
            .collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers);
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap();
        let found = match answers.get_mut(host) {
            Some(list) if list.len() > 1 => Ok(list.remove(0)),
            Some(list) => Ok(list[0].clone()),
            None => Err(std::io::Error::other("no such name")),
        };
        Box::pin(std::future::ready(found))
    }
}

/// A gateway and what is around it.
pub struct World {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
    pub gateway: Arc<Gateway>,
    pub calls: Arc<Calls>,
    pub names: Arc<Names>,
    pub draining: CancellationToken,
}

/// How a world is made.
pub struct Plan {
    /// The lines under `routes:`.
    pub routes: String,
    /// More of the file.
    pub more: String,
    /// `upstream.allowed_ips`.
    pub allowed: &'static str,
    /// Files in the folder beforehand.
    pub files: Vec<(&'static str, String)>,
    pub payloads: bool,
}

impl Plan {
    /// One route, `wiki`, to a server, with these rules (lines of a mapping, without indentation).
    pub fn wiki(server: &Server, rules: &str) -> Plan {
        Plan::route("wiki", &format!("http://wiki.internal:{}", server.port()), rules)
    }

    pub fn route(name: &str, url: &str, rules: &str) -> Plan {
        let rules: String = rules.lines().map(|line| format!("    {line}\n")).collect();
        Plan {
            routes: format!("  {name}:\n    url: {url}\n{rules}"),
            more: String::new(),
            allowed: "[127.0.0.1/32]",
            files: Vec::new(),
            payloads: false,
        }
    }

    pub fn more(mut self, more: &str) -> Plan {
        self.more.push_str(more);
        self.more.push('\n');
        self
    }

    pub fn file(mut self, name: &'static str, content: impl Into<String>) -> Plan {
        self.files.push((name, content.into()));
        self
    }

    /// The text of the configuration file.
    pub fn text(&self) -> String {
        format!(
            "tunnel_domain: {DOMAIN}\ntls: {{cert_file: tls.crt, key_file: tls.key}}\nupstream:\n  allowed_ips: {}\n{}routes:\n{}",
            self.allowed, self.more, self.routes
        )
    }

    pub fn start(self) -> World {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (cert, key) = authority.sign(&["*.t.example", "full.example"]);
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
        write("tls.crt", &cert);
        write("tls.key", &key);
        write("config.yaml", &self.text());
        for (name, content) in &self.files {
            write(name, content);
        }
        let calls = Arc::new(Calls {
            payloads: self.payloads,
            ..Calls::default()
        });
        let names = Arc::new(Names::default());
        names.set("wiki.internal", &[&["127.0.0.1"]]);
        names.set("other.internal", &[&["127.0.0.1"]]);
        let mut setup = Setup::new(folder.path().join("config.yaml"));
        setup.recorder = calls.clone();
        setup.resolver = names.clone();
        setup.tunnel_id = Some("tnl_test".to_owned());
        let gateway = Gateway::open(setup).unwrap();
        World {
            folder,
            authority,
            gateway,
            calls,
            names,
            draining: CancellationToken::new(),
        }
    }
}

impl World {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        // Renamed into place, as careful writers do.
        std::fs::write(self.path("next"), content).unwrap();
        std::fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    /// A caller of `https://<label>.t.example`.
    pub async fn caller(&self, label: &str) -> Caller {
        Caller::connect(self, &format!("{label}.{DOMAIN}")).await.unwrap()
    }

    /// The records, once there are `count` of them.
    pub async fn records(&self, count: usize) -> Vec<Call> {
        until(|| self.calls.all().len() >= count).await;
        let calls = self.calls.all();
        assert_eq!(calls.len(), count, "{calls:#?}");
        calls
    }
}

/// Waits until something holds, at most ten seconds.
pub async fn until(holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("what was waited for did not come");
}

/// At most ten seconds for anything.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .expect("it did not end in time")
}
