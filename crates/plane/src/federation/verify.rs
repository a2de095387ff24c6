//! The check of one token of an identity provider.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors};
use outwork_wire::Time;
use serde::Deserialize;

use super::{FederationError, Rule};

/// The largest token.
const MAX_TOKEN: usize = 16 * 1024;
/// By how much the clocks may differ, in seconds.
const LEEWAY: u64 = 30;
/// The longest time from `iat` to `exp`: 49 hours, as the hosted service allows.
const MAX_LIFETIME: i64 = 176_400;
/// The longest subject that is kept.
const MAX_SUBJECT: usize = 255;

/// A token that was believed.
#[derive(Debug)]
pub(crate) struct Assertion {
    /// Whom the identity provider named.
    pub(crate) subject: String,
    /// When the token ends.
    pub(crate) expires_at: Time,
}

/// What is looked at after the library has made sure that the required claims are there.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    exp: f64,
    #[serde(default)]
    iat: Option<f64>,
}

impl Rule {
    /// Whether a token is one that this rule believes.
    pub(crate) async fn verify(&self, token: &str, now: Time) -> Result<Assertion, FederationError> {
        if token.len() > MAX_TOKEN {
            return refused(format!(
                "the assertion has {} bytes; at most {MAX_TOKEN} are taken",
                token.len()
            ));
        }
        let header = decode_header(token)
            .map_err(|_| FederationError::Refused("the assertion is not a JSON web token in compact form".into()))?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
            return refused("the assertion is signed with another algorithm than RS256, ES256 and EdDSA");
        }
        if header.crit.is_some() {
            return refused("the assertion has critical header fields, of which none is known here");
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.asks.issuer]);
        validation.set_audience(&[&self.asks.audience]);

        // A token without a `kid` fits any key of its algorithm.
        let keys = self.issuer.keys(header.kid.as_deref()).await?;
        let keys = keys.iter().filter(|key| fits(key, header.alg));
        let mut claims =
            Err("the issuer publishes no key of the algorithm that the assertion is signed with".to_owned());
        for key in keys {
            let key = DecodingKey::from_jwk(key)
                .map_err(|_| FederationError::Refused("the issuer's key cannot be used".into()))?;
            claims = decode::<Claims>(token, &key, &validation)
                .map(|data| data.claims)
                .map_err(|error| self.reason(&error));
            if claims.is_ok() {
                break;
            }
        }
        let claims = claims.map_err(FederationError::Refused)?;
        self.check(claims, now)
    }

    /// What is asked of a token beyond its signature and its standard claims.
    fn check(&self, claims: Claims, now: Time) -> Result<Assertion, FederationError> {
        let seconds = now.as_micros().div_euclid(1_000_000);
        let Some(issued_at) = claims.iat else {
            return refused("the assertion has no `iat`");
        };
        let (issued_at, ends_at) = (issued_at as i64, claims.exp as i64);
        if issued_at > seconds.saturating_add(LEEWAY as i64) {
            return refused("the assertion's `iat` is in the future");
        }
        if ends_at.saturating_sub(issued_at) > MAX_LIFETIME {
            return refused(format!("the assertion lasts longer than {MAX_LIFETIME} s"));
        }
        let fits = claims.sub.len() <= MAX_SUBJECT && !claims.sub.chars().any(char::is_control);
        if !fits || !self.asks.subject.matches(&claims.sub) {
            return refused(format!(
                "the assertion's `sub`, `{}`, is not one that the rule {} lets in",
                crate::http::shortened(&claims.sub),
                self.id
            ));
        }
        Ok(Assertion {
            subject: claims.sub,
            expires_at: Time::from_micros(ends_at.saturating_mul(1_000_000)),
        })
    }

    fn reason(&self, error: &errors::Error) -> String {
        use errors::ErrorKind as Kind;
        match error.kind() {
            Kind::InvalidSignature => "the assertion's signature does not fit the issuer's key".into(),
            Kind::ExpiredSignature => "the assertion has expired".into(),
            Kind::ImmatureSignature => "the assertion is not valid yet (`nbf`)".into(),
            Kind::InvalidIssuer => format!("the assertion's `iss` is not that of the rule {}", self.id),
            Kind::InvalidAudience => format!("the assertion's `aud` does not have that of the rule {}", self.id),
            Kind::MissingRequiredClaim(claim) => format!("the assertion has no `{claim}`"),
            Kind::InvalidClaimFormat(claim) => format!("the assertion's `{claim}` is not of the right form"),
            _ => "the assertion cannot be read".into(),
        }
    }
}

/// Whether a key is for signatures of this algorithm.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    use jsonwebtoken::jwk::{AlgorithmParameters as Kind, EllipticCurve, KeyAlgorithm};
    let (named, kind) = match algorithm {
        Algorithm::RS256 => (KeyAlgorithm::RS256, matches!(key.algorithm, Kind::RSA(_))),
        Algorithm::ES256 => (
            KeyAlgorithm::ES256,
            matches!(&key.algorithm, Kind::EllipticCurve(p) if p.curve == EllipticCurve::P256),
        ),
        Algorithm::EdDSA => (
            KeyAlgorithm::EdDSA,
            matches!(&key.algorithm, Kind::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519),
        ),
        _ => return false,
    };
    kind && key.common.key_algorithm.is_none_or(|algorithm| algorithm == named)
}

fn refused<T>(message: impl Into<String>) -> Result<T, FederationError> {
    Err(FederationError::Refused(message.into()))
}
