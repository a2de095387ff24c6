//! What is exported arrives, all of it, in order, over failures and restarts; who lags says so; nothing goes silently.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use outwork_ledger::exports::{
    Endpoint, Exporter, Form, Options as ExportOptions, Start, Syslog, Target, Tls, Transport, places, syslog,
    write_matching,
};
use outwork_ledger::{Error, Expect, Filter, Kind, Ledger, Retention, scan, verify, verify_reader};
use serde_json::Value;

use crate::receivers;
use crate::support::{record, unsigned};

pub fn options(name: &str, target: Target) -> ExportOptions {
    ExportOptions {
        retry: Duration::from_millis(5),
        max_retry: Duration::from_millis(20),
        batch_lines: 7,
        ..ExportOptions::new(name, target)
    }
}

pub fn to_syslog(address: impl ToString, transport: Transport) -> Target {
    Target::Syslog(Syslog {
        address: address.to_string(),
        transport,
        header: syslog::Header::default(),
        form: Form::Ocsf,
    })
}

fn endpoint(address: impl ToString) -> Endpoint {
    Endpoint {
        url: format!("http://{}/v1/logs?key=none", address.to_string()),
        headers: vec![("authorization".into(), "Bearer export-secret".to_owned().into())],
        tls: Tls::default(),
    }
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn wait_delivered(exporter: &Exporter, ledger: &Ledger) {
    ledger.flush().wait().unwrap();
    wait("delivery", || {
        exporter.status().lag == 0 || {
            let status = exporter.status();
            assert_eq!(status.refused, None, "{status:?}");
            false
        }
    });
}

pub fn record_sequences(ledger: &Ledger) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    scan(ledger.dir(), &Filter::everything(), |receipt, _| {
        all.insert(receipt.sequence);
    })
    .unwrap();
    all
}

#[test]
fn a_file_gets_every_line_once_over_restarts_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("copy.jsonl");
    let target = Target::File {
        path: out.clone(),
        form: Form::Lines,
    };
    let mut key = None;
    for round in 0..3 {
        let ledger_options = outwork_ledger::Options {
            segment_bytes: 3000,
            checkpoint_records: 5,
            ..unsigned()
        };
        let ledger = Ledger::open(dir.path().join("ledger"), ledger_options).unwrap();
        key.get_or_insert(ledger.public_key());
        let exporter = ledger.start_export(options("copy", target.clone())).unwrap();
        for n in 0..40 {
            ledger.append_later(record("a", round * 100 + n)).wait().unwrap();
        }
        if round == 1 {
            ledger.rotate_key().wait().unwrap();
        }
        wait_delivered(&exporter, &ledger);
        let status = exporter.stop();
        assert_eq!((status.lag, status.fault, status.lost), (0, None, 0));
        assert_eq!(
            places(ledger.dir()).unwrap(),
            [("copy".to_owned(), ledger.status().last)]
        );
        ledger.close().unwrap();
        // Nobody exports now: this comes later.
        let ledger = Ledger::open(dir.path().join("ledger"), unsigned()).unwrap();
        ledger.append(record("a", round * 100 + 50)).wait().unwrap();
        ledger.close().unwrap();
    }
    // The copy alone verifies, by the key, and holds what was delivered.
    let bytes = fs::read(&out).unwrap();
    let report = verify_reader(&*bytes, "copy", &Expect::keys(key))
        .unwrap()
        .sound()
        .unwrap();
    assert_eq!(report.records, 3 * 40 + 2 + 1);
    assert_eq!(report.keys.len(), 2);
}

