//! Where answers come from: the machine's own name servers.
//!
//! Nothing is asked here that the policy did not allow before. Names go out in one form (lower case), so their case
//! carries nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::error::Error;
use crate::pins::Family;

/// How long one server has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// The largest answer that is taken.
const LARGEST: usize = 16 * 1024;

/// Addresses of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The addresses; none if the name has none of this family.
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
}

/// Why a name was not resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name.
    #[error("there is no such name")]
    NoName,
    /// No server answered, or none well.
    #[error("no name server gave an answer: {0}")]
    Failed(String),
}

/// Resolves names that the policy allows.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of a name.
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>>;

    /// The records of another type (CNAME, HTTPS, SVCB). None by default.
    fn records<'a>(&'a self, _name: &'a str, _kind: RecordType) -> BoxFuture<'a, Result<Vec<Record>, ResolveError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

/// The name servers of `/etc/resolv.conf`, and the names of `/etc/hosts`.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    servers: Vec<SocketAddr>,
    hosts: HashMap<String, Vec<IpAddr>>,
}

impl SystemResolver {
    /// Reads the machine's configuration.
    ///
    /// # Errors
    /// [`Error::Resolver`] if no name server is configured.
    pub fn new() -> Result<SystemResolver, Error> {
        let path = Path::new("/etc/resolv.conf");
        let wrong = |reason: String| Error::Resolver {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let servers = name_servers(&text);
        if servers.is_empty() {
            return Err(wrong("it has no line `nameserver ADDRESS`".to_owned()));
        }
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        Ok(SystemResolver {
            servers,
            hosts: hosts_of(&hosts),
        })
    }

    /// These name servers, and no names of the machine's own.
    pub fn with_servers(servers: Vec<SocketAddr>) -> SystemResolver {
        SystemResolver {
            servers,
            hosts: HashMap::new(),
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Message, ResolveError> {
        let failed = |error: &dyn std::fmt::Display| ResolveError::Failed(error.to_string());
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        let asked = Name::from_ascii(format!("{name}.")).map_err(|error| failed(&error))?;
        query.add_query(Query::query(asked, kind));
        let bytes = query.to_vec().map_err(|error| failed(&error))?;
        let mut last = ResolveError::Failed("there is none".to_owned());
        for server in (0..ROUNDS).flat_map(|_| &self.servers) {
            let answer = tokio::time::timeout(PATIENCE, exchange(*server, &query, &bytes)).await;
            match answer {
                Ok(Ok(message)) => match message.metadata.response_code {
                    ResponseCode::NoError => return Ok(message),
                    ResponseCode::NXDomain => return Err(ResolveError::NoName),
                    other => last = failed(&other),
                },
                Ok(Err(error)) => last = failed(&error),
                Err(_) => last = failed(&"it did not answer in time"),
            }
        }
        Err(last)
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        Box::pin(async move {
            if let Some(own) = self.hosts.get(name) {
                return Ok(Addresses {
                    addresses: own.iter().copied().filter(|address| family.holds(*address)).collect(),
                    ttl: Duration::from_secs(60),
                });
            }
            let kind = match family {
                Family::V4 => RecordType::A,
                Family::V6 => RecordType::AAAA,
            };
            let message = self.ask(name, kind).await?;
            let mut ttl = u32::MAX;
            let mut addresses = Vec::new();
            // The server followed aliases; their names are of no interest, their times to live are.
            for record in &message.answers {
                ttl = ttl.min(record.ttl);
                match (&record.data, family) {
                    (RData::A(a), Family::V4) => addresses.push(IpAddr::V4(a.0)),
                    (RData::AAAA(a), Family::V6) => addresses.push(IpAddr::V6(a.0)),
                    _ => {}
                }
            }
            let ttl = Duration::from_secs(if addresses.is_empty() { 30 } else { ttl.into() });
            Ok(Addresses { addresses, ttl })
        })
    }

    fn records<'a>(&'a self, name: &'a str, kind: RecordType) -> BoxFuture<'a, Result<Vec<Record>, ResolveError>> {
        Box::pin(async move {
            let answers = self.ask(name, kind).await?.answers;
            Ok(answers
                .into_iter()
                .filter(|record| record.record_type() == kind)
                .collect())
        })
    }
}

/// One question to one server, over TCP if the answer is too long for UDP.
async fn exchange(server: SocketAddr, query: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket for each question: the port is as hard to guess as the id.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    let answer = loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = belonging(query, &buffer[..length]) {
            break message;
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    if length > LARGEST {
        return Err(std::io::Error::other("the answer is too long"));
    }
    let mut whole = vec![0; length];
    stream.read_exact(&mut whole).await?;
    belonging(query, &whole).ok_or_else(|| std::io::Error::other("the answer is not to the question"))
}

/// A message, if it answers the question.
fn belonging(query: &Message, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.id == query.metadata.id && message.queries == query.queries).then_some(message)
}

fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
        // A scope (`fe80::1%eth0`) cannot be kept in an address; such a server is left out.
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .take(3)
        .collect()
}

fn hosts_of(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("");
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        for name in words {
            hosts.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration() {
        let servers =
            name_servers("# x\nnameserver 10.0.0.2\noptions edns0\nnameserver fe80::1%eth0\nnameserver ::1\n");
        assert_eq!(servers, ["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        let hosts = hosts_of("127.0.0.1 localhost # me\n10.1.1.1 Git.Corp git\nbad line\n");
        assert_eq!(hosts["git.corp"], ["10.1.1.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts.len(), 3);
    }

    /// A name server that answers over TCP only what is too long for UDP, and garbage first.
    #[tokio::test]
    async fn a_name_server() {
        use hickory_proto::op::{MessageType, OpCode};
        use hickory_proto::rr::rdata::{A, CNAME};
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = tokio::net::TcpListener::bind(address).await.unwrap();
        let reply = |query: &Message| {
            let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
            reply.queries.clone_from(&query.queries);
            let name = query.queries[0].name().clone();
            if name.to_ascii().starts_with("no.") {
                reply.metadata.response_code = ResponseCode::NXDomain;
                return reply;
            }
            let alias = Name::from_ascii("alias.example.").unwrap();
            reply.add_answer(Record::from_rdata(name, 20, RData::CNAME(CNAME(alias.clone()))));
            reply.add_answer(Record::from_rdata(alias, 300, RData::A(A::new(1, 2, 3, 4))));
            reply
        };
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let mut other = reply(&query);
                other.metadata.id = other.metadata.id.wrapping_add(1);
                udp.send_to(b"garbage", from).await.unwrap();
                udp.send_to(&other.to_vec().unwrap(), from).await.unwrap();
                let answer = match query.queries[0].name().to_ascii().starts_with("long.") {
                    true => reply(&query).truncate(),
                    false => reply(&query),
                };
                udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                let answer = reply(&Message::from_vec(&query).unwrap()).to_vec().unwrap();
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        let resolver = SystemResolver::with_servers(vec![address]);
        for name in ["short.example", "long.example"] {
            let found = resolver.addresses(name, Family::V4).await.unwrap();
            assert_eq!(found.addresses, ["1.2.3.4".parse::<IpAddr>().unwrap()], "{name}");
            assert_eq!(found.ttl, Duration::from_secs(20));
        }
        assert!(
            resolver
                .addresses("short.example", Family::V6)
                .await
                .unwrap()
                .addresses
                .is_empty()
        );
        assert_eq!(
            resolver.addresses("no.example", Family::V4).await,
            Err(ResolveError::NoName)
        );
        assert_eq!(
            resolver
                .records("short.example", RecordType::CNAME)
                .await
                .unwrap()
                .len(),
            1
        );
    }
}
