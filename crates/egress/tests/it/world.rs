//! A boundary with a small internet behind it, all on loopback.
//!
//! Names and addresses are public ones; the connector leads every address to a server of the test, so nothing leaves
//! the machine and the table of addresses is the real one. Servers write down what reaches them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::rr::{Record as DnsRecord, RecordType};
use outwork_egress::dns::{Addresses, ResolveError, Resolver};
use outwork_egress::policy::Policy;
use outwork_egress::{
    Connect, Document, Egress, Evidence, Family, Handle, Limits, Options, OriginalDestination, SessionAuthority,
    UpstreamTls,
};
use outwork_ledger::Record;
use tokio::net::TcpStream;

use crate::server::{self, Authority, Seen};

/// What the sandbox of most tests may reach.
pub const POLICY: &str = r#"
[[allow]]
name = "inspected"
host = "inspected.example"
methods = ["GET", "POST", "HEAD", "PUT"]
paths = ["/ok", "/ok/**", "/redirect", "/ws", "/echo/**", "/slow", "/trailers", "/big"]

[[allow]]
name = "passed"
host = "passed.example"

[[allow]]
name = "front"
host = "front.example"
inspect = true

[[allow]]
name = "wild"
host = "*.wild.example"

[[allow]]
name = "database"
host = "db.example"
ports = [5432]

[[allow]]
name = "mail"
host = "mail.example"
ports = [25, 853]

[[allow]]
name = "search"
host = "search.example"
methods = ["GET"]
query = { q = "safe*" }

[[allow]]
name = "range"
cidr = ["93.184.216.0/24", "10.7.0.0/16"]
ports = [443, 80, 5432]

[[allow]]
name = "rebinding"
host = ["rebind.example", "metadata.example", "private.example", "mapped.example", "nat64.example", "mixed.example"]

[[allow]]
name = "internal"
host = "internal.example"
addresses = ["10.8.0.0/16"]

[[allow]]
name = "small"
host = "small.example"
inspect = true
quota = { bytes_out = "20KiB" }

[[allow]]
name = "rare"
host = "rare.example"
inspect = true
quota = { requests = "3/h" }

[[allow]]
name = "tiny"
host = "tiny.example"
ports = [5432]
quota = { bytes_out = "1KiB" }

[[deny]]
name = "never"
host = "never.wild.example"

[[deny]]
name = "no-delete"
host = "front.example"
methods = ["DELETE"]
"#;

/// The addresses of names.
const ZONE: &[(&str, &str)] = &[
    ("inspected.example", "93.184.215.10"),
    ("passed.example", "93.184.215.11"),
    ("front.example", "93.184.215.20"),
    ("evil.example", "93.184.215.66"),
    // On the same machine as an allowed one.
    ("fronted.example", "93.184.215.20"),
    ("a.wild.example", "93.184.215.40"),
    ("never.wild.example", "93.184.215.41"),
    ("db.example", "93.184.215.30"),
    ("mail.example", "93.184.215.31"),
    ("search.example", "93.184.215.32"),
    ("rebind.example", "127.0.0.1"),
    ("metadata.example", "169.254.169.254"),
    ("private.example", "192.168.1.1"),
    ("internal.example", "10.8.0.5"),
    ("mapped.example", "::ffff:127.0.0.1"),
    ("nat64.example", "64:ff9b::7f00:1"),
    ("mixed.example", "169.254.169.254"),
    ("mixed.example", "93.184.215.50"),
    ("small.example", "93.184.215.51"),
    ("rare.example", "93.184.215.52"),
    ("tiny.example", "93.184.215.53"),
];

/// Names that tests resolve, with records of other types.
#[derive(Default)]
pub struct Zone {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    others: Mutex<HashMap<(String, RecordType), Vec<DnsRecord>>>,
    /// Every name that was asked of this zone: what got out by DNS.
    pub asked: Mutex<Vec<String>>,
    pub ttl: Mutex<Duration>,
}

impl Zone {
    fn of(rows: &[(&str, &str)]) -> Zone {
        let zone = Zone::default();
        *zone.ttl.lock().unwrap() = Duration::from_secs(60);
        for (name, address) in rows {
            let mut names = zone.names.lock().unwrap();
            names
                .entry((*name).to_owned())
                .or_default()
                .push(address.parse().unwrap());
        }
        zone
    }

    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    pub fn set_records(&self, name: &str, kind: RecordType, records: Vec<DnsRecord>) {
        self.others.lock().unwrap().insert((name.to_owned(), kind), records);
    }

    pub fn was_asked(&self, part: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|name| name.contains(part))
    }
}

