//! Which play, which scene, which step: from a request to the answer that the scenario has for it.
//!
//! A play never pretends. When a tool result is not what the step expects, when a capture finds nothing, when a
//! tool that the step calls is not offered, when the play is over: the answer is a plain text that says so, and it
//! ends the turn.

mod cursor;
mod script;

use std::borrow::Cow;

use serde_json::Value;

use crate::conversation::{Conversation, Results};
use crate::fault::Fault;
use crate::pattern::CaptureSource;
use crate::scenario::{Block, Branch, Condition, DEFAULT_CONTEXT_TOKENS, Pace, Play, Scenario, Step, StopReason};
use crate::seal;
use crate::template::Names;
use cursor::Cursor;

/// Plays that are always there.
pub(crate) const BUILT_IN: [&str; 2] = ["echo", "script"];

/// Whose steps are played.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Selected<'a> {
    /// A play of the scenario.
    Play(&'a Play),
    /// The steps stand in the human message.
    Script,
    /// The answer is the human message.
    Echo,
}

/// What the request says about thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// No thinking blocks in the answer.
    Off,
    /// Thinking blocks with their text.
    Shown,
    /// Thinking blocks with a signature and no text.
    Omitted,
}

/// What the model does with a request.
#[derive(Debug)]
pub(crate) struct Performance<'a> {
    pub scene: usize,
    pub step: usize,
    pub pace: Pace,
    pub faults: Cow<'a, [Fault]>,
    pub answer: Answer,
    /// Set when the play did not go as it is written.
    pub astray: bool,
}

/// The content of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub blocks: Vec<AnswerBlock>,
    pub stop_reason: StopReason,
    pub stop_sequence: Option<String>,
    pub stop_details: Option<Value>,
}

/// A content block of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBlock {
    Thinking {
        text: String,
        signature: String,
    },
    Redacted {
        data: String,
    },
    Text(String),
    ToolUse {
        id: String,
        name: String,
        input_json: String,
    },
    Raw(Value),
}

/// Finds the play of a model id, or says which model is not known.
pub(crate) fn select<'a>(scenario: &'a Scenario, model: &str, first_user: &str) -> Option<Selected<'a>> {
    if let Some(name) = model.strip_prefix("rehearsal/") {
        return match name {
            "script" => Some(Selected::Script),
            "echo" => Some(Selected::Echo),
            name => scenario.play(name).map(Selected::Play),
        };
    }
    if model != "rehearsal" && !scenario.models.iter().any(|known| known == model) {
        return None;
    }
    let fitting = scenario
        .plays
        .iter()
        .find(|play| play.matches.as_ref().is_some_and(|m| m.matches(first_user)));
    let default = scenario.default.as_deref().and_then(|name| scenario.play(name));
    Some(match fitting.or(default).or(scenario.plays.first()) {
        Some(play) => Selected::Play(play),
        None => Selected::Echo,
    })
}

impl Selected<'_> {
    /// The name of the play.
    pub(crate) fn name(&self) -> &str {
        match self {
            Selected::Play(play) => &play.name,
            Selected::Script => "script",
            Selected::Echo => "echo",
        }
    }

    /// The context window in tokens.
    pub(crate) fn context_tokens(&self) -> u64 {
        match self {
            Selected::Play(play) => play.context_tokens.unwrap_or(DEFAULT_CONTEXT_TOKENS),
            Selected::Script | Selected::Echo => DEFAULT_CONTEXT_TOKENS,
        }
    }

    /// Whether the answer before this request was a pause, so that a request may end with an assistant message.
    pub(crate) fn paused_before(&self, conversation: &Conversation, model: &str) -> bool {
        let Some(last) = conversation.humans.last() else {
            return false;
        };
        let answers = last.before_answer.len() - 1;
        answers > 0 && {
            let mut names = Names::default();
            names.set("model", model);
            let walk = walk(*self, conversation, names, answers - 1);
            walk.is_ok_and(|found| {
                found
                    .choose(conversation)
                    .is_ok_and(|c| c.1 == Some(StopReason::PauseTurn))
            })
        }
    }
}

