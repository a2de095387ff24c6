//! TLS on both sides: the session's own authority towards the sandbox, verified connections towards servers.

mod authority;
mod hello;
mod upstream;

pub use authority::SessionAuthority;
pub(crate) use hello::{Greeting, Hello, read};
pub use upstream::{UpstreamTls, system_roots};
