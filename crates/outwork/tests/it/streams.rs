//! Event streams: what they show and in which order, previews, threads, many and slow listeners, and their end.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::world::api::{BETA, is_rest, of_type, text};
use crate::world::{ADMIN_KEY, Api, SCRIPT, SOON, ServerOptions, World, message, script_message};

async fn session(api: &Api) -> String {
    let agent = api.agent(SCRIPT, json!([{ "type": "agent_toolset_20260401" }])).await;
    let environment = api.environment("self_hosted").await;
    api.session(&agent, &environment).await
}

/// An answer in many small pieces: thinking, two texts around a call, and a text at the end.
fn in_pieces() -> Value {
    let pace = json!({ "per_chunk_ms": 2, "chunk_chars": 3 });
    script_message(json!([
        {
            "say": [
                { "thinking": "It may be found out with a command." },
                { "text": "First a look at what is there. " },
                { "text": "Then a word on it." },
                { "tool_use": { "name": "bash", "input": { "command": "true" } } },
                { "text": "That was the call. äöü ✓ 語" },
            ],
            "pace": pace,
        },
        { "say": [{ "text": "And this is the end of it." }], "pace": pace },
    ]))
}

/// Answers the one open call.
async fn answer_call(api: &Api, session: &str) {
    let events = api
        .wait_for(session, "call", |e| !of_type(e, "session.status_idle").is_empty())
        .await;
    let call = &of_type(&events, "agent.tool_use")[0]["id"];
    let result =
        json!({ "type": "user.tool_result", "tool_use_id": call, "content": [{ "type": "text", "text": "ok" }] });
    api.send_events(session, &[result]).await;
}

