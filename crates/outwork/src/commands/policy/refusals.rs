//! What was refused to a session, from the records of ledgers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use outwork_egress::{Protocol, Refusal};
use outwork_ledger::{Decision, Kind, Record};

/// A refusal of the proxy that a record is about; other records are about other things.
pub(super) fn of_record(record: &Record) -> Option<Refusal> {
    if record.decision != Some(Decision::Denied) || !matches!(record.kind, Kind::Connection | Kind::DnsQuery) {
        return None;
    }
    let protocol = [
        Protocol::Dns,
        Protocol::Tls,
        Protocol::Https,
        Protocol::Http,
        Protocol::Opaque,
    ]
    .into_iter()
    .find(|protocol| record.route.as_deref() == Some(protocol.as_str()))?;
    let (host, port) = match record.destination.as_deref() {
        None => (None, None),
        Some(place) => match (place.parse::<SocketAddr>(), place.rsplit_once(':')) {
            (Ok(address), _) => (None, Some(address.port())),
            (Err(_), Some((host, port))) => (Some(host.to_owned()), port.parse().ok()),
            (Err(_), None) => (Some(place.to_owned()), None),
        },
    };
    let address: Option<IpAddr> = record.address.as_deref().and_then(|address| address.parse().ok());
    Some(Refusal {
        at: record.at,
        count: 1,
        protocol,
        host,
        address,
        port,
        method: record.http_method.clone(),
        path: record.http_path.clone(),
        rule: record.rule.clone().unwrap_or_default(),
        reason: record.reason.clone().unwrap_or_default(),
    })
}

/// Equal ones counted together, the last time kept.
pub(super) fn counted(all: impl IntoIterator<Item = Refusal>) -> Vec<Refusal> {
    let mut merged: BTreeMap<_, Refusal> = BTreeMap::new();
    for refusal in all {
        let key = (
            refusal.host.clone(),
            refusal.address,
            refusal.port,
            refusal.protocol.as_str(),
            refusal.method.clone(),
            refusal.path.clone(),
            refusal.rule.clone(),
        );
        match merged.get_mut(&key) {
            Some(known) => {
                known.count += refusal.count;
                known.at = known.at.max(refusal.at);
            }
            None => {
                merged.insert(key, refusal);
            }
        }
    }
    merged.into_values().collect()
}

/// Whether a rule that allows could have let it through. Others were refused by a check that no rule opens, by a rule
/// that refuses, or by a quota.
pub(super) fn can_be_allowed(refusal: &Refusal) -> bool {
    let by_policy = refusal.rule.contains('/') || refusal.rule == "default";
    by_policy && !refusal.reason.ends_with("is refused by a rule") && !refusal.reason.ends_with("is used up")
}

#[cfg(test)]
mod tests {
    use outwork_egress::policy::{Exhausted, HttpRequest, Request};
    use outwork_egress::{Document, Policy};
    use outwork_wire::Time;

    use super::*;

    fn record(rule: &str, reason: &str) -> Record {
        let mut record = Record::new(Kind::Connection, Time::from_micros(5)).decided(Decision::Denied, rule);
        record.reason = Some(reason.into());
        record.route = Some("https".into());
        record
    }

    #[test]
    fn a_record_says_what_was_refused() {
        let mut named = record("worker/default", "no rule");
        named.destination = Some("a.example:8443".into());
        named.address = Some("198.51.100.1".into());
        (named.http_method, named.http_path) = (Some("GET".into()), Some("/x".into()));
        let refusal = of_record(&named).unwrap();
        assert_eq!((refusal.host.as_deref(), refusal.port), (Some("a.example"), Some(8443)));
        assert_eq!(
            (refusal.method.as_deref(), refusal.path.as_deref()),
            (Some("GET"), Some("/x"))
        );
        let mut plain = record("worker/default", "no rule");
        plain.destination = Some("[2001:db8::1]:443".into());
        plain.address = Some("2001:db8::1".into());
        let refusal = of_record(&plain).unwrap();
        assert_eq!((refusal.host, refusal.port), (None, Some(443)));
        assert_eq!(refusal.address, Some("2001:db8::1".parse().unwrap()));
        let mut name = Record::new(Kind::DnsQuery, Time::from_micros(5)).decided(Decision::Denied, "worker/default");
        name.destination = Some("b.example".into());
        name.route = Some("dns".into());
        assert_eq!(of_record(&name).unwrap().host.as_deref(), Some("b.example"));
        assert!(of_record(&named.clone().decided(Decision::Allowed, "r")).is_none());
        assert!(of_record(&Record::new(Kind::FileOut, Time::from_micros(5)).decided(Decision::Denied, "r")).is_none());
        let merged = counted([of_record(&named).unwrap(), of_record(&named).unwrap()]);
        assert_eq!((merged.len(), merged[0].count), (1, 2));
    }

    /// The reasons are those that the proxy gives, so this fails if they change.
    #[test]
    fn what_no_rule_can_open_is_told_apart() {
        let text = "[[allow]]\nhost = \"a.example\"\nmethods = [\"GET\"]\n[[deny]]\nhost = \"b.example\"\n";
        let policy = Policy::new("worker", &Document::from_toml("p", text).unwrap(), &[]);
        let refusal = |host: &str, address: Option<&str>, method: Option<&str>| {
            let request = Request {
                host: Some(host),
                claimed: None,
                address: address.map(|address| address.parse().unwrap()),
                port: Some(443),
                protocol: Protocol::Https,
                http: method.map(|method| HttpRequest {
                    method,
                    path: "/",
                    query: None,
                }),
            };
            let decision = policy.decide(&request);
            assert!(!decision.allowed);
            of_record(&record(&decision.rule, &decision.reason)).unwrap()
        };
        assert!(can_be_allowed(&refusal("c.example", None, None)));
        assert!(can_be_allowed(&refusal("a.example", None, Some("POST"))));
        assert!(!can_be_allowed(&refusal("b.example", None, None)));
        assert!(!can_be_allowed(&refusal("a.example", Some("169.254.169.254"), None)));
        let exhausted = Exhausted {
            rule: "worker/a".into(),
            what: "requests",
        };
        let quota = of_record(&record(&exhausted.rule, &exhausted.to_string())).unwrap();
        assert!(!can_be_allowed(&quota));
        assert!(!can_be_allowed(
            &of_record(&record("http-host", "the request is for another")).unwrap()
        ));
        assert!(!can_be_allowed(&of_record(&record("secret", "blocked")).unwrap()));
    }
}
