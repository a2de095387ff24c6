//! An evidence bundle is verified by a stranger who has the file and a fingerprint; any change of it is found and named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use outwork_ledger::evidence::{
    Document, DocumentKind, Evidence, Finding, LedgerAt, Source, Sources, Trust, verify_file, verify_reader, write,
    write_file,
};
use outwork_ledger::{
    Credential, Decision, Error, Expect, FaultKind, Filter, Hash, KeyId, Kind, Ledger, Receipt, Record, Scope, Stop,
};
use outwork_wire::Time;
use serde_json::json;

use crate::support::{START, record, unsigned};

const IMAGE: &[u8] = b"{\"schemaVersion\":2}";
const POLICY: &[u8] = b"rules:\n  - host: api.example.com\n";

fn at(n: i64) -> Time {
    Time::from_micros(START + n)
}

fn events() -> Vec<u8> {
    let mut out = Vec::new();
    for n in 0..6 {
        let used = json!({"type": "agent.tool_use", "id": format!("toolu_{n}"), "name": "bash", "input": {"command": "ls", "n": n}});
        let result = json!({"type": "user.tool_result", "tool_use_id": format!("toolu_{n}"), "content": [{"type": "text", "text": n.to_string()}]});
        for event in [used, result] {
            out.extend_from_slice(event.to_string().as_bytes());
            out.push(b'\n');
        }
    }
    out
}

fn call(n: u64) -> Record {
    Record::new(Kind::ToolCall, at(n as i64))
        .session("sesn_1")
        .agent("agent_1", Some(2))
        .worker("worker-1")
        .image_digest(format!("sha256:{}", Hash::of(IMAGE)))
        .policy_hash(Hash::of(POLICY))
        .tool("bash")
        .call(format!("toolu_{n}"))
        .input_hash(Hash::of_json(&json!({"n": n, "command": "ls"})))
        .output_hash(Hash::of_json(&json!([{"text": n.to_string(), "type": "text"}])))
        .decided(Decision::Allowed, "default")
}

struct World {
    dir: tempfile::TempDir,
    bundle: PathBuf,
    key: KeyId,
}

impl World {
    fn folder(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sources(&self) -> Sources<'static> {
        let source = |name: &str| Source {
            name: name.into(),
            from: LedgerAt::Folder(self.folder(name)),
        };
        Sources {
            session: "sesn_1".into(),
            at: at(1000),
            sealer: LedgerAt::Folder(self.folder("plane")),
            ledgers: vec![source("worker"), source("plane"), source("gateway")],
            documents: vec![
                Document {
                    name: "policy.yaml".into(),
                    kind: DocumentKind::Policy,
                    bytes: POLICY.to_vec(),
                },
                Document {
                    name: "manifest.json".into(),
                    kind: DocumentKind::Image,
                    bytes: IMAGE.to_vec(),
                },
            ],
            events: Some(Box::new(std::io::Cursor::new(events()))),
        }
    }
}

/// Three ledgers: the plane's, a worker's with another session in it, a gateway's that knows nothing of the session.
fn world(log: &[u8]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| Ledger::open(dir.path().join(name), unsigned()).unwrap();
    let (plane, worker, gateway) = (open("plane"), open("worker"), open("gateway"));
    let key = plane.public_key().id();
    let start = Record::new(Kind::SessionStart, at(0)).session("sesn_1");
    plane.append(start).wait().unwrap();
    let approved = Record::new(Kind::Approval, at(3))
        .session("sesn_1")
        .call("toolu_1")
        .approval("run bash")
        .approver("user_7")
        .decision(Decision::Allowed);
    plane.append(approved).wait().unwrap();
    for n in 0..6 {
        worker.append(call(n)).wait().unwrap();
        worker.append(record("other", n)).wait().unwrap();
    }
    let outside = |decision, host: &str| {
        Record::new(Kind::Connection, at(20))
            .session("sesn_1")
            .destination(host)
            .decided(decision, "rules[0]")
    };
    worker
        .append(outside(Decision::Allowed, "api.example.com:443"))
        .wait()
        .unwrap();
    worker
        .append(outside(Decision::Denied, "evil.example|<b>\u{202e}\u{7}:443"))
        .wait()
        .unwrap();
    let used = Record::new(Kind::CredentialUse, at(21))
        .session("sesn_1")
        .destination("api.example.com:443")
        .credential(Credential {
            id: None,
            name: Some("GITHUB_TOKEN".into()),
            method: Some("bearer".into()),
        })
        .decided(Decision::Allowed, "rules[0]");
    worker.append(used).wait().unwrap();
    worker
        .append(
            Record::new(Kind::Stop, at(30))
                .session("sesn_1")
                .actor("key_1")
                .reason("enough")
                .stop(Stop {
                    scope: Scope::Session,
                    forced: true,
                    ended: vec!["sesn_1".into()],
                    processes: Some(3),
                }),
        )
        .wait()
        .unwrap();
    gateway.append(record("other", 1)).wait().unwrap();
    let logged = Record::new(Kind::SessionLog, at(31))
        .session("sesn_1")
        .events(log.iter().filter(|&&b| b == b'\n').count() as u64)
        .output_hash(Hash::of(log));
    plane.append(logged).wait().unwrap();
    for ledger in [plane, worker, gateway] {
        ledger.close().unwrap();
    }
    let bundle = dir.path().join("evidence.jsonl");
    World { dir, bundle, key }
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let world = world(&events());
    write_file(world.sources(), &world.bundle).unwrap();
    world
});

