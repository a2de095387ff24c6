//! Results that are too long for a conversation: the whole text is kept beside the log, and the conversation gets the
//! beginning and where the rest is.
//!
//! The text is kept before the result is in the log. If it cannot be kept, the result says so: nothing refers to a text
//! that is not there.

use std::time::Duration;

use outwork_mcp::{CallResult, Oversize};
use outwork_store::{Store, StoreError};
use outwork_wire::id::EventId;
use outwork_wire::{ContentBlock, Time};

use crate::mcp::Caller;

/// Where a worker of this server puts the texts, below the sandbox's working folder.
const FOLDER: &str = ".outwork/outputs";
/// Waits between attempts to keep a text while the store cannot write.
const RETRY: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// The name of a text's file.
pub(crate) fn file_name(call: &EventId) -> String {
    format!("{call}.txt")
}

/// Where a text is, below the sandbox's working folder.
pub(crate) fn place(call: &EventId) -> String {
    format!("{FOLDER}/{}", file_name(call))
}

/// Keeps the text of a result and gives what the conversation gets in its place. What is no text of it stays.
pub(crate) async fn shorten(
    store: &Store,
    caller: &Caller,
    call: &EventId,
    result: &CallResult,
    long: Oversize,
) -> Vec<ContentBlock> {
    let characters = long.full.chars().count();
    let shown = long.preview.chars().count();
    let kept = keep(store, caller, call, long.full).await;
    let note = if kept {
        format!(
            "[The result has {characters} characters, of which these are the first {shown}. All of it is in the file \
             {} of the working folder, if this session's sandbox is run by a worker of this server; read or search it \
             there. If there is no such file, ask the tool for less.]",
            place(call)
        )
    } else {
        format!(
            "[The result has {characters} characters, of which these are the first {shown}. The rest could not be kept; \
             ask the tool for less.]"
        )
    };
    let mut content = vec![ContentBlock::text(format!("{}\n\n{note}", long.preview))];
    content.extend(
        outwork_mcp::content::to_wire(result)
            .into_iter()
            .filter(|block| matches!(block, ContentBlock::Image { .. })),
    );
    content
}

async fn keep(store: &Store, caller: &Caller, call: &EventId, text: String) -> bool {
    for wait in RETRY.iter().map(Some).chain([None]) {
        let kept = store
            .keep_session_text(&caller.workspace, &caller.session, call, text.clone(), Time::now())
            .await;
        match (kept, wait) {
            (Ok(()), _) => return true,
            (Err(StoreError::Unavailable { reason }), Some(wait)) => {
                tracing::warn!(session = %caller.session, reason, "a long result cannot be kept now; trying again");
                tokio::time::sleep(*wait).await;
            }
            (Err(error), _) => {
                tracing::warn!(session = %caller.session, %error, "a long result could not be kept");
                return false;
            }
        }
    }
    false
}
