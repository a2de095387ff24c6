//! Scenario files: what the rehearsal model says, step by step.
//!
//! The format is TOML, described in the documentation of this crate. It is strict: a key that is not known is
//! refused by its name, as are a pattern that does not compile, a template that names nothing, a step that says
//! nothing. A `Scenario` that exists can be played.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::fault::Fault;
use crate::pattern::{Capture, Pattern, one_or_many};
use crate::template;

/// How often a loop or a block may repeat.
const REPEAT_LIMIT: u32 = 1_000_000;
/// Context window of a play that names none, in tokens.
pub(crate) const DEFAULT_CONTEXT_TOKENS: u64 = 200_000;

/// A scenario file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The play of model `rehearsal` when no `match` fits; without it, the first play.
    pub default: Option<String>,
    /// Further model ids that are played like `rehearsal`.
    #[serde(default)]
    pub models: Vec<String>,
    /// The plays.
    #[serde(default, rename = "play")]
    pub plays: Vec<Play>,
}

/// One play: the scenes of a conversation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Play {
    /// Its name: model `rehearsal/NAME` selects it.
    pub name: String,
    /// Model `rehearsal` selects the first play whose pattern fits the first user message.
    #[serde(rename = "match")]
    pub matches: Option<Pattern>,
    /// Context window in tokens; a longer prompt is refused.
    pub context_tokens: Option<u64>,
    /// Pace of steps that name none.
    #[serde(default)]
    pub pace: Pace,
    /// Scene n answers human message n; the last scene answers all later ones.
    #[serde(default, rename = "scene")]
    pub scenes: Vec<Scene>,
    /// The steps of a play with one scene.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// What happens after one human message.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// Step n is the nth answer after the human message.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
}

/// One answer of the model, or a loop of answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// All must match the text of the tool results that came in, or the play stops and says so.
    #[serde(default, deserialize_with = "one_or_many")]
    pub expect: Vec<Pattern>,
    /// Values kept for later templates.
    #[serde(default)]
    pub capture: BTreeMap<String, Capture>,
    /// Alternatives to `say`; the first whose condition holds is taken.
    #[serde(default)]
    pub when: Vec<Branch>,
    /// The content blocks.
    #[serde(default)]
    pub say: Vec<Block>,
    /// Without it: `tool_use` if there is a tool call, else `end_turn`.
    pub stop_reason: Option<StopReason>,
    /// Sent as it is, with stop reason `refusal`.
    pub stop_details: Option<Value>,
    /// Faults before this step succeeds, used up in order.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Pace of this step.
    pub pace: Option<Pace>,
    /// How often this step, or the loop `steps`, is played.
    pub repeat: Option<u32>,
    /// Leaves the loop early: looked at before each round.
    pub until: Option<Condition>,
    /// The body of a loop.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// An alternative to what a step says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// When it is taken.
    #[serde(rename = "if")]
    pub condition: Condition,
    /// The content blocks.
    pub say: Vec<Block>,
    /// As in a step.
    pub stop_reason: Option<StopReason>,
    /// As in a step.
    pub stop_details: Option<Value>,
}

/// A condition; all that it names must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The tool results match.
    pub result: Option<Pattern>,
    /// The tool results do not match.
    pub not_result: Option<Pattern>,
    /// Whether any tool result is an error.
    pub error: Option<bool>,
    /// The last human message matches.
    pub user: Option<Pattern>,
    /// The system prompt matches.
    pub system: Option<Pattern>,
    /// A tool of this name is offered.
    pub offered: Option<String>,
}

/// One content block. Exactly one of `thinking`, `redacted_thinking`, `text`, `tool_use`, `raw`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Thinking; left out when the request does not ask for thinking.
    pub thinking: Option<String>,
    /// The data of a redacted thinking block; left out like `thinking`.
    pub redacted_thinking: Option<String>,
    /// Text.
    pub text: Option<String>,
    /// A tool call.
    pub tool_use: Option<ToolUse>,
    /// A block that is sent as it is, for kinds that a client may not know.
    pub raw: Option<Value>,
    /// How many blocks like this follow each other; `{{index}}` counts them from 0.
    pub repeat: Option<u32>,
    /// How often the text of the block is repeated within it.
    pub multiply: Option<u32>,
}