fn bytes() -> Vec<u8> {
    fs::read(&WORLD.bundle).unwrap()
}

fn check(bytes: &[u8]) -> Evidence {
    verify_reader(bytes, "e", &Expect::key_ids([WORLD.key])).unwrap()
}

fn line_of(bytes: &[u8], at: usize) -> u64 {
    1 + bytes[..at].iter().filter(|&&b| b == b'\n').count() as u64
}

#[test]
fn a_stranger_with_the_file_and_a_fingerprint_verifies_it() {
    // Elsewhere: nothing but the file, and what somebody read out on the telephone.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("e.jsonl");
    fs::copy(&WORLD.bundle, &file).unwrap();
    let fingerprint: KeyId = WORLD.key.to_string().parse().unwrap();
    let found = verify_file(&file, &Expect::key_ids([fingerprint]))
        .unwrap()
        .sound()
        .unwrap();
    assert_eq!(
        (found.session.as_deref(), found.events, found.calls_matched),
        (Some("sesn_1"), 12, 6)
    );
    assert_eq!(found.findings, []);
    let ledgers: Vec<_> = found
        .ledgers
        .iter()
        .map(|l| (l.name.as_str(), l.records, l.trust))
        .collect();
    assert_eq!(
        ledgers,
        [
            ("gateway", 0, Trust::Seal),
            ("plane", 3, Trust::Key),
            ("worker", 10, Trust::Seal)
        ]
    );
    assert_eq!(found.ledgers[2].withheld, 6);
    assert_eq!(found.documents[1].hash, Hash::of(POLICY));
    assert_eq!(found.summary.denied.rows.len(), 1);
    assert_eq!(found.summary.stops.rows[0].record.actor.as_deref(), Some("key_1"));
    assert_eq!(
        found.summary.images.keys().collect::<Vec<_>>(),
        [&format!("sha256:{}", Hash::of(IMAGE))]
    );
    assert_eq!(found.summary.credentials.keys().next().unwrap().0, "GITHUB_TOKEN");
    // With the worker's key as well, its part is trusted by itself.
    let worker = found.ledgers[2].keys[0].id();
    let expect = Expect::key_ids([fingerprint]).and_key_id(worker);
    assert_eq!(verify_file(&file, &expect).unwrap().ledgers[2].trust, Trust::Key);
    // A stranger to these keys, and one who has only the worker's.
    for wrong in [Expect::key_ids([worker]), Expect::keys([])] {
        let fault = verify_file(&file, &wrong).unwrap().fault.unwrap();
        assert_eq!((fault.kind, fault.line), (FaultKind::Untrusted, 1));
    }
    // The other session is not in it.
    assert!(!String::from_utf8(bytes()).unwrap().contains("call-other"));
}

#[test]
fn any_byte_that_is_changed_is_found_and_its_line_named() {
    let bytes = bytes();
    let ends = 2000;
    // Every byte of the beginning and the end, and every third between.
    for place in (0..bytes.len()).filter(|at| *at < ends || at + ends > bytes.len() || at % 3 == 0) {
        for flip in if place % 15 == 0 {
            &[1, 0x20, 0x80][..]
        } else {
            &[1][..]
        } {
            let mut changed = bytes.clone();
            changed[place] ^= flip;
            let found = check(&changed).fault.expect("a change was not found");
            assert_eq!(
                (found.file.as_str(), found.line),
                ("e", line_of(&bytes, place)),
                "{found} at {place}"
            );
        }
    }
}

