//! Tokens that a server mints in exchange for a secret (OAuth's `access_token`): caught in the response, replaced by a
//! placeholder, and bound to hosts like any other secret.

use bytes::Bytes;
use rand::RngCore;
use secrecy::SecretString;
use serde_json::Value;

use super::placeholder::{for_value, is_jwt};
use super::set::SecretSet;
use super::spec::{Kind, Locations, MIN_SECRET, SecretSpec};

/// Which fields of which responses are caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureRule {
    /// Begins the names of the new secrets; the field's pointer follows.
    pub name: String,
    /// JSON pointers (RFC 6901), such as `/access_token`. A field that is missing is no error.
    pub fields: Vec<String>,
    /// Hosts that may receive the new secrets.
    pub hosts: Vec<String>,
    /// Where they may stand.
    pub locations: Locations,
    /// Whether they may be sent without TLS.
    pub cleartext: bool,
}

/// Why nothing could be caught. The response must not be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// The body is not JSON.
    #[error("capture rule {0}: the response is not JSON, so its fields cannot be replaced")]
    Json(String),
    /// A field is there and is no string that can be told from other text.
    #[error("capture rule {rule}: field {field} is not a string of {MIN_SECRET} bytes or more")]
    Field {
        /// The rule's name.
        rule: String,
        /// The field's pointer.
        field: String,
    },
}

impl SecretSet {
    /// Replaces the fields that the rule names in a whole, decoded response by new placeholders. Gives the body to pass
    /// on and the new secrets, for [`SecretSet::extended`]. A value that the set holds already is left to the scrubber.
    pub fn capture(
        &self,
        rule: &CaptureRule,
        body: &[u8],
        random: &mut dyn RngCore,
    ) -> Result<(Bytes, Vec<SecretSpec>), CaptureError> {
        let mut root: Value = serde_json::from_slice(body).map_err(|_| CaptureError::Json(rule.name.clone()))?;
        let mut caught: Vec<SecretSpec> = Vec::new();
        for field in &rule.fields {
            let Some(found) = root.pointer_mut(field).filter(|found| !found.is_null()) else {
                continue;
            };
            let value = found
                .as_str()
                .filter(|text| text.len() >= MIN_SECRET)
                .ok_or_else(|| CaptureError::Field {
                    rule: rule.name.clone(),
                    field: field.clone(),
                })?;
            if self.inner.specs.iter().any(|spec| spec.secret() == value) {
                continue;
            }
            if let Some(known) = caught.iter().find(|spec| spec.secret() == value) {
                *found = Value::String(known.placeholder.clone());
                continue;
            }
            let placeholder = for_value(value, random);
            caught.push(SecretSpec {
                name: format!("{}{field}", rule.name),
                kind: if is_jwt(value) { Kind::Jwt } else { Kind::Opaque },
                value: SecretString::from(value),
                placeholder: placeholder.clone(),
                hosts: rule.hosts.clone(),
                locations: rule.locations,
                cleartext: rule.cleartext,
            });
            *found = Value::String(placeholder);
        }
        if caught.is_empty() {
            return Ok((Bytes::copy_from_slice(body), caught));
        }
        let written = serde_json::to_vec(&root).map_err(|_| CaptureError::Json(rule.name.clone()))?;
        Ok((Bytes::from(written), caught))
    }
}
