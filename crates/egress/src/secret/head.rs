//! Heads of requests: headers, Basic authentication, query; and what the body needs.
//!
//! Nothing is ever substituted in the method, the host, the path or a header's name. A head that is refused may be
//! half rewritten: it must not be sent.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderName, HeaderValue, IF_RANGE, RANGE, SEC_WEBSOCKET_EXTENSIONS,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{StatusCode, Uri};
use zeroize::Zeroizing;

use super::body::{self, BodyRewriter};
use super::encode::Context;
use super::outcome::{Blocked, BodyPlan, Handling, Limits, Location, Reason, Use};
use super::scrub::joined;
use super::set::{Inner, SecretSet};
use super::sigv4::{self, Signed};
use super::spec::Destination;
use super::substitute::Place;

/// A head that may go out, once its body's plan allows it.
pub struct HeadOutcome {
    /// Credentials that were found in the head.
    pub uses: Vec<Use>,
    /// How the body goes out; the rewriter does it.
    pub body: BodyPlan,
    /// What the body goes through. With [`BodyPlan::Pass`] it may be left out.
    pub rewriter: BodyRewriter,
}

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Codings whose responses can be searched.
const CODINGS: [&str; 6] = ["identity", "gzip", "x-gzip", "deflate", "br", "zstd"];

impl SecretSet {
    /// Substitutes in the head of a request, and plans its body.
    ///
    /// Besides, with any secret in the set: offers of codings that cannot be searched on the way back are taken out
    /// (`Accept-Encoding`, `Sec-WebSocket-Extensions`, `grpc-accept-encoding`), and a request that carries a secret asks
    /// for whole responses (`Range` is taken out, unless it is signed), since pieces of a secret cannot be recognised.
    ///
    /// An error means that nothing of the request may be sent.
    pub fn rewrite_head(&self, to: &Destination, head: &mut Parts, limits: &Limits) -> Result<HeadOutcome, Blocked> {
        let mut uses = Vec::new();
        if self.is_empty() {
            return Ok(HeadOutcome {
                uses,
                body: BodyPlan::Pass,
                rewriter: BodyRewriter::pass(),
            });
        }
        let set = &*self.inner;
        set.look_at_names(to, head, &mut uses)?;
        let mut signed = sigv4::recognise(set, head)?;
        if let Some(found) = &signed
            && !set.judge(found.key, to, Location::Signature)?
        {
            super::outcome::note(&mut uses, set.name(found.key), Location::Signature, false);
            signed = None;
        }
        set.rewrite_headers(to, head, signed.as_ref(), &mut uses)?;
        set.rewrite_query(to, head, signed.as_ref(), &mut uses)?;
        narrow_offers(head);
        if signed.is_none() && uses.iter().any(|u| u.substituted) {
            head.headers.remove(RANGE);
            head.headers.remove(IF_RANGE);
        }
        if let Some(found) = &signed {
            super::outcome::note(&mut uses, set.name(found.key), Location::Signature, true);
        }
        let rewriter = body::plan(&self.inner, to, head, signed, limits)?;
        Ok(HeadOutcome {
            uses,
            body: rewriter.plan(),
            rewriter,
        })
    }
}

impl Inner {
    /// Parts of the head that are compared without regard to case, or never rewritten.
    fn look_at_names(&self, to: &Destination, head: &Parts, uses: &mut Vec<Use>) -> Result<(), Blocked> {
        let place = |location| Place {
            to,
            location,
            context: Context::Plain,
        };
        self.look(&place(Location::Name), head.method.as_str().as_bytes(), uses)?;
        self.look(&place(Location::Path), head.uri.path().as_bytes(), uses)?;
        let mut hosts = vec![to.host.to_ascii_lowercase()];
        hosts.extend(head.uri.host().map(str::to_ascii_lowercase));
        hosts.extend(
            head.headers
                .get_all(HOST)
                .iter()
                .map(|h| String::from_utf8_lossy(h.as_bytes()).to_ascii_lowercase()),
        );
        for (owner, placeholder) in self.lower_placeholders.iter().enumerate() {
            let in_host = hosts.iter().any(|host| host.contains(placeholder.as_str()));
            let in_name = head
                .headers
                .keys()
                .any(|name| name.as_str().contains(placeholder.as_str()));
            if in_host && self.rules.foreign == Handling::Block {
                return Err(Blocked::foreign(self.name(owner), &to.host, Location::Host));
            }
            if in_name {
                self.judge(owner, to, Location::Name)?;
            }
        }
        Ok(())
    }

