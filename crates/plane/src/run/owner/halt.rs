//! Stops that somebody ordered, as the owner of a session carries them out.

use outwork_engine::{Context, Status};
use outwork_wire::id::EventId;

use super::{Held, Owner};
use crate::error::ApiError;
use crate::evidence::{Cause, Order};
use crate::run::registry::Halt;

impl Owner {
    /// Stops what the session does, or one call of it. Gives the calls that this ends.
    pub(super) fn halt(
        &self,
        held: &mut Held,
        halt: &Halt,
        context: &mut Context<'_>,
    ) -> Result<Vec<EventId>, ApiError> {
        if held.session.status() == Status::Terminated {
            return Ok(Vec::new());
        }
        let ended = match &halt.call {
            Some(call) => {
                held.session.halt_call(call, halt.words(), context)?;
                vec![call.clone()]
            }
            None => {
                let open = held.session.open_calls();
                if halt.forced {
                    self.terminate(held, halt, context)?;
                } else if let Some(interrupt) = held.session.halt(halt.words(), context)? {
                    held.recorder.caused(&[interrupt], &Cause::Ordered);
                }
                open
            }
        };
        let mut named: Vec<String> = ended.iter().map(ToString::to_string).collect();
        if halt.call.is_none() {
            named.insert(0, self.id.to_string());
        }
        tracing::warn!(
            event = "session.halted", session = %self.id, by = halt.actor, reason = halt.reason, forced = halt.forced,
            ended = ?named, "somebody stopped what a session did"
        );
        held.recorder.ordered(Order {
            actor: halt.actor.clone(),
            reason: halt.reason.clone(),
            scope: halt.scope,
            forced: halt.forced,
            ended: named,
        });
        Ok(ended)
    }

    /// Interrupts what is under way and archives: all of it is one commit.
    fn terminate(&self, held: &mut Held, halt: &Halt, context: &mut Context<'_>) -> Result<(), ApiError> {
        // The first interrupt may bring up messages that waited behind it, which the second one ends.
        const INTERRUPTS: usize = 4;
        for _ in 0..INTERRUPTS {
            if let Some(request) = held.request.take() {
                self.shared.metrics.model_request("cancelled", request.began.elapsed());
            }
            held.session.end_request_without_answer(context);
            let Some(interrupt) = held.session.halt(halt.words(), context)? else {
                break;
            };
            held.recorder.caused(&[interrupt], &Cause::Ordered);
            held.session.advance(false, &self.shared.prompt, context);
        }
        Ok(held.session.archive(context)?)
    }
}
