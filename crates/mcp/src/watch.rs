//! The stream on which a server of revision 2026-07-28 tells that its tools changed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rmcp::{
    Peer, RoleClient,
    model::{ServerNotification, SubscriptionFilter},
};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Keeps a subscription open until `stop`, and sets `changed` for every change that it tells of.
pub(crate) async fn watch(peer: Peer<RoleClient>, changed: Arc<AtomicBool>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut first = true;
    while !peer.is_transport_closed() {
        tokio::select! {
            _ = stop.cancelled() => return,
            heard = listen(&peer, &changed, first) => {
                if heard {
                    pause = FIRST_PAUSE;
                    first = false;
                } else if first {
                    // A server that does not take the first subscription does not take any.
                    return;
                }
            }
        }
        tokio::select! {
            _ = stop.cancelled() => return,
            _ = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Listens until the stream ends; false if there was none.
async fn listen(peer: &Peer<RoleClient>, changed: &AtomicBool, first: bool) -> bool {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let Ok(mut subscription) = peer.listen(filter).await else {
        return false;
    };
    if !first {
        // Nobody knows what happened between two streams.
        changed.store(true, Ordering::SeqCst);
    }
    while let Ok(Some(notification)) = subscription.next().await {
        if matches!(notification, ServerNotification::ToolListChangedNotification(_)) {
            changed.store(true, Ordering::SeqCst);
        }
    }
    true
}
