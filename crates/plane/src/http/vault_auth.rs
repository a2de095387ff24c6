//! The `auth` of a credential as clients send it: parsed strictly, its public part and its secrets taken apart.
//!
//! Each object with a `type` is read by that type, so that a field of another type is unknown here and named. What
//! must not be in a header cannot be a secret. No message repeats a value.

use outwork_wire::Time;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::body::parse_value;
use crate::app::fields::{check_length, given};
use crate::app::vault_credentials::{AuthChange, InjectionChange, RefreshChange, check_injection};
use crate::error::ApiError;
use crate::vault::auth::{
    ACCESS_TOKEN, CLIENT_SECRET, ClientAuth, InjectionLocation, Networking, PublicAuth, PublicRefresh, REFRESH_TOKEN,
    SECRET_VALUE, TOKEN, check_address,
};

/// The longest secret, in bytes.
const MAX_SECRET: usize = 32 << 10;
/// The longest client id, scope and resource, in characters.
const MAX_TEXT: usize = 2048;
/// The longest name of a variable, in characters.
const MAX_VARIABLE: usize = 255;
const MAX_HOSTS: usize = 16;
/// The longest name of a host. Source: RFC 1035.
const MAX_HOST: usize = 253;

const TYPES: [&str; 3] = ["static_bearer", "mcp_oauth", "environment_variable"];

