//! The answer to one question.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::svcb::{Alpn, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::ResolveError;
use crate::pins::Family;
use crate::policy::{Protocol, Request, host_name};
use crate::shared::Shared;

/// The longest time to live that a sandbox is told.
const LONGEST: Duration = Duration::from_secs(300);
/// The most addresses that are answered.
const ADDRESSES: usize = 32;
/// Extended errors of RFC 8914.
const OTHER: u16 = 0;
const PROHIBITED: u16 = 18;
const NO_REACHABLE_AUTHORITY: u16 = 22;
/// The option that carries them.
const EXTENDED_ERROR: u16 = 15;

/// Why there is no answer.
struct Refused {
    code: ResponseCode,
    extended: Option<(u16, String)>,
}

impl Refused {
    fn code(code: ResponseCode) -> Refused {
        Refused { code, extended: None }
    }

    fn policy(reason: &str, rule: &str) -> Refused {
        Refused {
            code: ResponseCode::NXDomain,
            extended: Some((PROHIBITED, format!("outwork: {reason} (rule {rule})"))),
        }
    }
}

/// The message that answers a message; `None` if it is not one that gets an answer.
pub(super) async fn answer(shared: &Shared, bytes: &[u8], largest: usize) -> Option<Vec<u8>> {
    let Ok(question) = Message::from_vec(bytes) else {
        // The id and the flag that says which way it goes are the least that a message has.
        let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
        if bytes.get(2)? & 0x80 != 0 {
            return None;
        }
        return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
            .to_vec()
            .ok();
    };
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&question.queries);
    let mut edns = question.edns.as_ref().map(|_| {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns
    });
    match records(shared, &question).await {
        Ok(records) => reply.answers = records,
        Err(refused) => {
            reply.metadata.response_code = refused.code;
            if let (Some(edns), Some((code, text))) = (&mut edns, refused.extended) {
                let mut data = code.to_be_bytes().to_vec();
                data.extend_from_slice(text.as_bytes());
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
            }
        }
    }
    // On a stream there is room for every message; a datagram has what its sender says.
    let room = match (largest == usize::from(u16::MAX), &question.edns) {
        (true, _) => largest,
        (false, Some(edns)) => usize::from(edns.max_payload()).clamp(512, largest),
        (false, None) => 512,
    };
    reply.edns = edns;
    let whole = reply.to_vec().ok()?;
    if whole.len() <= room {
        Some(whole)
    } else {
        reply.truncate().to_vec().ok()
    }
}

async fn records(shared: &Shared, question: &Message) -> Result<Vec<Record>, Refused> {
    if question.metadata.op_code != OpCode::Query {
        return Err(Refused::code(ResponseCode::NotImp));
    }
    let [query] = &question.queries[..] else {
        return Err(Refused::code(ResponseCode::FormErr));
    };
    shared.stats.names_asked();
    let policy = shared.policy();
    if let (Err(reason), false) = (shared.guard.question(), policy.is_unchecked()) {
        return Err(Refused {
            code: ResponseCode::Refused,
            extended: Some((PROHIBITED, format!("outwork: {reason}"))),
        });
    }
    if query.query_class() != DNSClass::IN {
        return Err(Refused::code(ResponseCode::Refused));
    }
    let asked = query.name().to_ascii();
    let Ok(name) = host_name(&asked.to_ascii_lowercase()) else {
        let reason = "what was asked for is not a host name";
        refuse(shared, &shown(&asked), "host-name", reason).await?;
        return Err(Refused::policy(reason, "host-name"));
    };
    let kind = query.query_type();
    let allowed = matches!(
        kind,
        RecordType::A | RecordType::AAAA | RecordType::CNAME | RecordType::HTTPS | RecordType::SVCB
    );
    let decision = policy.decide(&Request::name(&name));
    if !decision.allowed {
        refuse(shared, &name, &decision.rule, &decision.reason).await?;
        return Err(Refused::policy(&decision.reason, &decision.rule));
    }
    if !allowed && !policy.is_unchecked() {
        // The name is allowed, this type of record has nothing to offer.
        return Ok(Vec::new());
    }
    let family = match kind {
        RecordType::A => Family::V4,
        RecordType::AAAA => Family::V6,
        _ => return others(shared, query.name(), &name, kind, &decision.rule).await,
    };
    let (addresses, ttl) = resolve(shared, &name, family).await.map_err(|error| match error {
        NoAnswer::Refused { rule, reason } => Refused::policy(&reason, &rule),
        NoAnswer::Failed(error) => unresolved(&error),
        NoAnswer::NotRecorded => Refused {
            code: ResponseCode::ServFail,
            extended: Some((
                OTHER,
                "outwork: the record of the question could not be kept, so it was not asked".to_owned(),
            )),
        },
    })?;
    let ttl = u32::try_from(ttl.min(LONGEST).as_secs()).unwrap_or(0);
    Ok(addresses
        .iter()
        .map(|address| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            Record::from_rdata(query.name().clone(), ttl, data)
        })
        .collect())
}

fn unresolved(error: &ResolveError) -> Refused {
    match error {
        ResolveError::NoName => Refused::code(ResponseCode::NXDomain),
        ResolveError::Failed(_) => Refused {
            code: ResponseCode::ServFail,
            extended: Some((
                NO_REACHABLE_AUTHORITY,
                "outwork: the name servers gave no answer".to_owned(),
            )),
        },
    }
}

/// Why an allowed name has no addresses.
pub(crate) enum NoAnswer {
    /// Bounds on questions, or addresses that may not be reached.
    Refused { rule: Arc<str>, reason: String },
    /// The name servers.
    Failed(ResolveError),
    /// The record of it was not kept.
    NotRecorded,
}

