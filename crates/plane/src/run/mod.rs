//! Sessions at work: who owns them, and who watches them.
//!
//! [`registry::Registry`] gives every session that somebody talks to one task, its owner; [`owner`] is that task;
//! [`hub::Hub`] carries committed events and previews to open streams; [`queue`] wakes workers that wait for work,
//! [`changes`] those that wait for another boundary;
//! [`places`] tells the model what its sandbox has; [`tools`] makes calls at MCP servers; [`long_texts`] keeps what is too long of their results.

pub(crate) mod changes;
pub(crate) mod hub;
pub(crate) mod long_texts;
pub(crate) mod model_call;
pub(crate) mod owner;
pub(crate) mod places;
pub(crate) mod queue;
pub(crate) mod registry;
#[cfg(test)]
pub(crate) mod test_bed;
pub(crate) mod tools;