/// Plays one step.
pub(crate) fn perform<'a>(
    selected: Selected<'a>,
    conversation: &Conversation,
    model: &str,
    thinking: Thinking,
) -> Performance<'a> {
    let scene = conversation.humans.len() - 1;
    let answers = conversation
        .humans
        .last()
        .map_or(0, |human| human.before_answer.len() - 1);
    let mut performance = Performance {
        scene,
        step: answers,
        pace: Pace::default(),
        faults: Cow::Borrowed(&[]),
        answer: plain(
            conversation
                .humans
                .last()
                .map_or_else(String::new, |human| human.text.clone()),
        ),
        astray: false,
    };
    if matches!(selected, Selected::Echo) {
        return performance;
    }
    let mut names = Names::default();
    names.set("model", model);
    let outcome = walk(selected, conversation, names, answers).and_then(|found| {
        performance.pace = found.pace;
        performance.faults = Cow::Owned(found.step.faults.clone());
        found.answer(conversation, thinking)
    });
    match outcome {
        Ok(answer) => performance.answer = answer,
        Err(fault) => {
            performance.astray = true;
            let (name, scene, step) = (selected.name(), scene + 1, answers + 1);
            performance.answer = plain(format!("Rehearsal play `{name}`, scene {scene}, step {step}: {fault}"));
        }
    }
    performance
}

fn plain(text: String) -> Answer {
    let text = if text.trim().is_empty() {
        "(nothing to say)".to_owned()
    } else {
        text
    };
    Answer {
        blocks: vec![AnswerBlock::Text(text)],
        stop_reason: StopReason::EndTurn,
        stop_sequence: None,
        stop_details: None,
    }
}

/// The step that answers now, with everything that its templates may name.
struct Found {
    step: Step,
    pace: Pace,
    names: Names,
    results: Results,
    user: String,
}

/// What a step says, and why it ends.
type Choice<'a> = (&'a [Block], Option<StopReason>, Option<&'a Value>);

/// Walks the conversation from its start, so that captures of earlier steps are known.
fn walk(
    selected: Selected<'_>,
    conversation: &Conversation,
    mut names: Names,
    last_answer: usize,
) -> Result<Found, String> {
    names.set("first_user", conversation.first_user());
    names.set("system", conversation.system.as_str());
    names.set("tools", conversation.tools.join(", "));
    names.set("count", conversation.answers().to_string());
    names.set("open", "{{");
    names.set("index", "0");
    names.set("session", &session_of(conversation)[..16]);
    let last_human = conversation.humans.len() - 1;
    for (scene, human) in conversation.humans.iter().enumerate() {
        let (steps, pace) = steps_of(selected, scene, &human.text).or_else(|fault| match scene == last_human {
            true => Err(fault),
            false => Ok((Cow::Borrowed(&[][..]), Pace::default())),
        })?;
        names.set("user", human.text.as_str());
        names.set("scene", (scene + 1).to_string());
        let mut cursor = Cursor::new(&steps);
        for (answer, results) in human.before_answer.iter().enumerate() {
            let asked = scene == last_human && answer == last_answer;
            let met = cursor.next(|condition| holds(condition, results, &human.text, conversation));
            let Some((step, round)) = met else {
                if asked {
                    return Err(format!(
                        "the play has no further step ({} answers so far in this scene).",
                        answer
                    ));
                }
                break;
            };
            names.set("step", (answer + 1).to_string());
            names.set("round", round.to_string());
            names.set("result", results.text.as_str());
            let taken = take_names(step, results, &human.text, conversation, &mut names);
            if asked {
                taken?;
                return Ok(Found {
                    step: step.clone(),
                    pace: step.pace.unwrap_or(pace),
                    names,
                    results: results.clone(),
                    user: human.text.clone(),
                });
            }
        }
    }
    Err("the conversation has no place in the play.".to_owned())
}

fn session_of(conversation: &Conversation) -> String {
    use sha2::Digest as _;
    seal::hex(&sha2::Sha256::digest(conversation.first_user().as_bytes()))
}

/// Checks what a step expects and keeps what it captures.
fn take_names(
    step: &Step,
    results: &Results,
    user: &str,
    conversation: &Conversation,
    names: &mut Names,
) -> Result<(), String> {
    for pattern in &step.expect {
        if !pattern.matches(&results.text) {
            let expected = pattern.as_str();
            return Err(format!(
                "expected a tool result that matches `{expected}`, but got:\n{}",
                excerpt(&results.text)
            ));
        }
        for (name, value) in pattern.named_groups(&results.text) {
            names.set(&name, value);
        }
    }
    for (name, capture) in &step.capture {
        let text = match capture.from {
            CaptureSource::Result => &results.text,
            CaptureSource::User => user,
            CaptureSource::System => &conversation.system,
        };
        match capture.pattern.first_group(text).or(capture.default.clone()) {
            Some(value) => names.set(name, value),
            None => {
                let pattern = capture.pattern.as_str();
                return Err(format!(
                    "wanted `{name}` by `{pattern}`, but it does not occur in:\n{}",
                    excerpt(text)
                ));
            }
        }
    }
    Ok(())
}

fn excerpt(text: &str) -> String {
    const LIMIT: usize = 600;
    match text.char_indices().nth(LIMIT) {
        None if text.is_empty() => "(nothing)".to_owned(),
        None => text.to_owned(),
        Some((end, _)) => format!("{} [...]", &text[..end]),
    }
}

