//! `outwork doctor`: what this machine offers, each line with how to mend what is missing.
//!
//! Everything is tried, not looked up in documentation: sandboxes are made, folders written, servers called. Nothing
//! is changed. Ends with 1 if something fails; a warning is not a failure.

mod checks;

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use crate::cli::task::DoctorArgs;
use crate::exit::Exit;
use crate::terminal::wrap::Wrap;
use crate::terminal::{Look, columns, pad, sanitize, style};

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ok,
    Warn,
    Fail,
    /// Not asked for.
    Skip,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) state: State,
    pub(crate) what: String,
    pub(crate) detail: String,
    pub(crate) mend: Option<String>,
}

impl Finding {
    pub(crate) fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            state: State::Ok,
            what: what.into(),
            detail: detail.into(),
            mend: None,
        }
    }

    pub(crate) fn skip(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            state: State::Skip,
            what: what.into(),
            detail: detail.into(),
            mend: None,
        }
    }

    pub(crate) fn warn(what: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Warn,
            what: what.into(),
            detail: detail.into(),
            mend: Some(mend.into()),
        }
    }

    pub(crate) fn fail(what: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            what: what.into(),
            detail: detail.into(),
            mend: Some(mend.into()),
        }
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

pub(crate) async fn doctor(args: DoctorArgs, look: Look) -> Result<Exit> {
    let mut findings = Vec::new();
    for (group, found) in checks::all(&args.connection).await {
        if !args.output.json {
            writeln!(std::io::stdout(), "{}", look.paint(style::STRONG, group))?;
            print(&found, &look)?;
        }
        findings.extend(found.into_iter().map(|finding| (group, finding)));
    }
    let count = |state| findings.iter().filter(|(_, finding)| finding.state == state).count() as u64;
    let (fails, warns) = (count(State::Fail), count(State::Warn));
    let exit = if fails > 0 { Exit::Failed } else { Exit::Done };
    if args.output.json {
        for (group, finding) in &findings {
            super::print_json(&json!({
                "group": group,
                "check": finding.what,
                "state": finding.state.word(),
                "detail": finding.detail,
                "mend": finding.mend,
            }))?;
        }
        return Ok(exit);
    }
    let verdict = match (fails, warns) {
        (0, 0) => look.paint(style::GOOD, "all is well"),
        (0, _) => look.paint(
            style::WARN,
            &format!("it works, with {}", crate::terminal::counted(warns, "warning")),
        ),
        _ => look.paint(
            style::BAD,
            &format!(
                "{}: mend them in this order",
                crate::terminal::counted(fails, "failure")
            ),
        ),
    };
    writeln!(std::io::stdout(), "\n{verdict}")?;
    Ok(exit)
}

fn print(findings: &[Finding], look: &Look) -> Result<()> {
    let width = findings.iter().map(|finding| columns(&finding.what)).max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for finding in findings {
        let colour = match finding.state {
            State::Ok => style::GOOD,
            State::Warn => style::WARN,
            State::Fail => style::BAD,
            State::Skip => style::FAINT,
        };
        let indent = 2 + 4 + 2 + width + 2;
        let word = look.paint(colour, &pad(finding.state.word(), 4));
        if finding.detail.is_empty() {
            writeln!(out, "  {word}  {}", finding.what)?;
            continue;
        }
        write!(out, "  {word}  {}  ", pad(&finding.what, width))?;
        let mut wrap = Wrap::new(indent, look.width);
        wrap.after_label();
        let detail = sanitize::line(&finding.detail);
        writeln!(out, "{}{}", wrap.push(&detail), wrap.finish())?;
        if let Some(mend) = &finding.mend {
            let mut wrap = Wrap::new(8, look.width);
            let text = format!("→ {}", sanitize::line(mend));
            writeln!(out, "{}{}", wrap.push(&text), wrap.finish())?;
        }
    }
    Ok(())
}
