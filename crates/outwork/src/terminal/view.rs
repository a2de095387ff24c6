//! How a session is shown: as a page for people, or as one JSON object per line for machines.

use std::io::{self, Write};

use outwork_client::ObservedEvent;

use super::Look;
use super::transcript::{Shown, Transcript};

type Out = Box<dyn Write + Send>;

/// One way to show a session.
pub(crate) struct View {
    transcript: Transcript<Out>,
    json: Option<Out>,
}

impl View {
    /// On standard output.
    pub(crate) fn stdout(json: bool, look: Look, shown: Shown) -> Self {
        Self::new(Box::new(io::stdout()), json, look, shown)
    }

    /// Anywhere.
    pub(crate) fn new(out: Out, json: bool, look: Look, shown: Shown) -> Self {
        if json {
            Self {
                transcript: Transcript::new(Box::new(io::sink()), look, shown),
                json: Some(out),
            }
        } else {
            Self {
                transcript: Transcript::new(out, look, shown),
                json: None,
            }
        }
    }

    /// Shows an event. Machines see finished events only.
    pub(crate) fn observe(&mut self, event: &ObservedEvent) -> io::Result<()> {
        self.transcript.observe(event)?;
        match &mut self.json {
            Some(out) if !event.id.is_empty() => {
                serde_json::to_writer(&mut *out, event)?;
                out.write_all(b"\n")?;
                out.flush()
            }
            _ => Ok(()),
        }
    }

    /// Shows an object of our own to machines.
    pub(crate) fn object(&mut self, value: &serde_json::Value) -> io::Result<()> {
        match &mut self.json {
            Some(out) => {
                writeln!(out, "{value}")?;
                out.flush()
            }
            None => Ok(()),
        }
    }

    /// Says something to people; machines do not see it.
    pub(crate) fn note(&mut self, label: &str, text: &str) -> io::Result<()> {
        self.transcript.note(label, text)
    }

    /// The page that people see.
    pub(crate) fn page(&mut self) -> &mut Transcript<Out> {
        &mut self.transcript
    }
}
