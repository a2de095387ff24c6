//! The MCP connector.
#![forbid(unsafe_code)]
