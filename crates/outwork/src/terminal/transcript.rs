//! A session as a person reads it: what was said, what was called, how long it took.
//!
//! Works on events as they come over the wire, live or from history, and is a pure function of them: no clock, no
//! terminal. Output only grows. A call's line stays open until its result comes, and is then completed with the
//! time and the outcome; if something else must be written before, the result gets a line of its own. Text of
//! models and tools is made harmless here before it is written.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use clap::builder::styling::Style;
use outwork_client::ObservedEvent;
use outwork_wire::Time;
use serde_json::Value;

use super::wrap::Wrap;
use super::{Look, columns, count, counted, cut, pad, sanitize, span, style};
use crate::terminal::calls;

/// Columns of the label at the beginning of a line.
const LABEL: usize = 8;
/// Columns of the clock before it.
const CLOCK: usize = 9;

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// The whole output of tools instead of its first and last line.
    pub(crate) verbose: bool,
    /// Messages of the user; `run` leaves them out, since they were just typed.
    pub(crate) user: bool,
    /// The time since the session's first event, before each line.
    pub(crate) clock: bool,
}

/// Writes a session as it goes.
pub(crate) struct Transcript<W> {
    out: W,
    look: Look,
    shown: Shown,
    calls: HashMap<String, Call>,
    writing: Option<Writing>,
    open: Option<Open>,
    tally: Tally,
    now: Option<Time>,
    last_result: Option<(u64, Time)>,
}

struct Call {
    name: String,
    title: String,
    at: Option<Time>,
    /// Its place among all calls.
    number: u64,
    /// The lines that an edit takes away and puts in.
    change: Vec<(char, String)>,
}

/// A message of which a part is written.
struct Writing {
    id: String,
    text: String,
    wrap: Wrap,
}

/// A line without its end.
struct Open {
    call_id: Option<String>,
    column: usize,
}

/// What a session came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) calls: u64,
    pub(crate) failed_calls: u64,
    pub(crate) model_requests: u64,
    pub(crate) tokens_in: u64,
    pub(crate) tokens_cached: u64,
    pub(crate) tokens_out: u64,
    pub(crate) first: Option<Time>,
    pub(crate) last: Option<Time>,
}

impl Tally {
    /// From the first event to the last.
    pub(crate) fn elapsed(&self) -> Duration {
        between(self.first, self.last).unwrap_or_default()
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let calls = counted(self.calls, "tool call");
        let requests = counted(self.model_requests, "model request");
        format!("{} · {calls} · {requests} · {}", span(self.elapsed()), self.tokens())
    }

    /// What the model read and wrote.
    pub(crate) fn tokens(&self) -> String {
        let cached = match self.tokens_cached {
            0 => String::new(),
            cached => format!(" ({} cached)", count(cached)),
        };
        format!(
            "{} tokens in{cached}, {} out",
            count(self.tokens_in),
            count(self.tokens_out)
        )
    }

    fn add(&mut self, event: &ObservedEvent, at: Option<Time>) {
        self.events += 1;
        self.first = self.first.or(at);
        self.last = at.or(self.last);
        match event.kind.as_str() {
            "agent.tool_use" | "agent.custom_tool_use" | "agent.mcp_tool_use" => self.calls += 1,
            "span.model_request_end" => {
                self.model_requests += 1;
                let tokens = |name: &str| {
                    event
                        .at(&format!("model_usage/{name}"))
                        .and_then(Value::as_u64)
                        .unwrap_or(0)
                };
                self.tokens_cached += tokens("cache_read_input_tokens");
                self.tokens_in +=
                    tokens("input_tokens") + tokens("cache_read_input_tokens") + tokens("cache_creation_input_tokens");
                self.tokens_out += tokens("output_tokens");
            }
            _ if event.is_result() && event.is_error() => self.failed_calls += 1,
            _ => {}
        }
    }
}

impl<W: Write> Transcript<W> {
    /// An empty transcript.
    pub(crate) fn new(out: W, look: Look, shown: Shown) -> Self {
        Self {
            out,
            look,
            shown,
            calls: HashMap::new(),
            writing: None,
            open: None,
            tally: Tally::default(),
            now: None,
            last_result: None,
        }
    }

