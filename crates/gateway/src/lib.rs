//! The gateway beside private MCP servers.
#![forbid(unsafe_code)]
