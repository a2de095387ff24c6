//! A tool turn without the model's time: from the model's answer that asks for a tool to the request that
//! brings the result back. The rehearsal model says when it received each request and answers at once; what it
//! takes for an answer is measured beside it and subtracted. The tool is `true` in our own sandbox.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Setting;
use super::servers::{Api, Folder, Server, script};
use super::table::Row;
use crate::process::Group;

/// One session with many calls, one after the other.
pub(crate) fn turn(setting: &Setting) -> Result<Vec<Row>> {
    let calls = setting.times(200);
    let model = Server::rehearsal(&setting.workspace)?;
    let plane = Server::plane(&setting.workspace, Some(&model.url))?;
    let admin = Api::admin(&plane);
    let (agent, (environment, key)) = (admin.agent()?, admin.environment()?);
    let folder = Folder::fresh(&setting.workspace, "worker")?;
    let mut command = Command::new(setting.workspace.binary("release"));
    command
        .args([
            "worker",
            "--environment-id",
            &environment,
            "--environment-key",
            &key,
            "--base-url",
            &plane.url,
        ])
        .arg("--workdir")
        .arg(&folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut worker = Group::start(&mut command)?;
    let steps = json!([
        {"say": [{"tool_use": {"name": "bash", "input": {"command": "true"}}}], "repeat": calls},
        {"say": [{"text": "done"}]},
    ]);
    let body = json!({"agent": agent, "environment_id": environment, "initial_events": [script(0, &steps)]});
    let session = admin.made("/v1/sessions", &body)?;
    wait_for_end(&admin, &session, &mut worker)?;
    let arrivals = arrivals(&Api::admin(&model))?;
    if arrivals.len() != calls + 1 {
        bail!("the model got {} requests instead of {}", arrivals.len(), calls + 1);
    }
    let answer = answer_time(&Api::admin(&model), setting.times(50))?;
    let overhead = |pair: &[f64]| (pair[1] - pair[0]) * 1e3 - answer;
    // The first call waits for the sandbox to start.
    let measured = arrivals.windows(2).skip(1).map(overhead).collect();
    Ok(vec![
        Row::new("a tool turn without model time", "ms", measured).goal("4"),
        Row::new(
            "the first, with the sandbox's start",
            "ms",
            vec![overhead(&arrivals[..2])],
        ),
    ])
}

fn wait_for_end(admin: &Api, session: &str, worker: &mut Group) -> Result<()> {
    let path = format!("/v1/sessions/{session}/events?types[]=session.status_idle&order=desc&limit=1");
    let begun = Instant::now();
    loop {
        let last = admin.get(&path)?;
        match last["data"][0]["stop_reason"]["type"].as_str() {
            Some("end_turn") => return Ok(()),
            Some("requires_action") | None => {}
            Some(other) => bail!("the session ended with {other}"),
        }
        if let Some(status) = worker.poll()? {
            bail!("the worker ended with {status}");
        }
        if begun.elapsed() > Duration::from_secs(180) {
            bail!("the session did not end within 180 s");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Seconds at which the model received its requests.
fn arrivals(model: &Api) -> Result<Vec<f64>> {
    let listed = model.get("/rehearsal/requests?after=0")?;
    let requests = listed
        .as_array()
        .or_else(|| listed["requests"].as_array())
        .or_else(|| listed["data"].as_array());
    let requests = requests.context("the model listed no requests")?;
    requests
        .iter()
        .map(|request| seconds(&request["received_at"]))
        .collect()
}

/// Seconds within the day of a timestamp in UTC: turns that cross midnight are measured again tomorrow.
fn seconds(stamp: &Value) -> Result<f64> {
    let text = stamp.as_str().context("a request without a time")?;
    let clock = text
        .split('T')
        .nth(1)
        .with_context(|| format!("{text} is not a timestamp"))?
        .trim_end_matches('Z');
    let mut parts = clock.split(':').map(str::parse::<f64>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(hours)), Some(Ok(minutes)), Some(Ok(seconds))) => Ok(hours * 3600.0 + minutes * 60.0 + seconds),
        _ => bail!("{text} is not a timestamp"),
    }
}

/// What the model takes for a whole answer, in milliseconds: the median.
fn answer_time(model: &Api, times: usize) -> Result<f64> {
    let message = script(1, &json!([{"say": [{"text": "x"}]}]));
    let body = json!({"model": "rehearsal/script", "max_tokens": 100, "stream": true,
        "messages": [{"role": "user", "content": message["content"]}]});
    let mut measured = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        model.send("/v1/messages", &body)?;
        measured.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    measured.sort_by(f64::total_cmp);
    Ok(measured[measured.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_seconds_of_its_day() {
        assert_eq!(seconds(&json!("2026-11-21T01:02:03.5Z")).unwrap(), 3723.5);
        assert!(seconds(&json!("yesterday")).is_err());
    }
}