#[test]
fn otlp_gets_logs_and_its_answers_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let mut calls = 0;
    let (server, requests) = receivers::http(move |_| {
        calls += 1;
        match calls {
            1 => (503, String::new()),
            2 => (429, String::new()),
            3 => (
                200,
                r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"busy"}}"#.into(),
            ),
            _ => (200, r#"{"partialSuccess":{}}"#.into()),
        }
    });
    let exporter = ledger
        .start_export(options("otel", Target::Otlp(endpoint(server.address))))
        .unwrap();
    for n in 0..30 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    wait_delivered(&exporter, &ledger);
    exporter.stop();
    let requests = requests.lock().unwrap();
    assert!(requests[0].head.starts_with("POST /v1/logs?key=none HTTP/1.1"));
    assert!(
        requests[0]
            .head
            .to_lowercase()
            .contains("authorization: bearer export-secret")
    );
    let mut got = BTreeSet::new();
    for request in &requests[3..] {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let resource = &body["resourceLogs"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "outwork");
        for log in resource["scopeLogs"][0]["logRecords"].as_array().unwrap() {
            let nanoseconds: u128 = log["timeUnixNano"].as_str().unwrap().parse().unwrap();
            assert!(nanoseconds > 1_000_000_000_000_000_000);
            let attribute = |name: &str| {
                let all = log["attributes"].as_array().unwrap();
                all.iter()
                    .find(|a| a["key"] == name)
                    .map(|a| a["value"].clone())
                    .unwrap_or_default()
            };
            let sequence = attribute("outwork.sequence")["intValue"].as_str().unwrap().to_owned();
            if attribute("event.name")["stringValue"] == "outwork.tool_call" {
                assert_eq!(attribute("outwork.agent.version")["intValue"], "1");
                assert_eq!(attribute("outwork.decision")["stringValue"], "allowed");
            }
            got.insert(sequence.parse::<u64>().unwrap());
        }
    }
    assert!(record_sequences(&ledger).is_subset(&got));
    // Neither a header nor a query got into the ledger, which tells that the export began.
    let mut told = 0;
    scan(
        ledger.dir(),
        &Filter::everything().of_kind(Kind::Export),
        |_, record| {
            told += 1;
            assert_eq!(record.destination, Some(format!("http://{}/v1/logs", server.address)));
        },
    )
    .unwrap();
    assert_eq!(told, 1);
}

#[test]
fn a_line_that_is_refused_for_good_stops_there_until_somebody_skips_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let (server, requests) = receivers::http(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        (if body.contains("call-poison-13") { 400 } else { 200 }, String::new())
    });
    let target = Target::Http {
        endpoint: endpoint(server.address),
        form: Form::Lines,
    };
    for n in 0..13 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    let poison = ledger.append(record("poison", 13)).wait().unwrap().sequence;
    for n in 14..30 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    let exporter = ledger.start_export(options("http", target)).unwrap();
    wait("the refusal", || exporter.status().refused == Some(poison));
    let status = exporter.status();
    assert_eq!(status.delivered.sequence, poison - 1);
    let fault = status.fault.unwrap();
    assert!(
        status.lag >= 17 && fault.contains("400") && !fault.contains("key=none"),
        "{fault}"
    );
    assert!(matches!(
        exporter.skip(poison - 1, "me", "x"),
        Err(Error::Export { .. })
    ));
    assert!(matches!(
        exporter.skip(poison + 1000, "me", "x"),
        Err(Error::Export { .. })
    ));
    exporter.skip(poison, "key_1", "the receiver is broken").unwrap();
    wait("delivery of the rest", || exporter.status().lag == 0);
    assert_eq!(exporter.stop().refused, None);
    let got: String = requests
        .lock()
        .unwrap()
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned())
        .collect();
    assert!(got.contains("call-a-29") && got.contains(&format!("the lines {poison} to {poison} are skipped")));
}

#[test]
fn retention_waits_for_exports_unless_it_is_forced_and_then_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, out) = (dir.path().join("ledger"), dir.path().join("out.jsonl"));
    let ledger_options = outwork_ledger::Options {
        segment_bytes: 3000,
        checkpoint_records: 4,
        ..unsigned()
    };
    let ledger = Ledger::open(&folder, ledger_options).unwrap();
    // A receiver that is not there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let exporter = ledger
        .start_export(options("siem", to_syslog(address, Transport::Tcp)))
        .unwrap();
    for n in 0..50 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    wait("a fault", || exporter.status().fault.is_some());
    exporter.stop();
    let all = Retention {
        keep_bytes: Some(0),
        ..Retention::default()
    };
    let done = ledger.prune(&all, "retention", "30 days").unwrap();
    assert_eq!((done.segments, done.through), (0, None));
    assert!(done.held > 3, "{done:?}");
    assert_eq!(done.held_for, ["siem"]);
    let forced = Retention { force: true, ..all };
    let done = ledger.prune(&forced, "retention", "the disk is nearly full").unwrap();
    assert!(done.segments > 3 && done.held == 0);
    let through = done.through.unwrap().sequence;
    assert_eq!(done.unsent.len(), 1);
    assert_eq!(
        (
            done.unsent[0].export.as_str(),
            done.unsent[0].first,
            done.unsent[0].last
        ),
        ("siem", 1, through)
    );

    let target = Target::File {
        path: out.clone(),
        form: Form::Ocsf,
    };
    let exporter = ledger.start_export(options("siem", target)).unwrap();
    wait_delivered(&exporter, &ledger);
    assert_eq!(exporter.stop().lost, through);
    let text = fs::read_to_string(&out).unwrap();
    assert!(text.contains("removed the lines up to") && text.contains("\"unsent\":[{\"export\":\"siem\""));
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(first["metadata"]["sequence"].as_u64().unwrap() > through);

    assert!(matches!(
        ledger.forget_export("nobody", "me", "x"),
        Err(Error::Export { .. })
    ));
    ledger.forget_export("siem", "key_1", "the receiver is gone").unwrap();
    assert!(places(&folder).unwrap().is_empty());
    ledger.close().unwrap();
    verify(&folder, &Expect::any_key()).unwrap().sound().unwrap();
}