/// A tool call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolUse {
    /// Name of the tool.
    pub name: String,
    /// Its input, with templates in its strings.
    #[serde(default = "empty_object")]
    pub input: Value,
    /// The text that is streamed as the input, valid JSON or not.
    pub input_json: Option<String>,
    /// Calls the tool even if the request does not offer it.
    #[serde(default)]
    pub unlisted: bool,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// How fast an answer comes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Before the first event.
    #[serde(default)]
    pub first_token_ms: u64,
    /// Before each delta.
    #[serde(default)]
    pub per_chunk_ms: u64,
    /// Characters of a delta; 24 if 0.
    #[serde(default)]
    pub chunk_chars: usize,
}

/// Why an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names of the API")]
pub enum StopReason {
    EndTurn,
    MaxTokens,
    StopSequence,
    ToolUse,
    PauseTurn,
    Refusal,
    ModelContextWindowExceeded,
}

impl StopReason {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            StopReason::EndTurn => "end_turn",
            StopReason::MaxTokens => "max_tokens",
            StopReason::StopSequence => "stop_sequence",
            StopReason::ToolUse => "tool_use",
            StopReason::PauseTurn => "pause_turn",
            StopReason::Refusal => "refusal",
            StopReason::ModelContextWindowExceeded => "model_context_window_exceeded",
        }
    }
}

impl Scenario {
    /// Reads and checks a scenario file.
    pub fn from_path(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ReadScenario {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text).map_err(|error| match error {
            Error::Scenario { message, .. } => Error::Scenario {
                origin: path.display().to_string(),
                message,
            },
            other => other,
        })
    }

    /// Reads and checks the text of a scenario file.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let refuse = |message: String| Error::Scenario {
            origin: "the scenario".into(),
            message,
        };
        let scenario: Scenario = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        scenario.check().map_err(refuse)?;
        Ok(scenario)
    }

    /// The play of `outwork demo`.
    pub fn demo() -> Self {
        Self::from_toml(crate::demo::SCENARIO).expect("a test reads the embedded demo scenario")
    }

    /// A scenario without plays of its own: only the plays that are always there (see the crate documentation).
    pub fn built_in() -> Self {
        Self::default()
    }

    /// The play of this name.
    pub fn play(&self, name: &str) -> Option<&Play> {
        self.plays.iter().find(|play| play.name == name)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::new();
        for play in &self.plays {
            let name = &play.name;
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            {
                return Err(format!("play name `{name}` must be letters, digits, `-` and `_`"));
            }
            if crate::play::BUILT_IN.contains(&name.as_str()) {
                return Err(format!("play name `{name}` is taken by a play that is always there"));
            }
            if !names.insert(name.as_str()) {
                return Err(format!("there are two plays with the name `{name}`"));
            }
            play.check().map_err(|message| format!("play `{name}`: {message}"))?;
        }
        match &self.default {
            Some(default) if !names.contains(default.as_str()) => Err(format!(
                "`default` names the play `{default}`, which is not in the file"
            )),
            _ => Ok(()),
        }
    }
}

impl Play {
    fn check(&self) -> Result<(), String> {
        match (self.steps.is_empty(), self.scenes.is_empty()) {
            (true, true) => return Err("it has neither `step` nor `scene`".into()),
            (false, false) => {
                return Err("it has both `step` and `scene`; put the steps into a scene".into());
            }
            _ => {}
        }
        let mut known = BTreeSet::new();
        for steps in self.scenes.iter().map(|scene| &scene.steps).chain([&self.steps]) {
            collect_captures(steps, &mut known);
        }
        for (number, scene) in self.scenes.iter().enumerate() {
            if scene.steps.is_empty() {
                return Err(format!("scene {} has no `step`", number + 1));
            }
            check_steps(&scene.steps, &known).map_err(|message| format!("scene {}, {message}", number + 1))?;
        }
        check_steps(&self.steps, &known)
    }

    /// The steps that answer human message `human` (from 0).
    pub(crate) fn steps_for(&self, human: usize) -> &[Step] {
        match self.scenes.get(human).or(self.scenes.last()) {
            Some(scene) => &scene.steps,
            None => &self.steps,
        }
    }
}

