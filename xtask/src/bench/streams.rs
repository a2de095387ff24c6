//! Many open event streams: what the plane weighs with them, and that each still hears.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::Setting;
use super::servers::{Api, Server, script};
use super::table::Row;

const SESSIONS: usize = 100;

/// Memory of the plane with the streams open and quiet, and how long an event takes to reach all of one session.
pub(crate) fn streams(setting: &Setting) -> Result<Vec<Row>> {
    let count = if setting.quick { 1_000 } else { 10_000 };
    allow_descriptors(count as u64 + 1_000)?;
    let model = Server::rehearsal(&setting.workspace)?;
    // Started after the limit was raised: the plane inherits it.
    let plane = Server::plane(&setting.workspace, Some(&model.url))?;
    let admin = Api::admin(&plane);
    let (agent, (environment, key)) = (admin.agent()?, admin.environment()?);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(admin.made("/v1/sessions", &json!({"agent": agent, "environment_id": environment}))?);
    }
    let before = plane.resident()?;
    let address = plane.url.trim_start_matches("http://").to_owned();
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        open.push(follow(&address, &key, &sessions[number % SESSIONS])?);
    }
    for stream in &mut open {
        head(stream)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = plane.resident()?;
    let begun = Instant::now();
    let message = script(0, &json!([{"say": [{"text": "Hello."}]}]));
    admin.post(
        &format!("/v1/sessions/{}/events", sessions[0]),
        &json!({"events": [message]}),
    )?;
    let mut heard = Vec::new();
    for stream in open.iter_mut().step_by(SESSIONS) {
        until_event(stream)?;
        heard.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let last = heard.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Row::new(format!("memory with {count} open streams"), "MB", vec![after]).goal(if setting.quick {
            ""
        } else {
            "300"
        }),
        Row::new("of it per stream", "kB", vec![(after - before) * 1e3 / count as f64]),
        Row::new(
            format!("an event to all {} streams of its session", heard.len()),
            "ms",
            vec![last],
        ),
    ])
}

fn allow_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        bail!(
            "{wanted} open files are needed and the hard limit is {:?}; raise it with `ulimit -Hn`",
            limit.maximum
        );
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        },
    )
    .context("could not raise the limit of open files")
}

fn follow(address: &str, key: &str, session: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("could not open a stream")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .context("could not bound a read")?;
    let request = format!(
        "GET /v1/sessions/{session}/events/stream HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
         anthropic-version: 2023-06-01\r\nanthropic-beta: managed-agents-2026-04-01\r\naccept: text/event-stream\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .context("could not ask for a stream")?;
    Ok(stream)
}

fn head(stream: &mut TcpStream) -> Result<()> {
    let mut read = Vec::new();
    let mut byte = [0u8];
    while !read.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).context("no head of a stream came")? == 0 || read.len() > 8192 {
            bail!("a stream ended in its head");
        }
        read.push(byte[0]);
    }
    if !read.starts_with(b"HTTP/1.1 200") {
        bail!("a stream was refused: {}", String::from_utf8_lossy(&read));
    }
    Ok(())
}

fn until_event(stream: &mut TcpStream) -> Result<()> {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    while !seen.windows(13).any(|window| window == b"agent.message") {
        let length = stream.read(&mut chunk).context("an event did not reach a stream")?;
        if length == 0 {
            bail!("a stream ended before its event");
        }
        seen.extend_from_slice(&chunk[..length]);
    }
    Ok(())
}