#[test]
fn missing_added_doubled_and_moved_lines_are_found_and_named() {
    let bytes = bytes();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    let fault = |lines: &[&[u8]]| check(&lines.concat()).fault.expect("a change was not found").line;
    for i in 0..lines.len() {
        let mut changed = lines.clone();
        changed.remove(i);
        assert_eq!(fault(&changed), i as u64 + 1, "without line {}", i + 1);
        let mut changed = lines.clone();
        changed.insert(i, lines[i]);
        assert_eq!(fault(&changed), i as u64 + 2, "line {} twice", i + 1);
        let mut changed = lines.clone();
        changed.insert(i, b"{}\n");
        assert_eq!(fault(&changed), i as u64 + 1);
        for j in 0..i {
            let mut changed = lines.clone();
            changed.swap(i, j);
            assert_eq!(fault(&changed), j as u64 + 1, "lines {} and {}", j + 1, i + 1);
        }
    }
    for cut in (0..bytes.len()).step_by(11) {
        let found = check(&bytes[..cut]);
        assert!(!found.is_sound() && found.fault_part.is_some());
    }
    for added in [&b"\n"[..], b" ", b"{\"n\":1}\n", lines[1]] {
        let found = check(&[&bytes, added].concat()).fault.unwrap();
        assert_eq!(found.line, lines.len() as u64 + 1);
    }
    let mut inserted = bytes.clone();
    for place in (0..bytes.len()).step_by(17) {
        inserted.insert(place, b'0');
        assert!(!check(&inserted).is_sound(), "a byte at {place}");
        inserted.remove(place);
    }
    assert!(check(&inserted).is_sound());
}

#[test]
fn a_bundle_that_another_key_sealed_anew_is_refused() {
    // Somebody who has the ledgers' bundles and not the key makes all of it anew with a key of his own.
    let forger = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(forger.path(), unsigned()).unwrap();
    let mut part = Vec::new();
    outwork_ledger::export(WORLD.folder("worker"), &Filter::session("sesn_1"), at(0), &mut part).unwrap();
    let sources = Sources {
        sealer: LedgerAt::Open(&ledger),
        ledgers: vec![Source {
            name: "worker".into(),
            from: LedgerAt::Bundle(Box::new(std::io::Cursor::new(part))),
        }],
        ..WORLD.sources()
    };
    let mut forged = Vec::new();
    let written = write(sources, &mut forged).unwrap();
    assert_eq!(written.key, ledger.public_key().id());
    let found = check(&forged);
    assert_eq!(found.fault.unwrap().kind, FaultKind::Untrusted);
    // It holds for whoever trusts the forger; the worker's lines are the worker's in any case.
    let found = verify_reader(&*forged, "e", &Expect::key_ids([written.key]))
        .unwrap()
        .sound()
        .unwrap();
    assert_eq!((found.ledgers[0].records, found.ledgers[0].trust), (10, Trust::Seal));
    // The seal of one file under the lines of another.
    let (genuine, text) = (String::from_utf8(bytes()).unwrap(), String::from_utf8(forged).unwrap());
    let seal = genuine.lines().last().unwrap();
    let swapped = text.lines().rev().skip(1).collect::<Vec<_>>();
    let swapped: String = swapped
        .into_iter()
        .rev()
        .chain([seal])
        .map(|line| format!("{line}\n"))
        .collect();
    let any = verify_reader(swapped.as_bytes(), "e", &Expect::any_key()).unwrap();
    assert!(!any.is_sound());
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let mut again = Vec::new();
    let written = write(WORLD.sources(), &mut again).unwrap();
    assert!(again == bytes());
    assert_eq!((written.records, written.unsigned, written.events), (13, 0, 12));
    assert_eq!(written.without, ["gateway"]);
    assert_eq!(written.lines, again.iter().filter(|&&b| b == b'\n').count() as u64);
}

#[test]
fn a_log_that_was_changed_before_it_was_sealed_is_a_finding() {
    let write_with = |world: &World, change: &dyn Fn(String) -> String| {
        let text = change(String::from_utf8(events()).unwrap());
        let sources = Sources {
            events: Some(Box::new(std::io::Cursor::new(text.into_bytes()))),
            ..world.sources()
        };
        let mut out = Vec::new();
        write(sources, &mut out).unwrap();
        verify_reader(&*out, "e", &Expect::any_key())
            .unwrap()
            .sound()
            .unwrap()
            .findings
    };
    let changed = write_with(&WORLD, &|text| {
        text.replace("{\"command\":\"ls\",\"n\":3}", "{\"command\":\"rm\",\"n\":3}")
    });
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(matches!(&changed[0], Finding::LogDiffers { ledger, events: 12, .. } if ledger == "plane"));
    assert!(
        matches!(&changed[1], Finding::InputDiffers { ledger, call, .. } if ledger == "worker" && call == "toolu_3")
    );
    let result = write_with(&WORLD, &|text| text.replace("\"text\":\"4\"", "\"text\":\"5\""));
    assert!(
        matches!(&result[1], Finding::OutputDiffers { call, .. } if call == "toolu_4"),
        "{result:?}"
    );
    let short = write_with(&WORLD, &|text| {
        text.lines().take(10).map(|line| format!("{line}\n")).collect()
    });
    assert!(matches!(&short[0], Finding::LogShort { events: 12, .. }), "{short:?}");
    assert!(
        short
            .iter()
            .any(|f| matches!(f, Finding::CallNotInLog { call, .. } if call == "toolu_5"))
    );
    let extra = r#"{"type":"agent.tool_use","id":"toolu_x","input":{}}
{"type":"agent.tool_result","tool_use_id":"toolu_x","content":[]}
"#;
    let more = write_with(&WORLD, &|text| text + extra);
    assert!(more.contains(&Finding::LogUncovered { events: 2 }), "{more:?}");
    assert!(more.contains(&Finding::CallNotRecorded { call: "toolu_x".into() }));

    let mut sources = WORLD.sources();
    for document in &mut sources.documents {
        document.bytes.push(b' ');
    }
    let mut out = Vec::new();
    write(sources, &mut out).unwrap();
    let findings = verify_reader(&*out, "e", &Expect::any_key()).unwrap().findings;
    let hash = Hash::of(POLICY);
    assert_eq!(findings[0], Finding::PolicyMissing { hash, records: 6 });
    assert_eq!(
        findings[1],
        Finding::PolicyUnused {
            document: "policy.yaml".into()
        }
    );
    assert!(findings.contains(&Finding::ImageUnused {
        document: "manifest.json".into()
    }));
}

