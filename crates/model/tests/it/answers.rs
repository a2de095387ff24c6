//! Answers: whole, cut short by a person, with their headers and keys.

use std::sync::{Arc, Mutex};

use outwork_model::{AuthStyle, Error, ModelClient, Options};
use outwork_wire::model::{BlockKind, FailureKind, ModelDelta, ModelUsage, StopReason};
use secrecy::SecretString;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{KEY, ask, client, fail, options, request, server};

#[tokio::test]
async fn an_answer_is_kept_whole_and_can_be_sent_back() {
    let server = server().await;
    let client = client(&server);
    let steps = json!([
        {"say": [{"thinking": "Ünïcode thoughts 🦀, long enough to be sent in several pieces."}, {"redacted_thinking": "r"},
                 {"text": "I look."}, {"raw": {"type": "rehearsal_hologram", "depth": 3}},
                 {"tool_use": {"name": "bash", "input": {"command": "ls -la /somewhere/quite/deep", "z": [1, {"a": null}]}}},
                 {"tool_use": {"name": "bash", "input": {}}}]},
        {"expect": "file", "say": [{"text": "{{result}} it is."}]},
    ]);
    let mut request = request(steps);
    let mut deltas = Vec::new();
    let answer = client
        .stream(&request, CancellationToken::new(), |delta| deltas.push(delta))
        .await
        .unwrap();
    let kinds: Vec<&str> = answer
        .content
        .iter()
        .map(|block| block["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "thinking",
            "redacted_thinking",
            "text",
            "rehearsal_hologram",
            "tool_use",
            "tool_use"
        ]
    );
    assert_eq!(
        answer.content[0]["thinking"],
        "Ünïcode thoughts 🦀, long enough to be sent in several pieces."
    );
    assert_eq!(answer.content[3], json!({"type": "rehearsal_hologram", "depth": 3}));
    assert_eq!(
        answer.content[4]["input"],
        json!({"command": "ls -la /somewhere/quite/deep", "z": [1, {"a": null}]})
    );
    assert_eq!(answer.content[5]["input"], json!({}));
    assert_eq!(
        (answer.stop_reason.as_ref(), answer.partial),
        (Some(&StopReason::ToolUse), false)
    );
    let usage = answer.usage;
    assert!(usage.output_tokens > 10 && usage.input_tokens > 10, "{usage:?}");
    assert!(
        usage.ephemeral_1h_input_tokens > 0 && usage.ephemeral_5m_input_tokens == 0,
        "{usage:?}"
    );
    assert_eq!(usage.cache_creation_input_tokens, usage.ephemeral_1h_input_tokens);
    assert_eq!(
        deltas[0],
        ModelDelta::BlockStart {
            index: 0,
            kind: BlockKind::Thinking
        }
    );
    assert!(deltas.contains(&ModelDelta::BlockStart {
        index: 4,
        kind: BlockKind::ToolUse
    }));
    assert_eq!(deltas.last(), Some(&ModelDelta::BlockStop { index: 5 }));

    // The server checks signatures and pairing: it takes the blocks back only as they were.
    request
        .messages
        .push(json!({"role": "assistant", "content": answer.content}));
    let results = [4, 5]
        .map(|index| json!({"type": "tool_result", "tool_use_id": answer.content[index]["id"], "content": "file"}));
    request.messages.push(json!({"role": "user", "content": results}));
    let answer = ask(&client, &request).await.unwrap();
    assert_eq!(answer.content, [json!({"type": "text", "text": "file\nfile it is."})]);
    assert_eq!(answer.stop_reason, Some(StopReason::EndTurn));
    assert!(answer.usage.cache_read_input_tokens > 0);

    let seen = server.requests();
    assert_eq!(seen[0].body["stream"], true);
    assert_eq!(seen[0].headers["anthropic-version"], "2023-06-01");
    assert!(seen[0].headers["user-agent"].starts_with("outwork/"));
}

#[tokio::test]
async fn stop_reasons_and_refusals() {
    let server = server().await;
    let client = client(&server);
    let details = json!({"type": "refusal", "category": "cyber", "explanation": "no"});
    let answer = ask(
        &client,
        &request(json!([{"stop_reason": "refusal", "stop_details": details}])),
    )
    .await
    .unwrap();
    assert_eq!(
        (answer.stop_reason, answer.stop_details),
        (Some(StopReason::Refusal), Some(details))
    );
    assert!(answer.content.is_empty());
    for (name, reason) in [
        ("max_tokens", StopReason::MaxTokens),
        ("pause_turn", StopReason::PauseTurn),
        ("model_context_window_exceeded", StopReason::ModelContextWindowExceeded),
    ] {
        let answer = ask(
            &client,
            &request(json!([{"say": [{"text": "x"}], "stop_reason": name}])),
        )
        .await
        .unwrap();
        assert_eq!(answer.stop_reason, Some(reason));
    }
    // A limit that falls into a tool call leaves the call's place only.
    let mut cut = request(
        json!([{"say": [{"text": "I run"}, {"tool_use": {"name": "bash", "input": {"command": "x".repeat(100)}}}]}]),
    );
    cut.max_tokens = 10;
    let answer = ask(&client, &cut).await.unwrap();
    assert_eq!(answer.content, [json!({"type": "text", "text": "I run"}), json!(null)]);
    assert_eq!(answer.stop_reason, Some(StopReason::MaxTokens));
    // Anywhere else it is the provider's mistake.
    let broken = request(json!([{"say": [{"tool_use": {"name": "bash", "input_json": "{\"command\": "}}]}]));
    assert_eq!(ask(&client, &broken).await.unwrap_err().kind, FailureKind::Nonsense);
}