/// Secrets by field.
type Secrets = Vec<(&'static str, SecretString)>;

/// A secret in a body. Has no `Debug`.
struct Secret(SecretString);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BearerCreate {
    token: Secret,
    mcp_server_url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OauthCreate {
    access_token: Secret,
    mcp_server_url: String,
    #[serde(default)]
    expires_at: Option<Time>,
    #[serde(default)]
    refresh: Option<RefreshCreate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshCreate {
    client_id: String,
    refresh_token: Secret,
    token_endpoint: String,
    token_endpoint_auth: Value,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VariableCreate {
    networking: Value,
    secret_name: String,
    secret_value: Secret,
    #[serde(default)]
    injection_location: Option<InjectionParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BearerUpdate {
    #[serde(default)]
    token: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OauthUpdate {
    #[serde(default)]
    access_token: Option<Secret>,
    // A null says that the end is not known.
    #[serde(default, deserialize_with = "given")]
    expires_at: Option<Option<Time>>,
    #[serde(default)]
    refresh: Option<RefreshUpdate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshUpdate {
    #[serde(default)]
    refresh_token: Option<Secret>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    token_endpoint_auth: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VariableUpdate {
    #[serde(default)]
    injection_location: Option<InjectionParams>,
    #[serde(default)]
    networking: Option<Value>,
    #[serde(default)]
    secret_value: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectionParams {
    #[serde(default, deserialize_with = "given")]
    body: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    header: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSecret {
    client_secret: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientSecretUpdate {
    #[serde(default)]
    client_secret: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosts {
    allowed_hosts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The `auth` of a credential to be made.
pub(super) fn create_auth(auth: Value, now: Time) -> Result<(PublicAuth, Secrets), ApiError> {
    let mut secrets = Secrets::new();
    let (kind, rest) = typed("auth", auth, &TYPES)?;
    let public = match kind {
        "static_bearer" => {
            let params: BearerCreate = parsed("auth", rest)?;
            secrets.push((TOKEN, header_secret("auth.token", params.token)?));
            PublicAuth::StaticBearer {
                mcp_server_url: address("auth.mcp_server_url", params.mcp_server_url)?,
            }
        }
        "mcp_oauth" => {
            let params: OauthCreate = parsed("auth", rest)?;
            secrets.push((ACCESS_TOKEN, header_secret("auth.access_token", params.access_token)?));
            PublicAuth::McpOauth {
                mcp_server_url: address("auth.mcp_server_url", params.mcp_server_url)?,
                expires_at: in_future(params.expires_at, now)?,
                refresh: params
                    .refresh
                    .map(|refresh| create_refresh(refresh, &mut secrets))
                    .transpose()?,
            }
        }
        _ => {
            let params: VariableCreate = parsed("auth", rest)?;
            check_variable(&params.secret_name)?;
            secrets.push((SECRET_VALUE, plain_secret("auth.secret_value", params.secret_value)?));
            let injection_location = match params.injection_location {
                // Headers are where secrets usually are; a body is opened only for who asks for it.
                None => InjectionLocation {
                    body: false,
                    header: true,
                },
                Some(location) => InjectionLocation {
                    body: location.body.unwrap_or(false),
                    header: location.header.unwrap_or(false),
                },
            };
            check_injection(&injection_location).map_err(ApiError::invalid)?;
            PublicAuth::EnvironmentVariable {
                secret_name: params.secret_name,
                networking: networking(params.networking)?,
                injection_location,
            }
        }
    };
    Ok((public, secrets))
}

fn create_refresh(params: RefreshCreate, secrets: &mut Secrets) -> Result<PublicRefresh, ApiError> {
    const PATH: &str = "auth.refresh.token_endpoint_auth";
    check_length("auth.refresh.client_id", &params.client_id, 1..=MAX_TEXT)?;
    let refresh_token = plain_secret("auth.refresh.refresh_token", params.refresh_token)?;
    secrets.push((REFRESH_TOKEN, refresh_token));
    let kinds = ["none", "client_secret_basic", "client_secret_post"];
    let (kind, rest) = typed(PATH, params.token_endpoint_auth, &kinds)?;
    let token_endpoint_auth = if kind == "none" {
        parsed::<Nothing>(PATH, rest)?;
        ClientAuth::None {}
    } else {
        let secret = parsed::<ClientSecret>(PATH, rest)?.client_secret;
        let path = "auth.refresh.token_endpoint_auth.client_secret";
        secrets.push((CLIENT_SECRET, plain_secret(path, secret)?));
        if kind == "client_secret_basic" {
            ClientAuth::Basic {}
        } else {
            ClientAuth::Post {}
        }
    };
    let resource = params.resource.filter(|text| !text.is_empty());
    check_length(
        "auth.refresh.resource",
        resource.as_deref().unwrap_or_default(),
        0..=MAX_TEXT,
    )?;
    Ok(PublicRefresh {
        client_id: params.client_id,
        token_endpoint: address("auth.refresh.token_endpoint", params.token_endpoint)?,
        token_endpoint_auth,
        scope: params.scope.map(scope).transpose()?.flatten(),
        resource,
    })
}

/// The `auth` of a change.
pub(super) fn update_auth(auth: Value, now: Time) -> Result<AuthChange, ApiError> {
    let (kind, rest) = typed("auth", auth, &TYPES)?;
    Ok(match kind {
        "static_bearer" => AuthChange::StaticBearer {
            token: optional(parsed::<BearerUpdate>("auth", rest)?.token, |s| {
                header_secret("auth.token", s)
            })?,
        },
        "mcp_oauth" => {
            let params: OauthUpdate = parsed("auth", rest)?;
            if let Some(at) = params.expires_at {
                in_future(at, now)?;
            }
            AuthChange::McpOauth {
                access_token: optional(params.access_token, |s| header_secret("auth.access_token", s))?,
                expires_at: params.expires_at,
                refresh: params.refresh.map(update_refresh).transpose()?,
            }
        }
        _ => {
            let params: VariableUpdate = parsed("auth", rest)?;
            AuthChange::EnvironmentVariable {
                secret_value: optional(params.secret_value, |s| plain_secret("auth.secret_value", s))?,
                networking: params.networking.map(networking).transpose()?,
                injection_location: params
                    .injection_location
                    .map_or_else(InjectionChange::default, |location| InjectionChange {
                        body: location.body,
                        header: location.header,
                    }),
            }
        }
    })
}

fn update_refresh(params: RefreshUpdate) -> Result<RefreshChange, ApiError> {
    const PATH: &str = "auth.refresh.token_endpoint_auth";
    let client_secret = match params.token_endpoint_auth {
        None => None,
        Some(value) => {
            // Which of the two it is stays as it was, whatever is said here.
            let (_, rest) = typed(PATH, value, &["client_secret_basic", "client_secret_post"])?;
            let secret = parsed::<ClientSecretUpdate>(PATH, rest)?.client_secret;
            let path = "auth.refresh.token_endpoint_auth.client_secret";
            Some(optional(secret, |s| plain_secret(path, s))?)
        }
    };
    Ok(RefreshChange {
        refresh_token: optional(params.refresh_token, |s| plain_secret("auth.refresh.refresh_token", s))?,
        scope: params.scope.map(scope).transpose()?,
        client_secret,
    })
}

/// Takes the type out of an object; it must be one of those that are known.
fn typed<'k>(path: &str, value: Value, known: &[&'k str]) -> Result<(&'k str, Value), ApiError> {
    let Value::Object(mut fields) = value else {
        return Err(ApiError::invalid(format!("{path}: must be an object with a `type`")));
    };
    let choices = known.join(", ");
    match fields.shift_remove("type") {
        None => Err(ApiError::invalid(format!(
            "{path}.type: is missing; use one of {choices}"
        ))),
        Some(given) => match known.iter().find(|kind| given == **kind) {
            Some(kind) => Ok((kind, Value::Object(fields))),
            None => Err(ApiError::invalid(format!(
                "{path}.type: is not supported here; use one of {choices}"
            ))),
        },
    }
}

fn parsed<T: DeserializeOwned>(path: &str, value: Value) -> Result<T, ApiError> {
    parse_value(path, value).map_err(without_values)
}

/// The same error without the value that the parser saw, which may be a secret in the wrong place.
pub(super) fn without_values(mut error: ApiError) -> ApiError {
    for begin in ["invalid type: ", "invalid value: "] {
        if let Some(at) = error.message.find(begin)
            && let Some(expected) = error.message.rfind("expected ")
            && at < expected
        {
            error.message = format!("{}{}", &error.message[..at], &error.message[expected..]);
        }
    }
    // Names of fields are shown as they are; one that is no name is a value.
    if let Some((_, rest)) = error.message.split_once("unknown field `")
        && let Some((name, _)) = rest.rsplit_once("`, expected").or_else(|| rest.rsplit_once("`, there"))
        && !(name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        && !name.is_empty()
    {
        error.message = error.message.replace(name, "…");
    }
    // The reader of times repeats what it could not read.
    if let Some(at) = error.message.find(" is not an RFC 3339 timestamp")
        && let Some(quote) = error.message.find('`')
        && quote < at
    {
        error.message = format!("{}this{}", &error.message[..quote], &error.message[at..]);
    }
    error
}

fn optional(
    secret: Option<Secret>,
    check: impl FnOnce(Secret) -> Result<SecretString, ApiError>,
) -> Result<Option<SecretString>, ApiError> {
    secret.map(check).transpose()
}

/// A secret that is sent as a bearer token.
fn header_secret(path: &str, secret: Secret) -> Result<SecretString, ApiError> {
    let secret = plain_secret(path, secret)?;
    if secret.expose_secret().bytes().all(|b| (b'!'..=b'~').contains(&b)) {
        return Ok(secret);
    }
    Err(ApiError::invalid(format!(
        "{path}: must have only visible ASCII characters, without spaces, as it is sent in a header"
    )))
}

fn plain_secret(path: &str, secret: Secret) -> Result<SecretString, ApiError> {
    let text = secret.0.expose_secret();
    if text.is_empty() {
        return Err(ApiError::invalid(format!("{path}: must not be empty")));
    }
    if text.len() > MAX_SECRET {
        return Err(ApiError::invalid(format!(
            "{path}: must have at most {MAX_SECRET} bytes"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "{path}: must have no line breaks and no other control characters"
        )));
    }
    Ok(secret.0)
}

fn address(path: &str, text: String) -> Result<String, ApiError> {
    match check_address(&text) {
        Ok(_) => Ok(text),
        Err(problem) => Err(ApiError::invalid(format!("{path}: {problem}"))),
    }
}

fn in_future(at: Option<Time>, now: Time) -> Result<Option<Time>, ApiError> {
    match at {
        Some(at) if at <= now => Err(ApiError::invalid(
            "auth.expires_at: must be in the future; without it, the end of the token is not known",
        )),
        at => Ok(at),
    }
}

/// A scope; an empty one is none.
fn scope(text: String) -> Result<Option<String>, ApiError> {
    check_length("auth.refresh.scope", &text, 0..=MAX_TEXT)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn check_variable(name: &str) -> Result<(), ApiError> {
    check_length("auth.secret_name", name, 1..=MAX_VARIABLE)?;
    let good =
        !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if good {
        return Ok(());
    }
    Err(ApiError::invalid(
        "auth.secret_name: must be the name of a variable: letters, digits and underscores, no digit first",
    ))
}

fn networking(value: Value) -> Result<Networking, ApiError> {
    const PATH: &str = "auth.networking";
    let (kind, rest) = typed(PATH, value, &["unrestricted", "limited"])?;
    if kind == "unrestricted" {
        parsed::<Nothing>(PATH, rest)?;
        return Ok(Networking::Unrestricted {});
    }
    let hosts = parsed::<Hosts>(PATH, rest)?.allowed_hosts;
    if hosts.len() > MAX_HOSTS {
        return Err(ApiError::invalid(format!(
            "{PATH}.allowed_hosts: at most {MAX_HOSTS} hosts, not {}",
            hosts.len()
        )));
    }
    let mut allowed_hosts: Vec<String> = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.into_iter().enumerate() {
        let host = host.to_ascii_lowercase();
        let problem = if !is_host(&host) {
            "must be a host such as api.example.com, an IPv4 address, or a wildcard such as *.example.com: no URL, port \
             or path"
        } else if allowed_hosts.contains(&host) {
            "is there twice"
        } else {
            allowed_hosts.push(host);
            continue;
        };
        return Err(ApiError::invalid(format!("{PATH}.allowed_hosts.{index}: {problem}")));
    }
    Ok(Networking::Limited { allowed_hosts })
}

/// A bare host name, an IPv4 address, or `*.` before a name of at least two labels.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > MAX_HOST {
        return false;
    }
    if let Some(name) = text.strip_prefix("*.") {
        return name.contains('.') && name.split('.').all(label) && !ends_in_number(name);
    }
    if ends_in_number(text) {
        return text.parse::<std::net::Ipv4Addr>().is_ok();
    }
    text.split('.').all(label)
}

/// What ends in a number is read as an IPv4 address by everybody, in one way or another.
fn ends_in_number(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    !last.is_empty() && (last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x"))
}

#[cfg(test)]
mod tests;