fn is_preview(event: &Value) -> bool {
    matches!(event["type"].as_str(), Some("event_start" | "event_delta"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_what_the_list_holds() {
    let world = World::start().await;
    let session = session(&world.api).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(world.api.stream(&session, "").await);
    }
    let threads = world.api.get(&format!("/v1/sessions/{session}/threads")).await.ok();
    let thread = threads["data"][0]["id"].as_str().unwrap().to_owned();
    let mut of_thread = world
        .api
        .stream_of(&format!("/v1/sessions/{session}/threads/{thread}/stream"))
        .await;
    world.api.send_events(&session, &[in_pieces()]).await;
    answer_call(&world.api, &session).await;
    let listed = world.api.wait_idle(&session).await;
    for stream in &mut streams {
        let seen = stream.through(is_rest).await;
        // An event that waits is shown when it comes and again when it is taken up; the rest is the list.
        let taken: Vec<&Value> = seen.iter().filter(|e| !e["processed_at"].is_null()).collect();
        assert_eq!(taken, listed.iter().collect::<Vec<_>>());
        let waiting: Vec<&Value> = seen.iter().filter(|e| e["processed_at"].is_null()).collect();
        assert!(waiting.iter().all(|e| e["type"] == "user.message"), "{waiting:?}");
    }
    let rest = |e: &Value| e["type"] == "session.thread_status_idle" && e["stop_reason"]["type"] == "end_turn";
    let seen = of_thread.through(rest).await;
    let path = format!("/v1/sessions/{session}/threads/{thread}/events");
    let in_thread = world.api.get(&path).await.ok()["data"].as_array().unwrap().clone();
    let taken: Vec<&Value> = seen.iter().filter(|e| !e["processed_at"].is_null()).collect();
    assert_eq!(taken, in_thread.iter().collect::<Vec<_>>());
    assert!(in_thread.len() < listed.len());
    assert!(
        in_thread
            .iter()
            .all(|e| !e["type"].as_str().unwrap().starts_with("session.status_"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_are_the_beginning_of_what_comes() {
    let world = World::start().await;
    let session = session(&world.api).await;
    let query = "?event_deltas[]=agent.message&event_deltas[]=agent.thinking";
    let mut both = world.api.stream(&session, query).await;
    let mut messages = world.api.stream(&session, "?event_deltas[]=agent.message").await;
    let mut none = world.api.stream(&session, "").await;
    world.api.send_events(&session, &[in_pieces()]).await;
    answer_call(&world.api, &session).await;
    let listed = world.api.wait_idle(&session).await;
    assert!(!listed.iter().any(is_preview), "a preview is in the list");
    let seen = both.through(is_rest).await;
    let in_list: BTreeMap<&str, &Value> = listed.iter().map(|e| (e["id"].as_str().unwrap(), e)).collect();
    let (mut previews, mut deltas) = (BTreeMap::<String, Vec<String>>::new(), 0);
    for event in &seen {
        match event["type"].as_str().unwrap() {
            "event_start" => {
                let (id, kind) = (&event["event"]["id"], &event["event"]["type"]);
                let last = in_list
                    .get(id.as_str().unwrap())
                    .unwrap_or_else(|| panic!("{event} never came"));
                assert_eq!(&last["type"], kind);
                let twice = previews.insert(id.as_str().unwrap().to_owned(), Vec::new());
                assert!(twice.is_none(), "{id} begins twice");
            }
            "event_delta" => {
                deltas += 1;
                let blocks = previews
                    .get_mut(event["event_id"].as_str().unwrap())
                    .expect("a delta before its start");
                let index = event["delta"]["index"].as_u64().unwrap() as usize;
                assert!(index <= blocks.len(), "{event} leaves a block out");
                if index == blocks.len() {
                    blocks.push(String::new());
                }
                assert_eq!(event["delta"]["content"]["type"], "text");
                blocks[index].push_str(event["delta"]["content"]["text"].as_str().unwrap());
                let last = in_list[event["event_id"].as_str().unwrap()];
                let whole = last["content"][index]["text"].as_str().unwrap();
                assert!(
                    whole.starts_with(&blocks[index]),
                    "{:?} is no beginning of {whole:?}",
                    blocks[index]
                );
            }
            kind => {
                // A preview ends when its event comes: whole, and only once.
                if let Some(blocks) = previews.remove(event["id"].as_str().unwrap())
                    && kind == "agent.message"
                {
                    let whole: Vec<&str> = event["content"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|b| b["text"].as_str().unwrap())
                        .collect();
                    assert_eq!(blocks, whole);
                }
            }
        }
    }
    assert!(previews.is_empty(), "{previews:?}");
    assert!(deltas > 20, "{deltas}");
    let starts = |seen: &[Value], kind: &str| {
        seen.iter()
            .filter(|e| e["type"] == "event_start" && e["event"]["type"] == kind)
            .count()
    };
    assert_eq!(
        (starts(&seen, "agent.message"), starts(&seen, "agent.thinking")),
        (3, 1)
    );
    let seen = messages.through(is_rest).await;
    assert_eq!(
        (starts(&seen, "agent.message"), starts(&seen, "agent.thinking")),
        (3, 0)
    );
    assert!(!none.through(is_rest).await.iter().any(is_preview));
    let said: Vec<String> = of_type(&listed, "agent.message").iter().map(|e| text(e)).collect();
    assert_eq!(said.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_before_an_interrupt_is_kept_as_it_was_shown() {
    let world = World::start().await;
    let session = session(&world.api).await;
    let mut stream = world.api.stream(&session, "?event_deltas[]=agent.message").await;
    let steps = json!([{
        "say": [{ "text": "Word after word. ", "multiply": 400 }],
        "pace": { "per_chunk_ms": 10, "chunk_chars": 8 },
    }]);
    world.api.send_events(&session, &[script_message(steps)]).await;
    let mut shown = String::new();
    let mut id = Value::Null;
    while shown.len() < 60 {
        let seen = stream.next().await;
        match seen.event.as_str() {
            "event_start" => id = seen.data["event"]["id"].clone(),
            "event_delta" => shown.push_str(seen.data["delta"]["content"]["text"].as_str().unwrap()),
            _ => {}
        }
    }
    world
        .api
        .send_events(&session, &[json!({ "type": "user.interrupt" })])
        .await;
    let events = world.api.wait_idle(&session).await;
    let said = of_type(&events, "agent.message");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["id"], id);
    assert!(
        text(said[0]).starts_with(&shown),
        "{shown:?} was shown, {:?} was kept",
        text(said[0])
    );
    assert!(text(said[0]).len() < 17 * 400);
    crate::world::log::check(&events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session() {
    let world = World::start().await;
    let session = session(&world.api).await;
    let mut streams = [
        world.api.stream(&session, "").await,
        world.api.stream(&session, "").await,
    ];
    world.api.delete(&format!("/v1/sessions/{session}")).await.ok();
    for stream in &mut streams {
        assert_eq!(stream.next().await.event, "session.deleted");
        let end = timeout(SOON, stream.try_next()).await.expect("the stream stays open");
        assert!(end.expect("the stream was cut").is_none());
    }
    let answer = Api::send(
        world
            .api
            .request(Method::GET, &format!("/v1/sessions/{session}/events/stream")),
    )
    .await;
    answer.refused(404, &["session"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_session_is_archived() {
    let world = World::start().await;
    let session = session(&world.api).await;
    let mut stream = world.api.stream(&session, "").await;
    world
        .api
        .post(&format!("/v1/sessions/{session}/archive"), json!({}))
        .await
        .ok();
    let seen = stream.through(|e| e["type"] == "session.status_terminated").await;
    assert_eq!(seen, world.api.events(&session).await);
    let end = timeout(SOON, stream.try_next()).await.expect("the stream stays open");
    assert!(end.expect("the stream was cut").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_shows_that_it_lives() {
    let often = "[limits]\nstream_ping = \"300ms\"\n";
    let world = World::start_with(ServerOptions::default().settings(often)).await;
    let session = session(&world.api).await;
    let mut stream = world.api.stream(&session, "").await;
    for _ in 0..2 {
        let seen = timeout(SOON, stream.try_next())
            .await
            .expect("no sign of life")
            .unwrap()
            .expect("the stream ended");
        assert_eq!((seen.event.as_str(), &seen.data), ("ping", &json!({ "type": "ping" })));
    }
    world.api.send_events(&session, &[message("[]")]).await;
    stream.through(is_rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_does_not_keep_up_is_cut_off_and_nobody_else() {
    let world = World::start().await;
    let session = session(&world.api).await;
    // A client with a small window that reads nothing.
    let address = world.api.base_url().strip_prefix("http://").unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(address).await.unwrap();
    let head = format!(
        "GET /v1/sessions/{session}/events/stream HTTP/1.1\r\nhost: localhost\r\nx-api-key: {ADMIN_KEY}\r\n\
         anthropic-version: 2023-06-01\r\nanthropic-beta: {BETA}\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 512];
    let count = slow.read(&mut first).await.unwrap();
    assert!(first[..count].starts_with(b"HTTP/1.1 200"));
    let mut quick = world.api.stream(&session, "").await;

    // The model hangs, so messages wait; each is shown at once. They are more than the client's window, the kernel's
    // buffers and the backlog hold together.
    let hang = json!([{ "say": [{ "text": "never" }], "faults": [{ "hang": "silence" }] }]);
    world.api.send_events(&session, &[script_message(hang)]).await;
    let large = message(&"x".repeat(50_000));
    let (mut sent, mut seen) = (0, 0);
    while sent < 900 {
        sent += world.api.send_events(&session, &vec![large.clone(); 100]).await.len();
        while seen < sent {
            let event = quick.next().await;
            seen += usize::from(event.event == "user.message" && event.data["content"] == large["content"]);
        }
    }
    // The slow one gets what was on its way, and then the end of the stream: no silent gap.
    let mut got = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    while !got.ends_with(b"0\r\n\r\n") {
        let read = timeout(SOON, slow.read(&mut buffer))
            .await
            .expect("the slow listener keeps its stream");
        match read {
            Ok(0) | Err(_) => break,
            Ok(count) => got.extend_from_slice(&buffer[..count]),
        }
    }
    let shown = String::from_utf8_lossy(&got).matches("event: user.message").count();
    assert!(shown < sent, "it was not slow: {shown} of {sent}");
    assert_eq!(
        of_type(&world.api.events(&session).await, "user.message").len(),
        sent + 1
    );
}