#[test]
fn what_does_not_suit_is_not_written() {
    let refused = |change: &dyn Fn(&mut Sources<'static>)| {
        let mut sources = WORLD.sources();
        change(&mut sources);
        let path = WORLD.folder("refused.jsonl");
        let error = write_file(sources, &path).unwrap_err();
        assert!(!path.exists() && !WORLD.folder("refused.jsonl.tmp").exists());
        error
    };
    let text = |text: &'static str| Some(Box::new(text.as_bytes()) as Box<dyn std::io::BufRead>);
    for log in ["{}\nnot json\n", "{}\n[1]\n", "{}\n\n{}\n", "{}\n{\"a\":}\n"] {
        let error = refused(&|sources| sources.events = text(log));
        assert!(error.to_string().contains("line 2 of the event log"), "{error}");
    }
    assert!(matches!(
        refused(&|sources| sources.session = "nobody".into()),
        Error::NoMatch
    ));
    let error = refused(&|sources| sources.ledgers[0].name = "plane".into());
    assert!(error.to_string().contains("two ledgers"), "{error}");
    let error = refused(&|sources| sources.documents[0].name = String::new());
    assert!(matches!(error, Error::Evidence(_)), "{error}");
    let error = refused(&|sources| sources.sealer = LedgerAt::Bundle(Box::new(&b""[..])));
    assert!(matches!(error, Error::Evidence(_)), "{error}");
    let mut other = Vec::new();
    outwork_ledger::export(WORLD.folder("worker"), &Filter::session("other"), at(0), &mut other).unwrap();
    let error =
        refused(&|sources| sources.ledgers[0].from = LedgerAt::Bundle(Box::new(std::io::Cursor::new(other.clone()))));
    assert!(error.to_string().contains("something else"), "{error}");
    other[100] ^= 1;
    let error =
        refused(&|sources| sources.ledgers[0].from = LedgerAt::Bundle(Box::new(std::io::Cursor::new(other.clone()))));
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}

#[test]
fn a_receipt_is_looked_for_in_the_sealing_ledger() {
    let found = check(&bytes());
    let last = found.ledgers[1].last.unwrap();
    let expect = Expect::key_ids([WORLD.key]);
    assert!(
        verify_file(&WORLD.bundle, &expect.clone().witness(last))
            .unwrap()
            .is_sound()
    );
    let other = Receipt {
        hash: Hash::ZERO,
        ..last
    };
    let fault = verify_file(&WORLD.bundle, &expect.witness(other))
        .unwrap()
        .fault
        .unwrap();
    assert_eq!(fault.kind, FaultKind::Witness);
}

#[test]
fn the_report_says_what_happened_and_nothing_breaks_out_of_it() {
    let found = check(&bytes());
    let (markdown, text) = (found.markdown(), found.text());
    for report in [&markdown, &text] {
        for part in [
            "Evidence of the session",
            "Verified: no byte was changed",
            "Nothing contradicts",
            "Refused",
            "api.example.com:443",
            "enough",
            &WORLD.key.to_string(),
        ] {
            assert!(report.contains(part), "{part} is not in\n{report}");
        }
        assert!(!report.contains('\u{202e}') && !report.contains('\u{7}'));
    }
    assert!(markdown.contains("evil.example\\|&lt;b>") && !markdown.contains("<b>"));
    assert!(text.contains("GITHUB_TOKEN") && markdown.contains("GITHUB_TOKEN"));
    let mut changed = bytes();
    let place = changed.len() / 2;
    changed[place] ^= 1;
    let report = check(&changed).text();
    assert!(
        report.contains("NOT VERIFIED") && !report.contains("Verified:"),
        "{report}"
    );
    assert!(Path::new(&WORLD.bundle).exists());
}