#[test]
fn a_place_of_another_ledger_is_refused_and_a_damaged_line_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let target = |name: &str| Target::File {
        path: dir.path().join(name),
        form: Form::Lines,
    };
    let ledger = Ledger::open(dir.path().join("one"), unsigned()).unwrap();
    for n in 0..10 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    let exporter = ledger.start_export(options("copy", target("copy"))).unwrap();
    wait_delivered(&exporter, &ledger);
    exporter.stop();
    let other = Ledger::open(dir.path().join("two"), unsigned()).unwrap();
    fs::copy(dir.path().join("one/export-copy"), dir.path().join("two/export-copy")).unwrap();
    assert!(matches!(
        other.start_export(options("copy", target("copy"))),
        Err(Error::Export { .. })
    ));
    for n in 0..20 {
        other.append(record("a", n)).wait().unwrap();
    }
    let exporter = other.start_export(options("copy", target("copy"))).unwrap();
    wait("a fault", || exporter.status().fault.is_some());
    let fault = exporter.stop().fault.unwrap();
    assert!(fault.contains("written anew"), "{fault}");
    for name in ["", "UPPER", "a/b", "..", &"x".repeat(65)] {
        assert!(
            matches!(
                ledger.start_export(options(name, target("x"))),
                Err(Error::Stray { .. })
            ),
            "{name}"
        );
    }
    // Lines that were removed from the disk since.
    let start = ExportOptions {
        start: Start::Now,
        ..options("short", target("short"))
    };
    let exporter = other.start_export(start.clone()).unwrap();
    wait_delivered(&exporter, &other);
    exporter.stop();
    for n in 0..20 {
        other.append(record("a", n)).wait().unwrap();
    }
    let segment = crate::support::segment_files(&dir.path().join("two")).pop().unwrap();
    let text = fs::read_to_string(&segment).unwrap();
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    for (length, problem) in [(text.len() - 3, "bytes are missing"), (end, "its end was removed")] {
        fs::write(&segment, &text[..length]).unwrap();
        let exporter = other.start_export(start.clone()).unwrap();
        wait("a fault", || exporter.status().fault.is_some());
        let fault = exporter.stop().fault.unwrap();
        assert!(fault.contains(problem), "{fault}");
    }
    // A line that was changed on the disk since.
    let segment = crate::support::segment_files(&dir.path().join("one")).pop().unwrap();
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replace("call-a-5", "call-b-5")).unwrap();
    let exporter = ledger.start_export(options("again", target("again"))).unwrap();
    wait("a fault", || exporter.status().fault.is_some());
    assert!(exporter.stop().fault.unwrap().contains("was changed"));
    assert!(
        !fs::read_to_string(dir.path().join("again"))
            .unwrap_or_default()
            .contains("call-b-5")
    );
}

#[test]
fn records_are_written_once_in_the_form_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    crate::support::sample(dir.path());
    let (mut lines, mut events) = (Vec::new(), Vec::new());
    let filter = Filter::session("a");
    assert_eq!(
        write_matching(dir.path(), &filter, Form::Lines, &mut lines).unwrap(),
        12
    );
    assert_eq!(
        write_matching(dir.path(), &filter, Form::Ocsf, &mut events).unwrap(),
        12
    );
    for line in String::from_utf8(lines).unwrap().lines() {
        assert!(outwork_ledger::line::Line::parse(line.as_bytes()).unwrap().is_intact());
    }
    for line in String::from_utf8(events).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["metadata"]["correlation_uid"], "a");
    }
}
