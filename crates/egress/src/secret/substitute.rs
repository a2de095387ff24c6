//! Placeholders become values, in one text or in one that flows. What may not be is refused before it is written.

use std::sync::Arc;

use http::StatusCode;

use super::encode::Context;
use super::finder::Found;
use super::needle::Form;
use super::outcome::{Blocked, Location, Reason, Use, note};
use super::scrub::{Before, Flow};
use super::set::Inner;
use super::spec::Destination;

/// Where a text stands.
pub(super) struct Place<'a> {
    pub(super) to: &'a Destination,
    pub(super) location: Location,
    pub(super) context: Context,
}

impl Inner {
    /// Substitutes in a whole text; nothing if no placeholder stands there.
    pub(super) fn substitute(
        &self,
        place: &Place<'_>,
        text: &[u8],
        uses: &mut Vec<Use>,
    ) -> Result<Option<Vec<u8>>, Blocked> {
        if self.out.first_in(text).is_none() {
            return Ok(None);
        }
        let mut out = Vec::new();
        Flow::default().push(&self.out, text, true, &mut out, |text, found, before, out| {
            self.swap(place, text, found, before, out, uses)
        })?;
        Ok(Some(out))
    }

    /// Blocks if a placeholder stands in a text where nothing is ever substituted.
    pub(super) fn look(&self, place: &Place<'_>, text: &[u8], uses: &mut Vec<Use>) -> Result<(), Blocked> {
        self.substitute(place, text, uses).map(|_| ())
    }

    fn swap(
        &self,
        place: &Place<'_>,
        text: &[u8],
        found: Found,
        before: Before,
        out: &mut Vec<u8>,
        uses: &mut Vec<Use>,
    ) -> Result<usize, Blocked> {
        let needle = &self.out.needles[found.needle];
        let location = place.location;
        let substituted = self.judge(needle.owner, place.to, location)?;
        let name = self.name(needle.owner);
        note(uses, name, location, substituted);
        if !substituted {
            out.extend_from_slice(&text[found.start..found.end]);
            return Ok(found.end);
        }
        let encoded = || {
            let form = needle.form.name();
            Blocked::new(name, StatusCode::BAD_REQUEST, Reason::Encoded { location, form })
        };
        if needle.form == Form::Reversed || !needle.exact || before == Before::Overlap {
            return Err(encoded());
        }
        let context = match needle.form {
            Form::Utf16 => Context::Plain,
            Form::Raw | Form::Reversed | Form::Base64 { .. } | Form::Hex => place.context,
        };
        let span = (found.start, found.end);
        needle
            .replace(text, span, before == Before::Byte, out, |byte, out| {
                context.put(byte, out)
            })
            .ok_or_else(encoded)
    }
}

/// What a flow does with placeholders that may be substituted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Substitutes them.
    Exact,
    /// Substitutes them if the length stays.
    SameLength,
    /// Refuses them, for this reason.
    Refuse(&'static str),
}

/// A text that flows.
pub(super) struct Substituter {
    set: Arc<Inner>,
    to: Destination,
    location: Location,
    context: Context,
    mode: Mode,
    /// For the words of a refusal: the length below which it would have been fine.
    limit: usize,
    flow: Flow,
    uses: Vec<Use>,
}

impl Substituter {
    pub(super) fn new(set: Arc<Inner>, place: &Place<'_>, mode: Mode, limit: usize) -> Self {
        Substituter {
            set,
            to: place.to.clone(),
            location: place.location,
            context: place.context,
            mode,
            limit,
            flow: Flow::default(),
            uses: Vec::new(),
        }
    }

    /// Another text in the same place.
    pub(super) fn restart(&mut self, context: Context) {
        self.flow = Flow::default();
        self.context = context;
    }

    /// Appends to `out` what is decided of the text.
    pub(super) fn push(&mut self, chunk: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Blocked> {
        let Substituter {
            set,
            to,
            location,
            context,
            mode,
            limit,
            flow,
            uses,
        } = self;
        let place = Place {
            to,
            location: *location,
            context: *context,
        };
        flow.push(&set.out, chunk, last, out, |text, found, before, out| {
            let start = out.len();
            let end = set.swap(&place, text, found, before, out, uses)?;
            let owner = set.out.needles[found.needle].owner;
            let refused = |reason| Blocked::new(set.name(owner), StatusCode::PAYLOAD_TOO_LARGE, reason);
            let substituted = set.judge(owner, place.to, place.location)?;
            match *mode {
                Mode::Refuse(purpose) if substituted => Err(refused(Reason::TooLarge { purpose, limit: *limit })),
                Mode::SameLength if out.len() - start != end - found.start => {
                    Err(refused(Reason::Length { limit: *limit }))
                }
                Mode::Exact | Mode::SameLength | Mode::Refuse(_) => Ok(end),
            }
        })
    }

    /// Substitutes in a whole text beside the one that flows; its length stays.
    pub(super) fn aside(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Blocked> {
        let flow = std::mem::take(&mut self.flow);
        let context = std::mem::replace(&mut self.context, Context::Plain);
        let done = self.push(text, true, out);
        self.flow = flow;
        self.context = context;
        done
    }

    pub(super) fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// Whether anything was substituted.
    pub(super) fn substituted(&self) -> bool {
        self.uses.iter().any(|u| u.substituted)
    }
}
