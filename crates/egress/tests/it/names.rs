//! Answers to questions.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, HTTPS};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{in_time, question};
use crate::world::World;

#[tokio::test]
async fn allowed_names_get_pinned_addresses() {
    let world = World::new().await;
    let first = world.lookup("Passed.example.").await;
    assert_eq!(first.metadata.response_code, ResponseCode::NoError);
    assert_eq!(first.answers[0].data.to_string(), "93.184.215.11");
    assert!(first.answers[0].ttl <= 60 && first.answers[0].ttl > 50);
    // The owner changes it: the sandbox keeps its answer as long as it lives, and nobody is asked.
    world.zone.set("passed.example", &["93.184.215.12"]);
    let second = world.lookup("passed.example.").await;
    assert_eq!(second.answers[0].data.to_string(), "93.184.215.11");
    assert_eq!(world.zone.asked.lock().unwrap().len(), 1);
    let none = world.ask("passed.example.", RecordType::AAAA).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[tokio::test]
async fn refused_names_say_why_at_once() {
    let world = World::new().await;
    let answer = world.lookup("evil.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let edns = answer.edns.unwrap();
    let Some(EdnsOption::Unknown(15, data)) = edns.option(EdnsCode::from(15)) else {
        panic!("{edns:?}")
    };
    assert_eq!(data[..2], [0, 18]);
    let text = String::from_utf8_lossy(&data[2..]);
    assert_eq!(text, "outwork: no rule allows evil.example (rule test/default)");
    assert!(world.zone.asked.lock().unwrap().is_empty());
    assert_eq!(world.handle.refusals()[0].host.as_deref(), Some("evil.example"));
    assert_eq!(world.handle.stats().names_forwarded, 0);
}

#[tokio::test]
async fn over_a_stream_as_over_datagrams() {
    let world = World::new().await;
    let mut stream = world.dial("8.8.8.8:53").await;
    for (name, code) in [
        ("passed.example.", ResponseCode::NoError),
        ("evil.example.", ResponseCode::NXDomain),
    ] {
        let question = question(name, RecordType::A);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let length = in_time(stream.read_u16()).await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        in_time(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(
            Message::from_vec(&answer).unwrap().metadata.response_code,
            code,
            "{name}"
        );
    }
}

#[tokio::test]
async fn service_bindings_lose_what_leads_around_the_boundary() {
    let world = World::new().await;
    let name = Name::from_ascii("passed.example.").unwrap();
    let parameters = vec![
        (
            SvcParamKey::Alpn,
            SvcParamValue::Alpn(Alpn(vec!["h3".into(), "h2".into()])),
        ),
        (SvcParamKey::Port, SvcParamValue::Port(8443)),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3, 4])),
        ),
    ];
    let record = |svcb| Record::from_rdata(name.clone(), 9999, RData::HTTPS(HTTPS(svcb)));
    let other = SVCB::new(1, Name::from_ascii("evil.example.").unwrap(), vec![]);
    let alias = SVCB::new(0, Name::from_ascii("evil.example.").unwrap(), vec![]);
    let records = vec![
        record(SVCB::new(1, Name::root(), parameters)),
        record(other),
        record(alias),
    ];
    world.zone.set_records("passed.example", RecordType::HTTPS, records);
    let answer = world.ask("passed.example.", RecordType::HTTPS).await;
    assert_eq!(answer.answers.len(), 1);
    let RData::HTTPS(HTTPS(svcb)) = &answer.answers[0].data else {
        panic!()
    };
    let kept = [(SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()])))];
    assert_eq!(svcb.svc_params, kept);
    assert!(answer.answers[0].ttl <= 300);
}

#[tokio::test]
async fn an_alias_is_told_and_other_types_are_empty() {
    let world = World::new().await;
    let alias = RData::CNAME(CNAME(Name::from_ascii("cdn.example.").unwrap()));
    let record = Record::from_rdata(Name::from_ascii("passed.example.").unwrap(), 60, alias);
    world
        .zone
        .set_records("passed.example", RecordType::CNAME, vec![record]);
    let answer = world.ask("passed.example.", RecordType::CNAME).await;
    assert_eq!(answer.answers[0].data.to_string(), "cdn.example.");
    for kind in [RecordType::TXT, RecordType::MX, RecordType::ANY, RecordType::SRV] {
        let answer = world.ask("passed.example.", kind).await;
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (ResponseCode::NoError, 0),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn questions_that_are_none_get_an_error_and_harm_nothing() {
    let world = World::new().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&[], world.dns).await.unwrap();
    socket.send_to(&[7], world.dns).await.unwrap();
    socket.send_to(b"\x12\x34\x01\x00\x00\x01", world.dns).await.unwrap();
    let mut buffer = [0; 512];
    let length = in_time(socket.recv(&mut buffer)).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(
        (answer.metadata.id, answer.metadata.response_code),
        (0x1234, ResponseCode::FormErr)
    );
    // It still answers.
    assert_eq!(world.lookup("passed.example.").await.answers.len(), 1);
}
