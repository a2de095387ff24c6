//! Syslog receivers: what breaks is sent again, what is not confirmed does not count, TLS is checked.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outwork_ledger::exports::{Options as ExportOptions, Start, Status, Tls, Transport};
use outwork_ledger::{Error, Ledger};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;

use crate::exports::{options, record_sequences, to_syslog, wait, wait_delivered};
use crate::receivers::{self, Server, unframe};
use crate::support::{record, unsigned};

/// The sequences of messages that hold OCSF events.
fn sequences(messages: &[String]) -> Vec<u64> {
    let event = |message: &String| serde_json::from_str::<Value>(&message[message.find('{').unwrap()..]).unwrap();
    messages
        .iter()
        .map(|message| event(message)["metadata"]["sequence"].as_u64().unwrap())
        .collect()
}

#[test]
fn syslog_over_tcp_gets_everything_although_connections_break() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let (server, messages) = receivers::syslog(vec![0, 10, 3000, 200]);
    let target = to_syslog(server.address, Transport::Tcp);
    let seen: Arc<Mutex<Vec<Status>>> = Arc::default();
    let listened = seen.clone();
    let exporter = ledger
        .start_export(ExportOptions {
            listener: Some(Arc::new(move |status: &Status| {
                listened.lock().unwrap().push(status.clone())
            })),
            ..options("siem", target)
        })
        .unwrap();
    for n in 0..60 {
        ledger.append_later(record("a", n)).wait().unwrap();
    }
    wait_delivered(&exporter, &ledger);
    exporter.stop();
    let messages = messages.lock().unwrap().clone();
    let got: BTreeSet<u64> = sequences(&messages).into_iter().collect();
    assert!(record_sequences(&ledger).is_subset(&got));
    assert!(
        messages[0].starts_with("<110>1 ") || messages[0].starts_with("<109>1 "),
        "{}",
        messages[0]
    );
    assert!(
        messages
            .iter()
            .any(|m| m.contains(" tool_call [outwork@32473 ledger=\"") && m.contains(" session=\"a\""))
    );
    let seen = seen.lock().unwrap();
    assert!(
        seen.iter()
            .any(|status| status.fault.is_some() && status.lag > 0 && status.behind_since.is_some())
    );
    assert_eq!(seen.last().unwrap().fault, None);
}

#[test]
fn a_receiver_that_never_confirms_is_sent_to_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.append(record("a", 0)).wait().unwrap();
    let held = Arc::new(Mutex::new(Vec::new()));
    let holding = held.clone();
    // Takes the bytes into its buffers, reads nothing and does not close.
    let server = Server::start(move |stream| holding.lock().unwrap().push(stream));
    let exporter = ledger
        .start_export(ExportOptions {
            timeout: Duration::from_millis(50),
            ..options("siem", to_syslog(server.address, Transport::Tcp))
        })
        .unwrap();
    wait("a second attempt", || held.lock().unwrap().len() >= 2);
    wait("a fault", || exporter.status().fault.is_some());
    let status = exporter.status();
    assert_eq!(status.delivered.sequence, 0);
    assert!(status.fault.unwrap().contains("did not read to the end"));
}

#[test]
fn syslog_over_tls_checks_the_receiver() {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = cert.signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let config = Arc::new(config);
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let messages = kept.clone();
    let server = Server::start(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        let mut bytes = Vec::new();
        if std::io::Read::read_to_end(&mut stream, &mut bytes).is_ok() {
            messages.lock().unwrap().extend(unframe(&bytes));
        }
    });
    let address = format!("localhost:{}", server.address.port());
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, ca_cert.pem()).unwrap();
    let ledger = Ledger::open(dir.path().join("ledger"), unsigned()).unwrap();
    for n in 0..20 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    // An authority that did not sign this receiver's certificate.
    let other = CertificateParams::new(Vec::new()).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let other_file = dir.path().join("other.pem");
    fs::write(&other_file, other.pem()).unwrap();
    let tls = |ca: &std::path::Path| {
        Transport::Tls(Tls {
            ca: Some(ca.to_owned()),
            identity: None,
        })
    };
    let exporter = ledger
        .start_export(options("siem", to_syslog(&address, tls(&other_file))))
        .unwrap();
    wait("a refusal", || exporter.status().fault.is_some());
    let status = exporter.stop();
    assert!(status.fault.unwrap().contains("TLS handshake"));
    assert_eq!((status.delivered.sequence, kept.lock().unwrap().len()), (0, 0));

    let exporter = ledger
        .start_export(options("siem", to_syslog(&address, tls(&ca_file))))
        .unwrap();
    wait_delivered(&exporter, &ledger);
    exporter.stop();
    let got: BTreeSet<u64> = sequences(&kept.lock().unwrap()).into_iter().collect();
    assert!(record_sequences(&ledger).is_subset(&got));
    let missing = to_syslog(&address, tls(&dir.path().join("nothing.pem")));
    assert!(matches!(
        ledger.start_export(options("x", missing)),
        Err(Error::Export { .. })
    ));
}

#[test]
fn syslog_over_udp_gets_a_datagram_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let target = to_syslog(socket.local_addr().unwrap(), Transport::Udp);
    let exporter = ledger
        .start_export(ExportOptions {
            start: Start::Now,
            ..options("udp", target)
        })
        .unwrap();
    let receipt = ledger.append(record("a", 1)).wait().unwrap();
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if sequences(std::slice::from_ref(&message)) == [receipt.sequence] {
            assert!(message.contains("\"class_uid\":6003"));
            break;
        }
    }
    wait_delivered(&exporter, &ledger);
}
