//! A small internet: names, and servers behind TLS that write down what reaches them. One of them is a Git host.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_egress::dns::{Addresses, ResolveError, Resolver};
use outwork_egress::{Connect, Family};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// The token that the Git host wants.
pub const GIT_TOKEN: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";

const NAMES: &[(&str, &str)] = &[
    ("api.test.example", "93.184.215.10"),
    ("other.test.example", "93.184.215.11"),
    ("git.test.example", "93.184.215.12"),
    ("pypi.org", "93.184.215.13"),
    ("files.pythonhosted.org", "93.184.215.14"),
    ("registry.npmjs.org", "93.184.215.15"),
    ("mirror.test.example", "93.184.215.16"),
];

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// In lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

pub struct Internet {
    pub authority_pem: String,
    pub seen: Mutex<Vec<Seen>>,
    pub asked: Mutex<Vec<String>>,
    pub repositories: tempfile::TempDir,
    /// What is at a host and path, with its type; everything else is echoed.
    pub pages: Mutex<HashMap<String, (&'static str, Vec<u8>)>>,
    /// How long an answer takes.
    pub slow: Mutex<Duration>,
    at: Mutex<Option<SocketAddr>>,
    server: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Internet {
    pub async fn start() -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Its name must not be the servers' one, or theirs look like their own issuer's.
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "authority of the test");
        let authority = params.self_signed(&key).unwrap();
        let authority_pem = authority.pem();
        let issuer = Issuer::new(params, key);
        let names: Vec<String> = NAMES.iter().map(|(name, _)| (*name).to_owned()).collect();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names)
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der().to_vec()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internet = Arc::new(Self {
            authority_pem,
            seen: Mutex::default(),
            asked: Mutex::default(),
            repositories: tempfile::tempdir().unwrap(),
            pages: Mutex::default(),
            slow: Mutex::default(),
            at: Mutex::new(Some(listener.local_addr().unwrap())),
            server: Mutex::default(),
        });
        let (acceptor, weak) = (TlsAcceptor::from(Arc::new(config)), Arc::downgrade(&internet));
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, weak) = (acceptor.clone(), weak.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let Some(internet) = weak.upgrade() else { return };
                    let Some(request) = read(&mut stream).await else { return };
                    let answer = internet.answer(request).await;
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        *internet.server.lock().unwrap() = Some(AbortOnDropHandle::new(server));
        internet
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Whether a text reached any server.
    pub fn got(&self, text: &str) -> bool {
        self.seen().iter().any(|seen| format!("{seen:?}").contains(text))
    }

    async fn answer(&self, (seen, body): (Seen, Vec<u8>)) -> Vec<u8> {
        self.seen.lock().unwrap().push(seen.clone());
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let path = seen.path.split(['?', '#']).next().unwrap_or_default();
        let page = self
            .pages
            .lock()
            .unwrap()
            .get(&format!("{}{path}", seen.headers["host"]))
            .cloned();
        let registry = [
            "pypi.org",
            "files.pythonhosted.org",
            "registry.npmjs.org",
            "mirror.test.example",
        ];
        let (status, kind, body) = if seen.headers["host"].starts_with("git.") {
            git(self.repositories.path(), &seen, &body).await
        } else if let Some((kind, body)) = page {
            ("200 OK".to_owned(), kind.to_owned(), body)
        } else if registry.contains(&seen.headers["host"].as_str()) {
            (
                "404 Not Found".to_owned(),
                "text/plain".to_owned(),
                b"no such package".to_vec(),
            )
        } else {
            let echo = format!(
                "{} {} authorization={} body={}",
                seen.method,
                seen.path,
                seen.headers.get("authorization").map_or("", String::as_str),
                seen.body
            );
            ("200 OK".to_owned(), "text/plain".to_owned(), echo.into_bytes())
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    }

    /// A repository with one commit on `main` and one on `other`; the hash of the first.
    pub fn repository(&self, name: &str) -> String {
        let folder = self.repositories.path().join(name);
        let work = tempfile::tempdir().unwrap();
        let git = |folder: &Path, arguments: &[&str]| {
            let output = std::process::Command::new("git")
                .current_dir(folder)
                .env_clear()
                .env("PATH", std::env::var("PATH").unwrap())
                .env("HOME", work.path())
                .args(["-c", "user.name=t", "-c", "user.email=t@test.example"])
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        std::fs::create_dir_all(&folder).unwrap();
        git(&folder, &["init", "--quiet", "--bare", "--initial-branch=main"]);
        git(&folder, &["config", "http.receivepack", "true"]);
        git(&folder, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        git(work.path(), &["init", "--quiet", "--initial-branch=main"]);
        std::fs::write(work.path().join("read.me"), "on main\n").unwrap();
        git(work.path(), &["add", "."]);
        git(work.path(), &["commit", "--quiet", "-m", "first"]);
        let first = git(work.path(), &["rev-parse", "HEAD"]);
        git(work.path(), &["checkout", "--quiet", "-b", "other"]);
        std::fs::write(work.path().join("read.me"), "on other\n").unwrap();
        git(work.path(), &["commit", "--quiet", "-am", "second"]);
        git(
            work.path(),
            &["push", "--quiet", folder.to_str().unwrap(), "main", "other"],
        );
        first
    }
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(Seen, Vec<u8>)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes.split_off(head + 4);
    if headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding == "chunked")
    {
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut body).await.ok()? == 0 {
                return None;
            }
        }
        body = unchunked(&body);
    }
    let length: usize = headers
        .get("content-length")
        .map_or(body.len(), |length| length.parse().unwrap());
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let seen = Seen {
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    Some((seen, body))
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    body
}

/// What git's own server says, to those who have the token.
async fn git(root: &Path, seen: &Seen, body: &[u8]) -> (String, String, Vec<u8>) {
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{GIT_TOKEN}"));
    if seen.headers.get("authorization") != Some(&format!("Basic {pair}")) {
        return ("401 Unauthorized".into(), "text/plain".into(), b"who are you".to_vec());
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let header = |name: &str| seen.headers.get(name).cloned().unwrap_or_default();
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &seen.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_USER", "tester")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = body.to_vec();
    let feeding = tokio::spawn(async move {
        let _ = stdin.write_all(&body).await;
    });
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
    let output = output.unwrap().unwrap().stdout;
    feeding.await.unwrap();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    let status = field("Status").unwrap_or_else(|| "200 OK".to_owned());
    (
        status,
        field("Content-Type").unwrap_or_default(),
        output[end + 4..].to_vec(),
    )
}

impl Resolver for Internet {
    fn addresses<'a>(&'a self, name: &'a str, family: Family) -> BoxFuture<'a, Result<Addresses, ResolveError>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let found = NAMES.iter().find(|(known, _)| *known == name);
        let answer = found.ok_or(ResolveError::NoName).map(|(_, address)| {
            let address: IpAddr = address.parse().unwrap();
            Addresses {
                addresses: [address].into_iter().filter(|address| family.holds(*address)).collect(),
                ttl: Duration::from_secs(60),
            }
        });
        Box::pin(std::future::ready(answer))
    }
}

impl Connect for Internet {
    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        let at = self.at.lock().unwrap().unwrap();
        Box::pin(TcpStream::connect(at))
    }
}