/// The names that the steps capture.
pub(crate) fn collect_captures(steps: &[Step], known: &mut BTreeSet<String>) {
    for step in steps {
        known.extend(step.capture.keys().cloned());
        known.extend(step.expect.iter().flat_map(Pattern::names).map(str::to_owned));
        collect_captures(&step.steps, known);
    }
}

/// Checks what the types cannot.
pub(crate) fn check_steps(steps: &[Step], known: &BTreeSet<String>) -> Result<(), String> {
    for (number, step) in steps.iter().enumerate() {
        step.check(known)
            .map_err(|message| format!("step {}: {message}", number + 1))?;
    }
    Ok(())
}

impl Step {
    fn check(&self, known: &BTreeSet<String>) -> Result<(), String> {
        if self.repeat.is_some_and(|times| times == 0 || times > REPEAT_LIMIT) {
            return Err(format!("`repeat` must be 1 to {REPEAT_LIMIT}"));
        }
        if self.until.is_some() && self.repeat.is_none() {
            return Err("`until` needs `repeat`, so that the loop has an end".into());
        }
        if !self.steps.is_empty() {
            let plain = self.expect.is_empty()
                && self.capture.is_empty()
                && self.when.is_empty()
                && self.say.is_empty()
                && self.faults.is_empty()
                && self.stop_reason.is_none()
                && self.stop_details.is_none()
                && self.pace.is_none();
            if !plain || self.repeat.is_none() {
                return Err("a loop has `repeat`, `steps` and perhaps `until`, and nothing else".into());
            }
            return check_steps(&self.steps, known).map_err(|message| format!("in the loop, {message}"));
        }
        if self.say.is_empty() && self.when.is_empty() && self.faults.is_empty() && self.stop_reason.is_none() {
            return Err("it needs `say`, `when`, `faults`, `stop_reason` or a loop in `steps`".into());
        }
        check_answer(&self.say, self.stop_reason, self.stop_details.as_ref(), known)?;
        for branch in &self.when {
            check_answer(&branch.say, branch.stop_reason, branch.stop_details.as_ref(), known)
                .map_err(|message| format!("`when`: {message}"))?;
        }
        Ok(())
    }
}

fn check_answer(
    say: &[Block],
    stop_reason: Option<StopReason>,
    stop_details: Option<&Value>,
    known: &BTreeSet<String>,
) -> Result<(), String> {
    if stop_details.is_some() && stop_reason != Some(StopReason::Refusal) {
        return Err("`stop_details` needs `stop_reason = \"refusal\"`".into());
    }
    say.iter().enumerate().try_for_each(|(number, block)| {
        block
            .check(known)
            .map_err(|message| format!("block {} of `say`: {message}", number + 1))
    })
}

impl Block {
    fn check(&self, known: &BTreeSet<String>) -> Result<(), String> {
        let kinds = [
            self.thinking.is_some(),
            self.redacted_thinking.is_some(),
            self.text.is_some(),
            self.tool_use.is_some(),
            self.raw.is_some(),
        ];
        if kinds.iter().filter(|kind| **kind).count() != 1 {
            return Err("it needs exactly one of `thinking`, `redacted_thinking`, `text`, `tool_use`, `raw`".into());
        }
        for (name, times) in [("repeat", self.repeat), ("multiply", self.multiply)] {
            if times.is_some_and(|times| times == 0 || times > REPEAT_LIMIT) {
                return Err(format!("`{name}` must be 1 to {REPEAT_LIMIT}"));
            }
        }
        if self.multiply.is_some() && self.text.is_none() && self.thinking.is_none() {
            return Err("`multiply` needs `text` or `thinking`".into());
        }
        for text in [&self.thinking, &self.text].into_iter().flatten() {
            template::check(text, known)?;
        }
        if let Some(tool_use) = &self.tool_use {
            if !tool_use.input.is_object() {
                return Err("`input` of a tool call must be a table".into());
            }
            template::check_value(&tool_use.input, known)?;
            if let Some(json) = &tool_use.input_json {
                template::check(json, known)?;
            }
        }
        match &self.raw {
            Some(raw) if raw.get("type").and_then(Value::as_str).is_none() => {
                Err("`raw` must be a table with a `type`".into())
            }
            _ => Ok(()),
        }
    }
}
