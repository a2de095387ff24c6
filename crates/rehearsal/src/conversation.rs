//! The conversation as a play sees it: human messages, and between the answers that followed each of them the
//! tool results.
//!
//! A user message with anything but tool results is a human message. Nothing is kept between requests: the place
//! in the play is counted from the request alone, so it survives a restart of either side.

use serde_json::Value;

/// All human messages of a request, in order. There is at least one.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub humans: Vec<Human>,
    pub system: String,
    pub tools: Vec<String>,
}

/// One human message and what followed it.
#[derive(Debug, Default)]
pub(crate) struct Human {
    pub text: String,
    /// Tool results that came in before answer n; the last entry is for the answer that is asked for now.
    pub before_answer: Vec<Results>,
}

/// The tool results of one user message.
#[derive(Debug, Default, Clone)]
pub(crate) struct Results {
    pub text: String,
    pub any_error: bool,
}

impl Conversation {
    /// Reads a validated request.
    pub(crate) fn read(request: &Value) -> Self {
        let mut humans: Vec<Human> = Vec::new();
        for message in request["messages"].as_array().into_iter().flatten() {
            match message["role"].as_str() {
                Some("user") => {
                    let (human_text, results) = read_user(&message["content"]);
                    match human_text {
                        // Of two human messages in a row the first was never answered: what was said last counts.
                        Some(text) => {
                            humans.push(Human {
                                text,
                                before_answer: vec![results],
                            });
                        }
                        None => {
                            if let Some(now) = humans.last_mut().and_then(|human| human.before_answer.last_mut()) {
                                now.add(&results.text, results.any_error);
                            }
                        }
                    }
                }
                Some("assistant") => {
                    if let Some(human) = humans.last_mut() {
                        human.before_answer.push(Results::default());
                    }
                }
                _ => {}
            }
        }
        if humans.is_empty() {
            humans.push(Human {
                text: String::new(),
                before_answer: vec![Results::default()],
            });
        }
        let tools = request["tools"].as_array().into_iter().flatten();
        Self {
            humans,
            system: text_of(&request["system"]),
            tools: tools
                .filter_map(|tool| tool["name"].as_str().map(str::to_owned))
                .collect(),
        }
    }

    /// The first human message.
    pub(crate) fn first_user(&self) -> &str {
        self.humans.first().map_or("", |human| &human.text)
    }

    /// Answers so far, in the whole conversation.
    pub(crate) fn answers(&self) -> usize {
        self.humans.iter().map(|human| human.before_answer.len() - 1).sum()
    }
}

impl Results {
    fn add(&mut self, text: &str, error: bool) {
        if !self.text.is_empty() && !text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.any_error |= error;
    }
}

/// The human part of a user message, if it has one, and its tool results.
fn read_user(content: &Value) -> (Option<String>, Results) {
    let mut results = Results::default();
    let Value::Array(blocks) = content else {
        return (Some(text_of(content)), results);
    };
    let mut human: Option<String> = None;
    for block in blocks {
        if block["type"] == "tool_result" {
            results.add(&text_of(&block["content"]), block["is_error"] == true);
            continue;
        }
        // Messages that came in together stand as blocks of one: what was said last counts.
        let text = block["text"].as_str().unwrap_or_default();
        if human.is_none() || !text.is_empty() {
            human = Some(text.to_owned());
        }
    }
    (human, results)
}

/// The text of a string or of the text blocks of a list.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks
            .iter()
            .filter_map(|block| block["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_answers_since_the_last_human_message() {
        let request = json!({"messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "t", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "first"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "b", "name": "t", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "b", "is_error": true, "content": [{"type": "text", "text": "second"}]},
                {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "hm"},
        ]});
        let conversation = Conversation::read(&request);
        assert_eq!(conversation.humans.len(), 2);
        assert_eq!(conversation.humans[0].before_answer.len(), 3);
        assert_eq!(conversation.humans[0].before_answer[1].text, "first");
        assert_eq!(conversation.humans[1].text, "two");
        assert_eq!(conversation.humans[1].before_answer[0].text, "second");
        assert!(conversation.humans[1].before_answer[0].any_error);
        assert_eq!(conversation.humans[1].before_answer.len(), 2);
        assert_eq!(conversation.answers(), 3);
    }
}