    fn rewrite_headers(
        &self,
        to: &Destination,
        head: &mut Parts,
        signed: Option<&Signed>,
        uses: &mut Vec<Use>,
    ) -> Result<(), Blocked> {
        for (name, value) in head.headers.iter_mut() {
            if name == HOST {
                continue;
            }
            let basic = (name == AUTHORIZATION).then(|| basic_of(value)).flatten();
            let (location, text) = match &basic {
                Some(decoded) => (Location::Basic, &decoded[..]),
                None if name == AUTHORIZATION && signed.is_some_and(Signed::in_header) => {
                    (Location::Signature, value.as_bytes())
                }
                None => (Location::Header, value.as_bytes()),
            };
            let place = Place {
                to,
                location,
                context: Context::Plain,
            };
            let Some(written) = self.substitute(&place, text, uses)?.map(Zeroizing::new) else {
                continue;
            };
            let written = match basic {
                Some(_) => Zeroizing::new(format!("Basic {}", STANDARD.encode(&written)).into_bytes()),
                None => written,
            };
            let unfit = |_| Blocked::request(StatusCode::BAD_REQUEST, Reason::Unfit { location });
            let mut new = HeaderValue::from_bytes(&written).map_err(unfit)?;
            // Never indexed by header compression, never shown by Debug.
            new.set_sensitive(true);
            *value = new;
        }
        Ok(())
    }

    fn rewrite_query(
        &self,
        to: &Destination,
        head: &mut Parts,
        signed: Option<&Signed>,
        uses: &mut Vec<Use>,
    ) -> Result<(), Blocked> {
        let Some(query) = head.uri.query() else {
            return Ok(());
        };
        let mut written = String::with_capacity(query.len());
        let mut changed = false;
        for (index, pair) in query.split('&').enumerate() {
            let key = pair.split('=').next().unwrap_or_default();
            let of_signature = matches!(key, "X-Amz-Credential" | "X-Amz-Security-Token");
            let location = if of_signature && signed.is_some_and(|s| !s.in_header()) {
                Location::Signature
            } else {
                Location::Query
            };
            let place = Place {
                to,
                location,
                context: Context::Form,
            };
            if index > 0 {
                written.push('&');
            }
            match self.substitute(&place, pair.as_bytes(), uses)? {
                Some(new) => {
                    changed = true;
                    written.push_str(&String::from_utf8_lossy(&new));
                }
                None => written.push_str(pair),
            }
        }
        if changed {
            set_query(head, &written).ok_or_else(|| {
                let location = Location::Query;
                Blocked::request(StatusCode::BAD_REQUEST, Reason::Unfit { location })
            })?;
        }
        Ok(())
    }
}

/// Puts another query into the address.
pub(super) fn set_query(head: &mut Parts, query: &str) -> Option<()> {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", |p| p.path());
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{path}?{query}")).ok()?);
    head.uri = Uri::from_parts(parts).ok()?;
    Some(())
}

/// User and password of Basic authentication, decoded.
fn basic_of(value: &HeaderValue) -> Option<Zeroizing<Vec<u8>>> {
    let text = value.to_str().ok()?;
    let (scheme, coded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let coded = coded.trim().trim_end_matches('=');
    let decoded = STANDARD_NO_PAD
        .decode(coded)
        .or_else(|_| URL_SAFE_NO_PAD.decode(coded))
        .ok()?;
    Some(Zeroizing::new(decoded))
}

/// Takes out offers whose acceptance could not be searched on the way back.
fn narrow_offers(head: &mut Parts) {
    let headers = &mut head.headers;
    if headers.contains_key(ACCEPT_ENCODING) {
        let offers = joined(headers, &ACCEPT_ENCODING);
        let known: Vec<&str> = offers
            .split(',')
            .map(str::trim)
            .filter(|offer| {
                let coding = offer.split(';').next().unwrap_or_default().trim();
                CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known))
            })
            .collect();
        if known.len() != offers.split(',').count() {
            let narrowed = if known.is_empty() {
                "identity".to_owned()
            } else {
                known.join(", ")
            };
            // A list of tokens from a header value is a header value.
            let value = HeaderValue::try_from(narrowed).unwrap_or_else(|_| HeaderValue::from_static("identity"));
            headers.insert(ACCEPT_ENCODING, value);
        }
    }
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if headers.contains_key(GRPC_ACCEPT_ENCODING) {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}
