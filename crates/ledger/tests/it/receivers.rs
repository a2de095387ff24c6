//! Receivers for exports: syslog over TCP and TLS, and HTTP, on the loopback, with faults to order.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A server that handles one connection at a time, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(mut handle: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                handle(stream.unwrap());
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Messages with octet counting, up to the end of the stream. The last one is left out if it is not whole.
pub fn unframe(bytes: &[u8]) -> Vec<String> {
    let mut rest = bytes;
    let mut messages = Vec::new();
    while let Some(space) = rest.iter().position(|&b| b == b' ') {
        let count: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
        let Some(message) = rest.get(space + 1..space + 1 + count) else {
            break;
        };
        messages.push(String::from_utf8(message.to_vec()).unwrap());
        rest = &rest[space + 1 + count..];
    }
    messages
}

/// What a syslog server keeps.
pub type Messages = Arc<Mutex<Vec<String>>>;

/// Reads each connection to its end, keeps what came, and closes: unless `breaks` says how many bytes of it are read
/// before the connection is reset; those are not kept.
pub fn syslog(breaks: Vec<usize>) -> (Server, Messages) {
    let kept = Messages::default();
    let messages = kept.clone();
    let mut breaks = VecDeque::from(breaks);
    let server = Server::start(move |mut stream| match breaks.pop_front() {
        Some(bytes) => {
            let mut buffer = vec![0; bytes];
            let _ = stream.read_exact(&mut buffer);
        }
        None => {
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).is_ok() {
                messages.lock().unwrap().extend(unframe(&bytes));
            }
        }
    });
    (server, kept)
}

/// A request: its path with its headers, and its body.
#[derive(Debug, Clone)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

/// Reads a request with a length.
pub fn read_request(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length?.trim().parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Request { head, body })
}

/// An HTTP server whose answers `answer` gives: status and body. It closes each connection.
pub fn http(mut answer: impl FnMut(&Request) -> (u16, String) + Send + 'static) -> (Server, Arc<Mutex<Vec<Request>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let requests = kept.clone();
    let server = Server::start(move |mut stream| {
        let Some(request) = read_request(&mut stream) else {
            return;
        };
        let (status, body) = answer(&request);
        requests.lock().unwrap().push(request);
        let length = body.len();
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
    });
    (server, kept)
}
