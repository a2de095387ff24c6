//! The boundary of a session: what may go out of its sandbox, what comes in, what is handed over, and the records of it.
//!
//! It is made before the sandbox from what the server says of the session and what the worker's owner says of all
//! sessions, the narrower of both. The sandbox's fence ends in a proxy of this process ([`outwork_egress`]); it sees
//! placeholders instead of secrets, trusts an authority that lives as long as the session, and finds its files mounted.
//!
//! Refuses to run anything when a step fails, or when it is not known any more what holds. Secrets stay in this process:
//! no variable, file, argument or log line of a sandbox or of git has one.

mod error;
mod files;
mod follow;
mod foresee;
mod git;
pub(crate) mod image;
mod journal;
mod machine;
mod options;
mod outputs;
mod packages;
mod repository;
mod rules;
mod said;
mod secrets;
mod session;

pub use error::BoundaryError;
pub use foresee::{Foreseen, foresee};
pub(crate) use machine::{Machine, Registered};
pub use options::{BoundaryOptions, ImageSource, OutputOptions, SecretSource, WorkerSecret};
pub use packages::PackageOptions;
pub(crate) use session::{Boundary, Plan, Site, Standing};
