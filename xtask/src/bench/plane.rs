//! The plane by itself: how fast it is ready, what it weighs, how fast a session reaches a waiting worker.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Setting;
use super::servers::{Api, Server, script};
use super::table::Row;

/// From the start of the process to its ready line, on an empty folder.
pub(crate) fn start(setting: &Setting) -> Result<Vec<Row>> {
    let mut measured = Vec::new();
    for _ in 0..setting.times(20) {
        measured.push(Server::plane(&setting.workspace, None)?.took.as_secs_f64() * 1e3);
    }
    Ok(vec![Row::new("start to ready", "ms", measured).goal("100")])
}

/// Resident memory once it has answered and its start is over.
pub(crate) fn memory(setting: &Setting) -> Result<Vec<Row>> {
    let mut measured = Vec::new();
    for _ in 0..setting.times(20).min(5) {
        let plane = Server::plane(&setting.workspace, None)?;
        Api::admin(&plane).get("/v1/agents")?;
        std::thread::sleep(Duration::from_secs(1));
        measured.push(plane.resident()?);
    }
    Ok(vec![Row::new("idle memory", "MB", measured).goal("40")])
}

/// From the request that creates a session with a message to the poll that hands its work to a worker. The
/// model's answer, which asks for a tool, is in between; it comes at once.
pub(crate) fn claim(setting: &Setting) -> Result<Vec<Row>> {
    let model = Server::rehearsal(&setting.workspace)?;
    let plane = Server::plane(&setting.workspace, Some(&model.url))?;
    let admin = Api::admin(&plane);
    let agent = admin.agent()?;
    let (environment, key) = admin.environment()?;
    let worker = Api::worker(&plane, &key);
    let (tell, claimed) = mpsc::channel();
    let polled = environment.clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let polling = std::thread::spawn(move || -> Result<()> {
        while matches!(stopped.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            let item = worker.get(&format!("/v1/environments/{polled}/work/poll?block_ms=999"))?;
            let Some(id) = item["id"].as_str() else {
                continue;
            };
            let at = Instant::now();
            worker.post(&format!("/v1/environments/{polled}/work/{id}/ack"), &json!({}))?;
            if tell
                .send((item["data"]["id"].as_str().unwrap_or_default().to_owned(), at))
                .is_err()
            {
                break;
            }
        }
        Ok(())
    });
    let outcome = measure_claims(setting, &admin, &agent, &environment, &claimed);
    drop(stop);
    if polling
        .join()
        .map_err(|_| anyhow::anyhow!("the polling thread panicked"))?
        .is_err()
        && outcome.is_ok()
    {
        bail!("a poll failed");
    }
    Ok(vec![
        Row::new("session created to work claimed", "ms", outcome?).goal("10"),
    ])
}

fn measure_claims(
    setting: &Setting,
    admin: &Api,
    agent: &str,
    environment: &str,
    claimed: &mpsc::Receiver<(String, Instant)>,
) -> Result<Vec<f64>> {
    let steps = json!([{"say": [{"tool_use": {"name": "bash", "input": {"command": "true"}}}]}]);
    let mut measured = Vec::new();
    let mut early: HashMap<String, Instant> = HashMap::new();
    for number in 0..setting.times(200) {
        let body: Value =
            json!({"agent": agent, "environment_id": environment, "initial_events": [script(number, &steps)]});
        let begun = Instant::now();
        let session = admin.made("/v1/sessions", &body)?;
        let at = loop {
            // The worker may have it before the answer to the creation is read.
            if let Some(at) = early.remove(&session) {
                break at;
            }
            let (id, at) = claimed
                .recv_timeout(Duration::from_secs(20))
                .context("no worker got the session within 20 s")?;
            early.insert(id, at);
        };
        measured.push(at.saturating_duration_since(begun).as_secs_f64() * 1e3);
    }
    Ok(measured)
}