impl Resolver for Zone {
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(name.to_owned());
            let names = self.names.lock().unwrap();
            let all = match names.get(name) {
                Some(all) => all.clone(),
                // Whoever owns a wild card answers every name below it.
                None if name.ends_with(".wild.example") => vec!["93.184.215.40".parse().unwrap()],
                None => return Err(ResolveError::NoName),
            };
            Ok(Addresses {
                addresses: all.into_iter().filter(|address| family.holds(*address)).collect(),
                ttl: *self.ttl.lock().unwrap(),
            })
        })
    }

    fn records<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, Result<Vec<DnsRecord>, ResolveError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(name.to_owned());
            let others = self.others.lock().unwrap();
            Ok(others.get(&(name.to_owned(), kind)).cloned().unwrap_or_default())
        })
    }
}

/// The destinations of connections, by the address that they come from.
#[derive(Default)]
pub struct Origins(pub Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginalDestination for Origins {
    fn of(&self, stream: &TcpStream) -> std::io::Result<SocketAddr> {
        let from = stream.peer_addr()?;
        let known = self.0.lock().unwrap().get(&from).copied();
        known.ok_or_else(|| std::io::Error::other("not redirected"))
    }
}

/// Leads every address to a server of the test, and writes down which were dialled.
pub struct Wires {
    pub servers: server::Servers,
    pub dialled: Mutex<Vec<SocketAddr>>,
}

impl Connect for Wires {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        self.dialled.lock().unwrap().push(address);
        let to = self.servers.behind(address.port());
        Box::pin(TcpStream::connect(to))
    }
}

/// Records in memory; refuses them on demand.
#[derive(Default)]
pub struct Notes {
    pub records: Mutex<Vec<Record>>,
    pub failing: AtomicBool,
    pub refused: AtomicUsize,
}

impl Evidence for Notes {
    fn keep(&self, record: Record) -> BoxFuture<'_, Result<(), String>> {
        let kept = if self.failing.load(SeqCst) {
            self.refused.fetch_add(1, SeqCst);
            Err("the disk is full".to_owned())
        } else {
            self.records.lock().unwrap().push(record);
            Ok(())
        };
        Box::pin(std::future::ready(kept))
    }
}

/// A boundary, and what is on both sides of it.
pub struct World {
    pub handle: Handle,
    pub tcp: SocketAddr,
    pub dns: SocketAddr,
    pub zone: Arc<Zone>,
    pub origins: Arc<Origins>,
    pub wires: Arc<Wires>,
    pub notes: Arc<Notes>,
    pub seen: Arc<Seen>,
    pub session: Arc<SessionAuthority>,
    /// Signed the servers' certificates.
    pub internet: Arc<Authority>,
}

impl World {
    /// With the usual policy.
    pub async fn new() -> World {
        World::with(policy(POLICY)).await
    }

    /// With every check off.
    pub async fn unchecked() -> World {
        World::with(policy(POLICY).unchecked()).await
    }

    pub async fn with(policy: Policy) -> World {
        let seen = Arc::new(Seen::default());
        let internet = Arc::new(Authority::new());
        let servers = server::Servers::start(seen.clone(), internet.clone()).await;
        let (tcp, dns) = (
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let addresses = (tcp.local_addr().unwrap(), dns.local_addr().unwrap());
        let session = Arc::new(SessionAuthority::make().unwrap());
        let (zone, origins, notes) = (
            Arc::new(Zone::of(ZONE)),
            Arc::<Origins>::default(),
            Arc::<Notes>::default(),
        );
        let wires = Arc::new(Wires {
            servers,
            dialled: Mutex::default(),
        });
        let upstream = Arc::new(UpstreamTls::new(internet.roots()).unwrap());
        let mut options = Options::new(
            (tcp, dns),
            policy,
            session.clone(),
            notes.clone(),
            zone.clone(),
            upstream,
        );
        options.origin = origins.clone();
        options.connector = wires.clone();
        options.labels.session = Some("sesn_test".to_owned());
        options.limits = Limits {
            greeting: Duration::from_millis(1500),
            rest: Duration::from_millis(1500),
            server_first: Duration::from_millis(50),
            connect: Duration::from_secs(5),
            ..Limits::default()
        };
        World {
            handle: Egress::start(options).unwrap(),
            tcp: addresses.0,
            dns: addresses.1,
            zone,
            origins,
            wires,
            notes,
            seen,
            session,
            internet,
        }
    }

    /// Records of one decision on connections and requests.
    pub fn recorded(&self, decision: outwork_ledger::Decision) -> Vec<Record> {
        let records = self.notes.records.lock().unwrap();
        records
            .iter()
            .filter(|record| record.decision == Some(decision))
            .cloned()
            .collect()
    }
}

/// A policy out of TOML.
pub fn policy(text: &str) -> Policy {
    Policy::new("test", &Document::from_toml("policy.toml", text).unwrap(), &[])
}

/// Waits for a condition. Panics when it does not come true.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(comes_true(&mut condition).await, "{what} did not come true");
}

/// Whether a condition comes true.
pub async fn comes_true(condition: &mut impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