fn holds(condition: &Condition, results: &Results, user: &str, conversation: &Conversation) -> bool {
    let Condition {
        result,
        not_result,
        error,
        user: user_pattern,
        system,
        offered,
    } = condition;
    result.as_ref().is_none_or(|pattern| pattern.matches(&results.text))
        && not_result
            .as_ref()
            .is_none_or(|pattern| !pattern.matches(&results.text))
        && error.is_none_or(|error| error == results.any_error)
        && user_pattern.as_ref().is_none_or(|pattern| pattern.matches(user))
        && system
            .as_ref()
            .is_none_or(|pattern| pattern.matches(&conversation.system))
        && offered.as_ref().is_none_or(|name| conversation.tools.contains(name))
}

/// The steps of a scene; a script brings its own.
fn steps_of<'a>(selected: Selected<'a>, scene: usize, user: &str) -> Result<(Cow<'a, [Step]>, Pace), String> {
    match selected {
        Selected::Play(play) => Ok((Cow::Borrowed(play.steps_for(scene)), play.pace)),
        Selected::Script => script::parse(user).map(|scene| (Cow::Owned(scene.steps), Pace::default())),
        Selected::Echo => Err("this play has no steps.".to_owned()),
    }
}

impl Found {
    fn choose(&self, conversation: &Conversation) -> Result<Choice<'_>, String> {
        let taken = self
            .step
            .when
            .iter()
            .find(|branch| holds(&branch.condition, &self.results, &self.user, conversation));
        match taken {
            Some(Branch {
                say,
                stop_reason,
                stop_details,
                ..
            }) => Ok((say, *stop_reason, stop_details.as_ref())),
            None if !self.step.when.is_empty() && self.step.say.is_empty() => Err(format!(
                "no `when` of the step fits, and it has no `say`. The tool results were:\n{}",
                excerpt(&self.results.text)
            )),
            None => Ok((&self.step.say, self.step.stop_reason, self.step.stop_details.as_ref())),
        }
    }

    fn answer(mut self, conversation: &Conversation, thinking: Thinking) -> Result<Answer, String> {
        let (say, stop_reason, stop_details) = self.choose(conversation)?;
        let (say, stop_details) = (say.to_vec(), stop_details.cloned());
        let mut blocks = Vec::new();
        let mut signatures = Vec::new();
        for block in &say {
            for index in 0..block.repeat.unwrap_or(1) {
                self.names.set("index", index.to_string());
                blocks.extend(self.block(block, conversation, thinking, &mut signatures)?);
            }
        }
        let calls = blocks.iter().any(|block| matches!(block, AnswerBlock::ToolUse { .. }));
        let usual = if calls {
            StopReason::ToolUse
        } else {
            StopReason::EndTurn
        };
        let stop_reason = stop_reason.unwrap_or(usual);
        Ok(Answer {
            blocks,
            stop_reason,
            stop_sequence: None,
            stop_details,
        })
    }

    fn block(
        &self,
        block: &Block,
        conversation: &Conversation,
        thinking: Thinking,
        signatures: &mut Vec<String>,
    ) -> Result<Option<AnswerBlock>, String> {
        let times = block.multiply.unwrap_or(1) as usize;
        if let Some(text) = &block.text {
            return Ok(Some(AnswerBlock::Text(self.names.render(text)?.repeat(times))));
        }
        if let Some(raw) = &block.raw {
            return Ok(Some(AnswerBlock::Raw(raw.clone())));
        }
        if let Some(call) = &block.tool_use {
            if !call.unlisted && !conversation.tools.contains(&call.name) {
                let offered = conversation.tools.join(", ");
                return Err(format!(
                    "wants to call the tool `{}`, but the request offers only: {offered}",
                    call.name
                ));
            }
            let input_json = match &call.input_json {
                Some(json) => self.names.render(json)?,
                None => self.names.render_value(&call.input)?.to_string(),
            };
            let id = seal::tool_use_id(signatures);
            return Ok(Some(AnswerBlock::ToolUse {
                id,
                name: call.name.clone(),
                input_json,
            }));
        }
        if thinking == Thinking::Off {
            return Ok(None);
        }
        if let Some(text) = &block.thinking {
            let text = match thinking {
                Thinking::Omitted => String::new(),
                Thinking::Off | Thinking::Shown => self.names.render(text)?.repeat(times),
            };
            let signature = seal::sign_thinking(&text);
            signatures.push(signature.clone());
            return Ok(Some(AnswerBlock::Thinking { text, signature }));
        }
        let data = seal::seal_redacted(block.redacted_thinking.as_deref().unwrap_or_default());
        signatures.push(data.clone());
        Ok(Some(AnswerBlock::Redacted { data }))
    }
}