    /// What the session came to so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Writes what this event adds.
    pub(crate) fn observe(&mut self, event: &ObservedEvent) -> io::Result<()> {
        if let Some((id, kind)) = event.preview_start() {
            return self.begin_preview(id, kind);
        }
        if let Some((id, text)) = event.preview_text() {
            let (id, text) = (id.to_owned(), text.to_owned());
            return self.grow_preview(&id, &text);
        }
        if event.kind.starts_with("event_") {
            return Ok(());
        }
        let at = event.text("processed_at").and_then(|text| text.parse::<Time>().ok());
        self.now = at.or(self.now);
        self.tally.add(event, at);
        self.event(event, at)?;
        self.out.flush()
    }

    /// A line of our own, under a label.
    pub(crate) fn note(&mut self, label: &str, text: &str) -> io::Result<()> {
        self.prose(label, style::FAINT, text)?;
        self.out.flush()
    }

    /// The same in a style.
    pub(crate) fn say(&mut self, label: &str, colour: Style, text: &str) -> io::Result<()> {
        self.prose(label, colour, text)?;
        self.out.flush()
    }

    /// An empty line.
    pub(crate) fn space(&mut self) -> io::Result<()> {
        self.end_writing()?;
        writeln!(self.out)
    }

    /// Ends an open line, so that something else can write.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        self.close()?;
        self.out.flush()
    }

    /// Asks for something on an open line, under the text `about`, which is shown whole.
    pub(crate) fn ask(&mut self, about: &str, question: &str, choices: &str) -> io::Result<()> {
        about.lines().try_for_each(|line| self.whole(line))?;
        self.close()?;
        let question = self.look.paint(style::WARN, &sanitize::line(question));
        write!(self.out, "{}{question} {choices}", " ".repeat(self.indent()))?;
        self.open = Some(Open {
            call_id: None,
            column: 0,
        });
        self.out.flush()
    }

    /// The person ended the open line.
    pub(crate) fn answered(&mut self) {
        self.open = None;
    }

    fn indent(&self) -> usize {
        LABEL + 1 + if self.shown.clock { CLOCK } else { 0 }
    }

    fn event(&mut self, event: &ObservedEvent, at: Option<Time>) -> io::Result<()> {
        match event.kind.as_str() {
            "user.message" if self.shown.user => self.prose("you", style::STRONG, &content(event)),
            "user.interrupt" => self.prose("you", style::STRONG, "interrupt"),
            "user.tool_confirmation" => self.confirmation(event, at),
            "system.message" => self.prose("system", style::STRONG, &content(event)),
            "agent.message" => self.message(event),
            "agent.tool_use" | "agent.custom_tool_use" | "agent.mcp_tool_use" => self.begin_call(event, at),
            "user.tool_result" | "user.custom_tool_result" | "agent.tool_result" | "agent.mcp_tool_result" => {
                self.end_call(event, at)
            }
            "session.error" => self.error(event),
            "session.status_idle" if event.stop_reason() == Some("refusal") => {
                let why = event.at("stop_details/explanation").and_then(Value::as_str);
                self.prose("refused", style::BAD, why.unwrap_or("the model gave no explanation"))
            }
            "session.status_terminated" => self.prose("ended", style::WARN, "the session was terminated"),
            "session.deleted" => self.prose("ended", style::WARN, "the session was deleted"),
            "user.message"
            | "agent.thinking"
            | "session.usage"
            | "session.updated"
            | "session.status_idle"
            | "session.status_running"
            | "session.status_rescheduled" => Ok(()),
            kind if kind.starts_with("session.thread_") || kind.starts_with("span.") => Ok(()),
            // A newer server may say more than we know: better a name than silence.
            kind => self.prose("event", style::FAINT, kind),
        }
    }

    fn error(&mut self, event: &ObservedEvent) -> io::Result<()> {
        let message = event
            .at("error/message")
            .and_then(Value::as_str)
            .unwrap_or("no message");
        let retry = match event.at("error/retry_status/type").and_then(Value::as_str) {
            Some("retrying") => " (trying again)",
            Some("exhausted") => " (no more retries)",
            _ => "",
        };
        let text = format!("{message}{retry}");
        self.prose("error", style::BAD, &text)
    }

    fn confirmation(&mut self, event: &ObservedEvent, at: Option<Time>) -> io::Result<()> {
        let call = event.call_id().and_then(|id| self.calls.get_mut(id));
        let what = call.map(|call| {
            // How long somebody thought about it is not how long it took.
            call.at = at.or(call.at);
            format!("{} {}", call.name, call.title)
        });
        let what = what.unwrap_or_default();
        let decision = event.text("result").unwrap_or("answer").to_owned();
        let why = event
            .text("deny_message")
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        self.prose("you", style::STRONG, &format!("{decision} {what}{why}"))
    }

    fn message(&mut self, event: &ObservedEvent) -> io::Result<()> {
        let text = content(event);
        match self.writing.take() {
            Some(mut writing)
                if writing.id == event.id && !writing.text.is_empty() && text.starts_with(&writing.text) =>
            {
                let rest = sanitize::lines(&text[writing.text.len()..]);
                let mut shown = writing.wrap.push(&rest);
                shown.push_str(&writing.wrap.finish());
                write!(self.out, "{shown}")?;
                self.close()
            }
            _ => {
                self.close()?;
                if text.trim().is_empty() {
                    Ok(())
                } else {
                    self.prose("agent", style::STRONG, &text)
                }
            }
        }
    }

    fn begin_preview(&mut self, id: &str, kind: &str) -> io::Result<()> {
        match kind {
            "agent.message" => {
                self.end_writing()?;
                let wrap = Wrap::new(self.indent(), self.look.width);
                self.writing = Some(Writing {
                    id: id.to_owned(),
                    text: String::new(),
                    wrap,
                });
            }
            "agent.thinking" if self.look.live => {
                self.label("agent", style::STRONG)?;
                write!(self.out, "{}", self.look.paint(style::FAINT, "thinking …"))?;
                self.open = Some(Open {
                    call_id: None,
                    column: 0,
                });
            }
            _ => {}
        }
        self.out.flush()
    }

    fn grow_preview(&mut self, id: &str, text: &str) -> io::Result<()> {
        // A preview whose start was missed cannot be a prefix of anything: the finished event will show it.
        if self.writing.as_ref().is_none_or(|writing| writing.id != id) || !self.look.live {
            return Ok(());
        }
        let harmless = sanitize::lines(text);
        let Some(mut writing) = self.writing.take() else {
            return Ok(());
        };
        if writing.text.is_empty() {
            self.label("agent", style::STRONG)?;
            self.open = Some(Open {
                call_id: None,
                column: 0,
            });
            writing.wrap.after_label();
        }
        writing.text.push_str(text);
        write!(self.out, "{}", writing.wrap.push(&harmless))?;
        self.writing = Some(writing);
        self.out.flush()
    }

    fn begin_call(&mut self, event: &ObservedEvent, at: Option<Time>) -> io::Result<()> {
        let name = sanitize::line(event.name().unwrap_or("tool"));
        let title = calls::title(&name, event.input());
        let asks = event.permission() == Some("ask");
        self.label(&name, style::NAME)?;
        let room = self.look.width.saturating_sub(self.indent() + 9);
        let mut line = cut(&title, if asks { room.saturating_sub(5) } else { room });
        if asks {
            line.push_str(" asks");
        }
        write!(self.out, "{line}")?;
        self.open = Some(Open {
            call_id: Some(event.id.clone()),
            column: self.indent() + columns(&line),
        });
        let change = calls::details(&name, event.input());
        self.calls.insert(
            event.id.clone(),
            Call {
                name,
                title,
                at,
                number: self.tally.calls,
                change,
            },
        );
        Ok(())
    }

    fn end_call(&mut self, event: &ObservedEvent, at: Option<Time>) -> io::Result<()> {
        let id = event.call_id().unwrap_or_default();
        let (mark, colour) = if event.is_error() {
            ("✗", style::BAD)
        } else {
            ("✓", style::GOOD)
        };
        let call = self.calls.remove(id);
        let began = call.as_ref().and_then(|call| self.began(call));
        let took = between(began, at).map(span).unwrap_or_default();
        let verdict = format!("{took:>6} {mark}");
        let painted = format!(
            "{} {}",
            self.look.paint(style::FAINT, &format!("{took:>6}")),
            self.look.paint(colour, mark)
        );
        self.last_result = call.as_ref().map(|call| call.number).zip(at).or(self.last_result);
        let own_line = self
            .open
            .as_ref()
            .filter(|open| open.call_id.as_deref() == Some(id) && !id.is_empty());
        match own_line.map(|open| open.column) {
            Some(column) => {
                let gap = self.look.width.saturating_sub(column + columns(&verdict)).max(1);
                writeln!(self.out, "{}{painted}", " ".repeat(gap))?;
                self.open = None;
            }
            None => {
                let (name, title) = call
                    .as_ref()
                    .map(|c| (c.name.clone(), c.title.clone()))
                    .unwrap_or_default();
                self.label(if name.is_empty() { "result" } else { &name }, style::NAME)?;
                let room = self.look.width.saturating_sub(self.indent() + columns(&verdict) + 1);
                let line = pad(&cut(&format!("↳ {title}"), room), room);
                writeln!(self.out, "{line} {painted}")?;
            }
        }
        let change = call.map(|call| call.change).unwrap_or_default();
        if !change.is_empty() && !event.is_error() {
            return change.iter().try_for_each(|(sign, text)| {
                let colour = if *sign == '+' { style::GOOD } else { style::BAD };
                self.detail(colour, &format!("{sign} {text}"))
            });
        }
        let output = content(event);
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        match lines[..] {
            [] => Ok(()),
            _ if self.shown.verbose => output.lines().try_for_each(|line| self.whole(line)),
            [only] => self.detail(style::FAINT, only),
            [first, second] => {
                self.detail(style::FAINT, first)?;
                self.detail(style::FAINT, second)
            }
            [first, .., last] => {
                self.detail(style::FAINT, first)?;
                let more = format!("  (+{})", counted(lines.len() as u64 - 2, "line"));
                let room = self.look.width.saturating_sub(self.indent() + columns(&more));
                let last = cut(&sanitize::line(last), room);
                self.detail(style::FAINT, &format!("{last}{more}"))
            }
        }
    }

    /// When a call began to run. Of calls that were asked for together each waits for those before it, as long as
    /// their results come in that order; where they do not, all that is known is when it was asked for.
    fn began(&self, call: &Call) -> Option<Time> {
        let waits = self.calls.values().any(|other| other.number < call.number);
        let before = self.last_result.filter(|(number, _)| *number < call.number && !waits);
        Some(call.at?.max(before.map_or(call.at?, |(_, time)| time)))
    }

    /// One line of detail under a call, cut to the width.
    fn detail(&mut self, colour: Style, text: &str) -> io::Result<()> {
        self.close()?;
        let indent = self.indent();
        let text = cut(&sanitize::line(text), self.look.width.saturating_sub(indent));
        writeln!(self.out, "{}{}", " ".repeat(indent), self.look.paint(colour, &text))
    }

    fn whole(&mut self, line: &str) -> io::Result<()> {
        self.close()?;
        let indent = " ".repeat(self.indent());
        writeln!(
            self.out,
            "{indent}{}",
            self.look.paint(style::FAINT, &sanitize::line(line))
        )
    }

    fn prose(&mut self, label: &str, colour: Style, text: &str) -> io::Result<()> {
        self.end_writing()?;
        self.label(label, colour)?;
        let mut wrap = Wrap::new(self.indent(), self.look.width);
        wrap.after_label();
        let mut shown = wrap.push(sanitize::lines(text).trim());
        shown.push_str(&wrap.finish());
        writeln!(self.out, "{shown}")
    }

    fn label(&mut self, label: &str, colour: clap::builder::styling::Style) -> io::Result<()> {
        self.close()?;
        if self.shown.clock {
            let since = between(self.tally.first, self.now).map(span).unwrap_or_default();
            let clock = format!("{since:>width$}  ", width = CLOCK - 2);
            write!(self.out, "{}", self.look.paint(style::FAINT, &clock))?;
        }
        let label = cut(label, LABEL);
        let space = " ".repeat(LABEL + 1 - columns(&label));
        write!(self.out, "{}{space}", self.look.paint(colour, &label))
    }

    fn close(&mut self) -> io::Result<()> {
        if self.open.take().is_some() {
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// A message whose end never came: what is there stays.
    fn end_writing(&mut self) -> io::Result<()> {
        if let Some(mut writing) = self.writing.take() {
            write!(self.out, "{}", writing.wrap.finish())?;
        }
        self.close()
    }
}

/// The text of an event, with a word for every block that is none.
fn content(event: &ObservedEvent) -> String {
    let mut out = String::new();
    for block in event.raw.get("content").and_then(Value::as_array).into_iter().flatten() {
        match block.get("text").and_then(Value::as_str) {
            Some(text) => out.push_str(text),
            None => {
                let kind = block.get("type").and_then(Value::as_str).unwrap_or("block");
                out.push_str(&format!("[{kind}]"));
            }
        }
    }
    out
}

fn between(from: Option<Time>, to: Option<Time>) -> Option<Duration> {
    let micros = to?.as_micros().saturating_sub(from?.as_micros());
    Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
