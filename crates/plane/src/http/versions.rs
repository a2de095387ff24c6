//! The versions that a request names: `anthropic-version` and `anthropic-beta`.
//!
//! Both are refused when they are missing where they are needed, or unknown, as the hosted service does.

use http::HeaderMap;

use crate::error::ApiError;

/// API versions that are served alike.
const VERSIONS: [&str; 2] = ["2023-06-01", "2026-10-21"];

/// The beta header of the managed-agents surface.
pub(crate) const MANAGED_AGENTS: &str = "managed-agents-2026-04-01";

/// The beta header of tunnels.
pub(crate) const TUNNELS: &str = "mcp-tunnels-2026-06-22";

/// The beta header of the exchange of an identity provider's token.
pub(crate) const FEDERATION: &str = "oidc-federation-2026-04-01";

/// The beta header that clients with a token of that exchange add to every call.
const OAUTH: &str = "oauth-2025-04-20";

/// Beta headers of the contract. A client that speaks to several parts of the API may send more than one.
const BETAS: [&str; 10] = [
    MANAGED_AGENTS,
    "dreaming-2026-04-21",
    "agent-memory-2026-07-22",
    "skills-2025-10-02",
    "files-api-2025-04-14",
    TUNNELS,
    "user-profiles-2026-03-24",
    "user-profiles-2026-08-18",
    OAUTH,
    FEDERATION,
];

/// Checks the versions of a request to an operation that needs `beta`. `unversioned` operations may be called without
/// an `anthropic-version`.
pub(crate) fn check(headers: &HeaderMap, beta: Option<&str>, unversioned: bool) -> Result<(), ApiError> {
    let version = headers.get("anthropic-version").map(|v| v.to_str().unwrap_or_default());
    match version {
        None if unversioned => {}
        None => {
            return Err(ApiError::invalid(format!(
                "anthropic-version: header is required; send one of {}",
                VERSIONS.join(", ")
            )));
        }
        Some(version) if !VERSIONS.contains(&version) => {
            return Err(ApiError::invalid(format!(
                "anthropic-version: `{}` is not a valid version; send one of {}",
                super::query::shortened(version),
                VERSIONS.join(", ")
            )));
        }
        Some(_) => {}
    }
    let mut named = false;
    for value in headers.get_all("anthropic-beta") {
        for name in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            if !name.is_empty() && !BETAS.contains(&name) {
                return Err(ApiError::invalid(format!(
                    "Unexpected value(s) `{}` for the `anthropic-beta` header. Known values are {}.",
                    super::query::shortened(name),
                    BETAS.join(", ")
                )));
            }
            named |= Some(name) == beta;
        }
    }
    match beta {
        Some(beta) if !named => Err(ApiError::invalid(format!(
            "anthropic-beta: this endpoint needs the header `anthropic-beta: {beta}`"
        ))),
        _ => Ok(()),
    }
}