/// The vetted addresses of an allowed name, and how long they hold: pinned ones, or new ones, which are then pinned.
pub(crate) async fn resolve(
    shared: &Shared,
    name: &str,
    family: Family,
) -> Result<(Arc<[IpAddr]>, Duration), NoAnswer> {
    if let Some(fresh) = shared.pins.fresh(name, family, Instant::now()) {
        return Ok(fresh);
    }
    let policy = shared.policy();
    let refused = |rule: &str, reason: String| NoAnswer::Refused {
        rule: rule.into(),
        reason,
    };
    if let (Err(reason), false) = (shared.guard.chosen(policy.free_part(name)), policy.is_unchecked()) {
        refuse(shared, name, "dns-quota", reason)
            .await
            .map_err(|_| NoAnswer::NotRecorded)?;
        return Err(refused("dns-quota", reason.to_owned()));
    }
    let decision = policy.decide(&Request::name(name));
    shared
        .asked(name, &decision.rule)
        .await
        .map_err(|()| NoAnswer::NotRecorded)?;
    let found = shared
        .resolver
        .addresses(name, family)
        .await
        .map_err(NoAnswer::Failed)?;
    let mut kept = Vec::new();
    let mut bad = None;
    for address in found
        .addresses
        .into_iter()
        .filter(|address| family.holds(*address))
        .take(ADDRESSES)
    {
        let request = Request {
            address: Some(address),
            protocol: Protocol::Dns,
            ..Request::name(name)
        };
        let decision = policy.decide(&request);
        match decision.allowed {
            true if !kept.contains(&address) => kept.push(address),
            true => {}
            false => bad = bad.or(Some((address, decision))),
        }
    }
    if let (Some((address, decision)), true) = (bad, kept.is_empty()) {
        let reason = format!("{name} resolves to {address}: {}", decision.reason);
        refuse(shared, name, &decision.rule, &reason)
            .await
            .map_err(|_| NoAnswer::NotRecorded)?;
        return Err(NoAnswer::Refused {
            rule: decision.rule,
            reason,
        });
    }
    shared.pins.pin(name, family, &kept, found.ttl, Instant::now());
    let fresh = shared.pins.fresh(name, family, Instant::now());
    Ok(fresh.unwrap_or_else(|| (kept.into(), found.ttl)))
}

/// Records that are not addresses.
async fn others(
    shared: &Shared,
    asked: &Name,
    name: &str,
    kind: RecordType,
    rule: &Arc<str>,
) -> Result<Vec<Record>, Refused> {
    let policy = shared.policy();
    if let (Err(reason), false) = (shared.guard.chosen(policy.free_part(name)), policy.is_unchecked()) {
        refuse(shared, name, "dns-quota", reason).await?;
        return Err(Refused::policy(reason, "dns-quota"));
    }
    shared
        .asked(name, rule)
        .await
        .map_err(|()| Refused::code(ResponseCode::ServFail))?;
    let found = shared.resolver.records(name, kind).await;
    let found = found.map_err(|error| unresolved(&error))?;
    if policy.is_unchecked() {
        return Ok(found);
    }
    let ttl = |record: &Record| record.ttl.min(u32::try_from(LONGEST.as_secs()).unwrap_or(300));
    Ok(found
        .into_iter()
        .filter_map(|record| {
            let data = match (&record.data, kind) {
                (RData::CNAME(alias), RecordType::CNAME) => RData::CNAME(alias.clone()),
                (RData::HTTPS(https), RecordType::HTTPS) => RData::HTTPS(HTTPS(plain(&https.0, asked)?)),
                (RData::SVCB(svcb), RecordType::SVCB) => RData::SVCB(plain(svcb, asked)?),
                _ => return None,
            };
            Some(Record::from_rdata(asked.clone(), ttl(&record), data))
        })
        .take(ADDRESSES)
        .collect())
}

/// A service binding without what leads around the boundary. `None` if nothing useful is left.
fn plain(svcb: &SVCB, asked: &Name) -> Option<SVCB> {
    // Another target would be reached under another name, which is decided on its own.
    if svcb.svc_priority == 0 || !(svcb.target_name.is_root() || svcb.target_name.eq_ignore_root(asked)) {
        return None;
    }
    let mut parameters = Vec::new();
    for (key, value) in &svcb.svc_params {
        match (key, value) {
            (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn)) => {
                let kept: Vec<String> = alpn.0.iter().filter(|name| !name.starts_with("h3")).cloned().collect();
                if kept.is_empty() {
                    return None;
                }
                parameters.push((*key, SvcParamValue::Alpn(Alpn(kept))));
            }
            (SvcParamKey::NoDefaultAlpn, _) => parameters.push((*key, value.clone())),
            // What a client must understand and is taken away makes the record useless to it.
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(keys)) => {
                let known = |key: &SvcParamKey| matches!(key, SvcParamKey::Alpn | SvcParamKey::NoDefaultAlpn);
                if !keys.0.iter().all(known) {
                    return None;
                }
                parameters.push((*key, value.clone()));
            }
            // Encrypted client hellos, hints of addresses, other ports, and what is not known.
            _ => {}
        }
    }
    Some(SVCB::new(svcb.svc_priority, svcb.target_name.clone(), parameters))
}

/// Records a refused name. The answer must wait for it.
async fn refuse(shared: &Shared, name: &str, rule: &str, reason: &str) -> Result<(), Refused> {
    shared
        .refuse(&Request::name(name), rule, reason)
        .await
        .map_err(|()| Refused::code(ResponseCode::ServFail))
}

/// A name that is none, cut to what a record may hold.
fn shown(asked: &str) -> String {
    asked.chars().filter(char::is_ascii_graphic).take(253).collect()
}
