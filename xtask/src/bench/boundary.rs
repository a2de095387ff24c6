//! The boundary of a sandbox: requests whose TLS is opened and whose header is replaced, beside a direct connection and
//! mitmdump with a script that does the same; bytes that are passed through; a change of the policy; records of the ledger.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Setting;
use super::table::{Row, Summary};
use crate::process::{self, Bounds};

const MITMPROXY: &str = "mitmproxy==11.0.2";
const MINUTES: u64 = 15;

/// Measures everything.
pub(crate) fn boundary(setting: &Setting) -> Result<Vec<Row>> {
    let mut arguments = Vec::new();
    match mitmdump(setting) {
        Ok(program) => arguments.extend(["--mitmdump".to_owned(), program.to_string_lossy().into_owned()]),
        Err(error) => println!("  mitmdump is not measured: {error:#}"),
    }
    let printed = super::example(setting, "outwork-egress", "bench_egress", &arguments, MINUTES)?;
    let line = printed.lines().find(|line| line.starts_with('{'));
    let figures = serde_json::from_str(line.context("the example printed no figures")?)?;
    let mut rows = rows(&figures);
    let records = setting.times(500_000).to_string();
    let printed = super::example(setting, "outwork-ledger", "bench_ledger", &[records], MINUTES)?;
    let awaited = printed.lines().find_map(|line| line.strip_prefix("awaited"));
    let rate = awaited.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let rate = rate.with_context(|| format!("the example printed no rate: {printed}"))?;
    rows.push(Row::of("ledger: durable records, signed checkpoints included", "1/s", one(rate)).goal("50000"));
    Ok(rows)
}

fn one(value: f64) -> Summary {
    Summary::of(&[value])
}

fn rows(figures: &Value) -> Vec<Row> {
    let number = |pointer: &str| figures.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let latency = |at: &str| Summary {
        least: f64::NAN,
        median: number(&format!("{at}/p50_us")),
        p95: number(&format!("{at}/p95_us")),
    };
    let direct = Summary {
        least: f64::NAN,
        median: number("/opened/direct_p50_us"),
        p95: number("/opened/direct_p95_us"),
    };
    let opened = "TLS opened, header replaced, recorded: one at a time";
    let many = "TLS opened, header replaced, recorded: 32 at a time";
    let mut rows = vec![
        Row::of(opened, "us", latency("/opened"))
            .beside("direct", direct)
            .goal("250"),
        Row::of(many, "req/s", one(number("/opened_32/requests_per_s")))
            .beside("direct", one(number("/opened_32/direct_requests_per_s")))
            .goal("12000"),
    ];
    if figures["mitmdump"].is_object() {
        rows.push(Row::of(opened, "us", latency("/opened")).beside("mitmdump", latency("/mitmdump")));
        rows.push(
            Row::of(many, "req/s", one(number("/opened_32/requests_per_s")))
                .beside("mitmdump", one(number("/mitmdump/requests_per_s")))
                .goal("20 times mitmdump"),
        );
    }
    for (name, at) in [
        ("passed through, raw", "passed"),
        ("passed through, with the client's TLS", "passed_tls"),
    ] {
        let gigabits = |which: &str| one(number(&format!("/{at}/{which}")) * 8e-9);
        let row = Row::of(name, "Gbit/s", gigabits("bytes_per_s"));
        rows.push(
            row.beside("direct", gigabits("direct_bytes_per_s"))
                .goal("0.9 of direct"),
        );
    }
    rows.push(Row::of(
        "first connection for a host, certificate made",
        "us",
        latency("/cold"),
    ));
    let change = "policy changed to first request refused";
    rows.push(Row::of(change, "us", latency("/policy")).goal("5000"));
    rows.push(Row::of(
        "idle proxy of a sandbox",
        "kB",
        one(number("/idle_bytes_each") * 1e-3),
    ));
    rows
}

/// The peer, installed once into an environment of its own.
fn mitmdump(setting: &Setting) -> Result<PathBuf> {
    let folder = setting.workspace.kept("xtask/mitmproxy")?;
    let program = folder.join("bin/mitmdump");
    if program.is_file() {
        return Ok(program);
    }
    println!("  installing {MITMPROXY} ...");
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv"]).arg(&folder);
    let mut install = Command::new(folder.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", MITMPROXY]);
    let log = setting.workspace.kept("xtask")?.join("mitmproxy-install.log");
    for command in [environment, install] {
        let bounds = Bounds {
            deadline: Duration::from_secs(MINUTES * 60),
            stream: false,
        };
        process::run(command, &log, bounds)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table;

    #[test]
    fn figures_become_rows_with_the_peer_only_where_it_ran() {
        let mut figures = serde_json::json!({
            "opened": { "p50_us": 50.0, "p95_us": 70.0, "direct_p50_us": 25.0, "direct_p95_us": 30.0 },
            "opened_32": { "requests_per_s": 20000.0, "direct_requests_per_s": 40000.0 },
            "passed": { "bytes_per_s": 1e9, "direct_bytes_per_s": 2e9 },
            "mitmdump": null,
        });
        let text = table::render(&rows(&figures));
        assert!(
            text.contains("2.00") && text.contains("8.00") && !text.contains("mitmdump"),
            "{text}"
        );
        figures["mitmdump"] = serde_json::json!({ "p50_us": 5000.0, "requests_per_s": 500.0 });
        let text = table::render(&rows(&figures));
        assert!(text.contains("40.00") && text.contains("0.01"), "{text}");
    }
}
