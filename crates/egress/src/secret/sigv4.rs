//! AWS Signature Version 4: requests that were signed inside with a placeholder are signed again with the secret.
//!
//! The signature that the client made is computed anew first, with the placeholder as key, in each way in which clients
//! write a path. Only the way that gives the client's own signature is used for the new one; if none does, the request is
//! refused. So a request is never sent with a signature that the client's library would not have made.
//!
//! Source: "Create a signed AWS API request" in the IAM user guide, and "Authenticating Requests" in the S3 reference.

use aws_lc_rs::{digest, hmac};
use http::StatusCode;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use zeroize::Zeroizing;

use super::encode::{hex, percent_decode, percent_encode};
use super::head::set_query;
use super::outcome::{Blocked, Reason};
use super::set::Inner;
use super::spec::{AwsKeyId, Kind};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
pub(super) const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
/// The hash of nothing.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A request that was signed with a placeholder.
pub(super) struct Signed {
    /// The spec of the secret key.
    pub(super) key: usize,
    in_header: bool,
    /// `date/region/service/aws4_request`.
    pub(super) scope: String,
    pub(super) time: String,
    headers: Vec<String>,
    /// What the client sent.
    pub(super) signature: String,
    /// What the client may have signed, up to the hash of the body; by the way of writing the path.
    drafts: Vec<(PathStyle, String)>,
    style: Option<PathStyle>,
}

/// Ways of writing the path into the signed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathStyle {
    /// As it is sent (S3).
    Sent,
    /// As it is sent, encoded once more (all others).
    Twice,
    /// Decoded and encoded.
    Normal,
    /// Without empty and dot segments, encoded once more.
    Short,
}

const STYLES: [PathStyle; 4] = [PathStyle::Sent, PathStyle::Twice, PathStyle::Normal, PathStyle::Short];

/// Finds a signature that one of the set's keys made. Everything else that looks like one is none of ours.
pub(super) fn recognise(set: &Inner, head: &Parts) -> Result<Option<Signed>, Blocked> {
    let found = match head.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        Some(value) if value.starts_with("AWS4-") => from_header(value),
        _ => from_query(head.uri.query().unwrap_or_default()),
    };
    let Some((algorithm, claim)) = found else {
        return Ok(None);
    };
    let Some((id, scope)) = claim.credential.split_once('/') else {
        return Ok(None);
    };
    let Some(key) = set.key_of(id) else {
        return Ok(None);
    };
    let refused = |what| Err(refused(set.name(key), what));
    if algorithm != ALGORITHM {
        return refused("only AWS4-HMAC-SHA256 is known");
    }
    let header_time = head.headers.get(DATE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let Some(time) = claim.time.or(header_time) else {
        return refused("it has no X-Amz-Date");
    };
    if scope.split('/').count() != 4 || !scope.ends_with("/aws4_request") {
        return refused("its credential scope is not date/region/service/aws4_request");
    }
    let mut signed = Signed {
        key,
        in_header: claim.in_header,
        scope: scope.to_owned(),
        time,
        headers: claim.headers.split(';').map(str::to_owned).collect(),
        signature: claim.signature,
        drafts: Vec::new(),
        style: None,
    };
    signed.drafts = STYLES.map(|style| (style, signed.canonical(head, style))).into();
    Ok(Some(signed))
}

fn refused(name: &str, what: &'static str) -> Blocked {
    Blocked::new(name, StatusCode::BAD_REQUEST, Reason::Signature { what })
}

/// What a request says about its signature.
struct Claim {
    in_header: bool,
    credential: String,
    headers: String,
    signature: String,
    time: Option<String>,
}

