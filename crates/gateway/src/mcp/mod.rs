//! The rules of MCP over a parsed message: pure, apart from the two things that are learnt (a tool's hints) or counted
//! (rates), which have their own modules.

pub mod agreement;
pub mod approval;
pub mod edit;
pub mod hints;
pub mod message;
pub mod rates;
pub mod refusal;