#[tokio::test]
async fn a_cancelled_answer_is_what_was_seen_so_far() {
    let server = server().await;
    let client = client(&server);
    // The answer hangs within its text, after all its deltas but one.
    let words = "one two three four five six seven eight nine ten eleven twelve";
    let steps = json!([{"say": [{"thinking": "t"}, {"text": words}, {"tool_use": {"name": "bash", "input": {}}}],
                        "faults": [{"hang": "ping", "after_events": 8}]}]);
    let cancel = CancellationToken::new();
    let seen = Arc::new(Mutex::new(String::new()));
    let (stop, watched) = (cancel.clone(), seen.clone());
    let answer = client
        .stream(&request(steps), cancel, move |delta| {
            if let ModelDelta::Text { text, .. } = delta {
                watched.lock().unwrap().push_str(&text);
                stop.cancel();
            }
        })
        .await
        .unwrap();
    assert!(answer.partial && answer.stop_reason.is_none());
    assert!(answer.usage.input_tokens > 0 || answer.usage.cache_creation_input_tokens > 0);
    let seen = seen.lock().unwrap().clone();
    assert!(!seen.is_empty() && words.starts_with(&seen));
    assert_eq!(answer.content[0]["type"], "thinking");
    assert_eq!(answer.content[1], json!({"type": "text", "text": seen}));
    assert_eq!(answer.content.len(), 2);

    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let answer = client.stream(&request(json!([])), cancelled, |_| ()).await.unwrap();
    assert_eq!(
        (answer.content.len(), answer.partial, answer.usage),
        (0, true, ModelUsage::default())
    );
}

#[tokio::test]
async fn cancelling_before_the_head_comes_returns_at_once() {
    let server = server().await;
    let client = client(&server);
    let cancel = CancellationToken::new();
    let steps = request(json!([{"faults": [{"hang": "headers"}]}]));
    let call = client.stream(&steps, cancel.clone(), |_| ());
    let stop = async {
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (answer, ()) = tokio::join!(call, stop);
    assert!(answer.unwrap().partial);
}

#[tokio::test]
async fn the_key_never_shows() {
    let server = server().await;
    let client = client(&server);
    let failure = fail(
        &client,
        json!({"status": 401, "message": format!("the key {KEY} is not known")}),
    )
    .await;
    assert_eq!(failure.kind, FailureKind::Authentication);
    assert!(
        failure.message.contains("[key]") && !failure.message.contains(KEY),
        "{failure}"
    );
    assert!(!format!("{client:?} {:?}", options(&server)).contains(KEY));

    let wrong = Options {
        api_key: SecretString::from("sk-wrong"),
        ..options(&server)
    };
    let failure = ask(&ModelClient::new(wrong).unwrap(), &request(json!([])))
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Authentication);
    let bearer = Options {
        auth: AuthStyle::Bearer,
        ..options(&server)
    };
    let steps = request(json!([{"say": [{"text": "hello"}]}]));
    assert!(ask(&ModelClient::new(bearer).unwrap(), &steps).await.is_ok());

    let line_break = Options {
        api_key: SecretString::from("sk-\n"),
        ..options(&server)
    };
    assert!(matches!(ModelClient::new(line_break), Err(Error::ApiKey)));
    let empty = Options {
        api_key: SecretString::from(""),
        ..options(&server)
    };
    assert!(matches!(ModelClient::new(empty), Err(Error::ApiKey)));
    let header = Options {
        headers: vec![("a b".into(), "c".into())],
        ..options(&server)
    };
    assert!(ModelClient::new(header).unwrap_err().to_string().contains("`a b`"));
}

#[tokio::test]
async fn headers_and_one_connection_for_many_requests() {
    let server = server().await;
    let beta = vec![("anthropic-beta".to_owned(), "context-1m".to_owned())];
    let client = ModelClient::new(Options {
        headers: beta,
        user_agent: "me/1".into(),
        ..options(&server)
    })
    .unwrap();
    for _ in 0..5 {
        ask(&client, &request(json!([{"say": [{"text": "hello"}]}])))
            .await
            .unwrap();
    }
    let seen = server.requests();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter().all(|request| request.peer == seen[0].peer),
        "all came over one connection"
    );
    assert_eq!(
        (
            seen[0].headers["anthropic-beta"].as_str(),
            seen[0].headers["user-agent"].as_str()
        ),
        ("context-1m", "me/1")
    );
}

#[tokio::test]
async fn models() {
    let server = server().await;
    let client = client(&server);
    let ids: Vec<String> = client
        .list_models()
        .await
        .unwrap()
        .into_iter()
        .map(|model| model.id)
        .collect();
    assert_eq!(ids, ["rehearsal", "rehearsal/echo", "rehearsal/script"]);
    let model = client.retrieve_model("rehearsal/script").await.unwrap();
    assert_eq!(
        (model.id.as_str(), model.max_input_tokens),
        ("rehearsal/script", Some(200_000))
    );
    assert_eq!(model.extra["type"], "model");
    let failure = client.retrieve_model("none/../x").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Rejected);
    assert!(failure.message.contains("none/../x"), "{failure}");
}

#[tokio::test]
async fn many_at_once() {
    let server = server().await;
    let client = client(&server);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..64 {
        let client = client.clone();
        calls.spawn(async move {
            let text = format!("answer {number} ").repeat(200);
            let answer = ask(&client, &request(json!([{"say": [{"text": text}]}])))
                .await
                .unwrap();
            assert_eq!(answer.content[0]["text"], text);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}
