//! Identities: an issuer with keys, and tokens it signs.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://plane.example";

pub struct Issuer {
    key: Ed25519KeyPair,
    pub kid: String,
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    pub fn new(kid: &str) -> Issuer {
        Issuer {
            key: Ed25519KeyPair::generate().unwrap(),
            kid: kid.to_owned(),
        }
    }

    pub fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid,
            "x": BASE64_URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref())})
    }

    pub fn jwks(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    /// Claims as the plane makes them, for a host and a tool.
    pub fn claims(host: &str, tool: Option<&str>) -> Value {
        json!({"iss": ISSUER, "sub": "agent", "aud": format!("https://{host}"), "iat": now(), "exp": now() + 120,
            "workspace_id": "wrkspc_1", "agent_id": "agent_1", "agent_version": 3, "session_id": "sesn_1", "tool": tool})
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "EdDSA", "kid": self.kid}), claims)
    }

    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