fn from_header(value: &str) -> Option<(String, Claim)> {
    let (algorithm, rest) = value.split_once(' ')?;
    let field = |name: &str| {
        let mut fields = rest.split(',').map(str::trim);
        fields.find_map(|f| f.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let claim = Claim {
        in_header: true,
        credential: field("Credential")?,
        headers: field("SignedHeaders")?,
        signature: field("Signature")?,
        time: None,
    };
    Some((algorithm.to_owned(), claim))
}

fn from_query(query: &str) -> Option<(String, Claim)> {
    let field = |name: &str| {
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        String::from_utf8(percent_decode(value.as_bytes())).ok()
    };
    let claim = Claim {
        in_header: false,
        credential: field("X-Amz-Credential")?,
        headers: field("X-Amz-SignedHeaders")?,
        signature: field("X-Amz-Signature")?,
        time: field("X-Amz-Date"),
    };
    Some((field("X-Amz-Algorithm")?, claim))
}

impl Inner {
    /// The secret key that belongs to an id as it is known inside.
    fn key_of(&self, id: &str) -> Option<usize> {
        self.specs.iter().position(|spec| match &spec.kind {
            Kind::AwsSecretKey {
                key_id: AwsKeyId::Public(known),
            } => known == id,
            Kind::AwsSecretKey {
                key_id: AwsKeyId::Spec(name),
            } => self.specs.iter().any(|s| s.name == *name && s.placeholder == id),
            Kind::Opaque | Kind::Jwt | Kind::AwsKeyId => false,
        })
    }
}

impl Signed {
    pub(super) fn in_header(&self) -> bool {
        self.in_header
    }

    /// Whether the client signed the request with this hash of its body. From then on it can be signed again.
    pub(super) fn verify(&mut self, set: &Inner, body_hash: &str) -> bool {
        let key = self.signing_key(&set.specs[self.key].placeholder);
        let style = self.drafts.iter().find(|(_, draft)| {
            let expected = self.signature_of(&key, &format!("{draft}{body_hash}"));
            // Both sides are known inside: no need for constant time.
            expected == self.signature
        });
        self.style = style.map(|(style, _)| *style);
        self.style.is_some()
    }

    pub(super) fn is_verified(&self) -> bool {
        self.style.is_some()
    }

    /// That no way of signing gives the client's signature.
    pub(super) fn mismatch(&self, set: &Inner) -> Blocked {
        refused(
            set.name(self.key),
            "it is not the signature of this request by the key that is known inside",
        )
    }

    /// Signs the head as it is now; gives the signature.
    pub(super) fn sign(&self, set: &Inner, head: &mut Parts, body_hash: &str) -> Result<String, Blocked> {
        let name = set.name(self.key);
        let style = self.style.ok_or_else(|| self.mismatch(set))?;
        let key = self.signing_key(set.specs[self.key].secret());
        let canonical = self.canonical(head, style);
        let signature = self.signature_of(&key, &format!("{canonical}{body_hash}"));
        if self.in_header {
            let value = head
                .headers
                .get(AUTHORIZATION)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default();
            let start = value.find("Signature=").map(|at| at + "Signature=".len());
            let Some(start) = start else {
                return Err(refused(name, "its Authorization header has no Signature"));
            };
            let rest = &value[start..];
            let end = start + rest.find([',', ' ']).unwrap_or(rest.len());
            let renewed = format!("{}{signature}{}", &value[..start], &value[end..]);
            let mut renewed =
                HeaderValue::try_from(renewed).map_err(|_| refused(name, "its Authorization header is not text"))?;
            renewed.set_sensitive(true);
            head.headers.insert(AUTHORIZATION, renewed);
        } else {
            let query = head.uri.query().unwrap_or_default();
            let renewed: Vec<String> = query
                .split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((key @ "X-Amz-Signature", _)) => format!("{key}={signature}"),
                    _ => pair.to_owned(),
                })
                .collect();
            set_query(head, &renewed.join("&")).ok_or_else(|| refused(name, "its address is not one"))?;
        }
        Ok(signature)
    }

    /// The key that signs, from a secret.
    pub(super) fn signing_key(&self, secret: &str) -> hmac::Key {
        let start = Zeroizing::new([b"AWS4", secret.as_bytes()].concat());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &start);
        for part in self.scope.split('/') {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        key
    }

    fn signature_of(&self, key: &hmac::Key, canonical: &str) -> String {
        let (time, scope) = (&self.time, &self.scope);
        let hash = sha256(canonical.as_bytes());
        mac(key, &format!("{ALGORITHM}\n{time}\n{scope}\n{hash}"))
    }

    /// The text that is signed, up to the hash of the body.
    fn canonical(&self, head: &Parts, style: PathStyle) -> String {
        let mut out = format!("{}\n{}\n", head.method, written_path(head.uri.path(), style));
        out.push_str(&canonical_query(head.uri.query().unwrap_or_default()));
        out.push('\n');
        for name in &self.headers {
            let values: Vec<String> = if name == HOST.as_str() && !head.headers.contains_key(HOST) {
                head.uri
                    .authority()
                    .map(|a| a.as_str().to_owned())
                    .into_iter()
                    .collect()
            } else {
                let values = head.headers.get_all(name.as_str()).iter();
                values
                    .map(|v| {
                        let text = String::from_utf8_lossy(v.as_bytes()).into_owned();
                        text.split([' ', '\t'])
                            .filter(|w| !w.is_empty())
                            .collect::<Vec<_>>()
                            .join(" ")
                    })
                    .collect()
            };
            out.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        out.push_str(&format!("\n{}\n", self.headers.join(";")));
        out
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    String::from_utf8(hex(hash.as_ref(), false)).expect("hexadecimal digits are ASCII")
}

pub(super) fn mac(key: &hmac::Key, text: &str) -> String {
    let tag = hmac::sign(key, text.as_bytes());
    String::from_utf8(hex(tag.as_ref(), false)).expect("hexadecimal digits are ASCII")
}

fn written_path(path: &str, style: PathStyle) -> String {
    let path = if path.is_empty() { "/" } else { path };
    match style {
        PathStyle::Sent => path.to_owned(),
        PathStyle::Twice => percent_encode(path.as_bytes(), true),
        PathStyle::Normal => {
            let segments = path
                .split('/')
                .map(|s| percent_encode(&percent_decode(s.as_bytes()), false));
            segments.collect::<Vec<_>>().join("/")
        }
        PathStyle::Short => {
            let mut kept: Vec<&str> = Vec::new();
            for segment in path.split('/') {
                match segment {
                    "" | "." => {}
                    ".." => {
                        kept.pop();
                    }
                    _ => kept.push(segment),
                }
            }
            let slash = if path.ends_with('/') && !kept.is_empty() {
                "/"
            } else {
                ""
            };
            percent_encode(format!("/{}{slash}", kept.join("/")).as_bytes(), true)
        }
    }
}

fn canonical_query(query: &str) -> String {
    let written = |text: &str| percent_encode(&percent_decode(text.as_bytes()), false);
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| *key != "X-Amz-Signature")
        .map(|(key, value)| (written(key), written(value)))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join("&")
}
