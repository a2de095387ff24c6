//! Stops that somebody orders: of all that a session does, or of one call.
//!
//! A stop of a session is an interrupt whose results say who stopped it and why. The words are not part of the state: a
//! session that is folded anew between order and interrupt says what every interrupt says.

use outwork_wire::EventParams;
use outwork_wire::id::EventId;
use outwork_wire::{Event, EventBody};

use crate::session::{Call, Doer, Session};
use crate::{Context, Refused, Submitter};

impl Session {
    /// The calls that wait for a result or for a person.
    pub fn open_calls(&self) -> Vec<EventId> {
        let open = self.calls.iter().filter(|call| call.waits());
        open.map(|call| call.event_id.clone()).collect()
    }

    /// Ends what is under way, as `user.interrupt` does; the results of open calls begin with `why`. Gives the interrupt,
    /// or nothing if there is nothing to end.
    pub fn halt(&mut self, why: String, context: &mut Context<'_>) -> Result<Option<Event>, Refused> {
        if !self.interruptible() {
            return Ok(None);
        }
        let interrupt = EventParams::UserInterrupt {
            session_thread_id: None,
        };
        let event = self.submit(vec![interrupt], Submitter::Client, context)?.pop();
        self.stopped = Some(why);
        Ok(event)
    }

    /// Ends one open call with an error as its result, which begins with `why`. The model goes on with it.
    pub fn halt_call(&mut self, id: &EventId, why: String, context: &mut Context<'_>) -> Result<(), Refused> {
        let call = self.calls.iter().find(|call| call.event_id == *id && call.waits());
        let Some(Call { doer, .. }) = call else {
            return Err(Refused::Invalid(format!(
                "call: {id} is no open tool call of this session; nothing was stopped"
            )));
        };
        let at_once = matches!(doer, Doer::Owner(_)) || self.earlier_settled(id);
        let doer = doer.clone();
        let before = self.stopped.replace(why);
        let body = self.interrupted_result(id.clone(), &doer);
        self.stopped = before;
        if at_once || matches!(body, EventBody::AgentToolResult { .. }) {
            self.emit(body, None, context);
        } else {
            self.enqueue(body, context);
        }
        Ok(())
    }
}
