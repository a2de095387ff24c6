//! Checks a model request against the Messages API and against the log that it was made from.

use outwork_wire::log::Private;
use outwork_wire::model::{ModelAnswer, ModelRequest, StopReason};
use outwork_wire::{ContentBlock, EventBody};
use serde_json::Value;

use super::{World, messages_api};

impl World {
    /// Checks a request against the Messages API and against the log: nothing missing, nothing twice.
    pub(super) fn check_request(&self, request: &ModelRequest) {
        let answers: Vec<&ModelAnswer> = self
            .log
            .iter()
            .filter_map(|entry| match &entry.private {
                Some(Private::Answer { answer }) => Some(answer),
                _ => None,
            })
            .collect();
        let paused = answers
            .last()
            .is_some_and(|a| a.stop_reason == Some(StopReason::PauseTurn));
        if let Err(problem) = messages_api::validate(request, paused) {
            panic!(
                "the Messages API would refuse the request: {problem}\n{:#?}",
                request.messages
            );
        }
        let thoughts: Vec<&Value> = answers
            .iter()
            .flat_map(|a| &a.content)
            .filter(|b| messages_api::is_thinking(b))
            .collect();
        for block in messages_api::blocks(request, "assistant").filter(|b| messages_api::is_thinking(b)) {
            assert!(thoughts.contains(&block), "the model never thought {block}");
        }
        if let Some(answer) = answers.last().filter(|a| !a.partial && has_calls(a)) {
            let message = request
                .messages
                .iter()
                .rev()
                .find(|m| m["role"] == "assistant")
                .expect("the answer is in the conversation");
            let blocks = message["content"].as_array().expect("content is a list");
            let wanted = up_to_last_call(&answer.content);
            assert!(
                up_to_last_call(blocks).ends_with(&wanted),
                "thinking and calls of the latest answer are not verbatim"
            );
        }
        for result in messages_api::blocks(request, "user").filter(|b| b["type"] == "tool_result") {
            self.check_result(result);
        }
        assert_eq!(
            messages_api::blocks(request, "user")
                .filter(|b| messages_api::is_text(b))
                .map(|b| b["text"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>(),
            self.said(),
            "the conversation does not hold what was said, once and in order"
        );
    }

    /// A result in a request says what its event says; one without an event is a denial.
    fn check_result(&self, result: &Value) {
        let call = self.call_event(result["tool_use_id"].as_str().expect("a result names its call"));
        let told: Vec<&str> = result["content"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|b| b["text"].as_str())
            .collect();
        let event = self.log.iter().find_map(|e| match &e.event.body {
            EventBody::UserToolResult {
                tool_use_id: id,
                content,
                is_error,
                ..
            }
            | EventBody::AgentToolResult {
                tool_use_id: id,
                content,
                is_error,
            }
            | EventBody::AgentMcpToolResult {
                mcp_tool_use_id: id,
                content,
                is_error,
            }
            | EventBody::UserCustomToolResult {
                custom_tool_use_id: id,
                content,
                is_error,
                ..
            } if *id == call => Some((content, is_error.unwrap_or(false))),
            _ => None,
        });
        let Some((content, is_error)) = event else {
            assert_eq!(result["is_error"], true, "a denial is an error");
            assert_eq!(told.len(), 1, "a denial says why");
            return;
        };
        let given: Vec<&str> = content
            .iter()
            .filter_map(|block| match block {
                ContentBlock::Text { text } if !text.trim().is_empty() => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(
            (told, result["is_error"].as_bool()),
            (given, Some(is_error)),
            "another result than its event"
        );
    }

    /// Every text of a processed user message, in the order of the log.
    fn said(&self) -> Vec<String> {
        self.log
            .iter()
            .filter(|e| e.event.processed_at.is_some())
            .filter_map(|e| match &e.event.body {
                EventBody::UserMessage { content } => Some(content),
                _ => None,
            })
            .flatten()
            .filter_map(|block| match block {
                ContentBlock::Text { text } => Some(text.clone()),
                _ => None,
            })
            .collect()
    }
}

fn has_calls(answer: &ModelAnswer) -> bool {
    answer.content.iter().any(|b| b["type"] == "tool_use")
}

/// The thoughts and calls of a message; thoughts behind the last call need not be sent back.
fn up_to_last_call(content: &[Value]) -> Vec<&Value> {
    let end = content
        .iter()
        .rposition(|b| b["type"] == "tool_use")
        .map_or(0, |last| last + 1);
    content[..end].iter().filter(|b| !messages_api::is_text(b)).collect()
}
