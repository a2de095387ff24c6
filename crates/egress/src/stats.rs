//! Counters of one sandbox's boundary.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident / $count:ident;)*) => {
        /// What crossed, and what did not, since the boundary began.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $field: u64,)*
            /// Connections that are open now.
            pub open: u64,
            /// Bytes from the sandbox to where it was allowed.
            pub bytes_out: u64,
            /// Bytes to the sandbox.
            pub bytes_in: u64,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($field: AtomicU64,)*
            open: AtomicU64,
            bytes_out: AtomicU64,
            bytes_in: AtomicU64,
        }

        impl Counters {
            $(pub(crate) fn $count(&self) {
                self.$field.fetch_add(1, Relaxed);
            })*

            pub(crate) fn all(&self) -> Stats {
                Stats {
                    $($field: self.$field.load(Relaxed),)*
                    open: self.open.load(Relaxed),
                    bytes_out: self.bytes_out.load(Relaxed),
                    bytes_in: self.bytes_in.load(Relaxed),
                }
            }
        }
    };
}

counters! {
    /// Questions for names.
    names_asked / names_asked;
    /// Names that were asked of name servers.
    names_forwarded / names_forwarded;
    /// Connections that were accepted.
    connections / connection;
    /// Connections that were passed through unopened.
    passed / passed;
    /// Requests that were let through.
    requests / request;
    /// What was refused: names, connections, requests.
    refused / refused;
    /// Crossings that were stopped because their record was not kept.
    unrecorded / unrecorded;
    /// Passed connections that a new policy cut.
    cut / cut;
    /// Values of secrets that were taken out of responses.
    scrubbed / scrubbed;
}

impl Counters {
    /// Counts an open connection until it is dropped.
    pub(crate) fn hold(self: &std::sync::Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    pub(crate) fn bytes(&self, way: crate::policy::Way, bytes: u64) {
        match way {
            crate::policy::Way::Out => &self.bytes_out,
            crate::policy::Way::In => &self.bytes_in,
        }
        .fetch_add(bytes, Relaxed);
    }
}

/// An open connection.
pub(crate) struct Open(std::sync::Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
