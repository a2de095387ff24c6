//! What the network policy refused while a call ran, in words for the agent.
//!
//! An opened connection is refused with an answer that says why. A name that is not resolved and a connection that is cut
//! have no room for words: programs say "could not resolve host" or "connection reset", which looks like a broken network.
//! So the call's result says it.

use outwork_egress::{Protocol, Refusal};
use outwork_wire::Time;
use serde_json::{Value, json};

/// The most refusals that are named.
const NAMED: usize = 5;

/// Adds what was refused since `begun` to the event that answers a call, as a text of its own.
pub(crate) fn tell(answer: &mut Value, refusals: &[Refusal], begun: Time) {
    let Some(text) = note(refusals, begun) else { return };
    if let Some(content) = answer["content"].as_array_mut() {
        content.push(json!({ "type": "text", "text": text }));
    }
}

fn note(refusals: &[Refusal], begun: Time) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    let speechless = |refusal: &&Refusal| match refusal.protocol {
        Protocol::Dns | Protocol::Opaque => true,
        Protocol::Tls => refusal.host.is_none(),
        Protocol::Http | Protocol::Https => false,
    };
    for refusal in refusals.iter().filter(|one| one.at >= begun).filter(speechless) {
        let what = match (&refusal.host, refusal.address, refusal.port) {
            (Some(host), _, Some(port)) => format!("{host}:{port}"),
            (Some(host), _, None) => host.clone(),
            (None, Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
            (None, Some(address), None) => address.to_string(),
            (None, None, _) => continue,
        };
        let line = format!("- {what}: {} (rule {})", refusal.reason, refusal.rule);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    if lines.is_empty() {
        return None;
    }
    if more > 0 {
        lines.push(format!("- and {more} more"));
    }
    Some(format!(
        "\noutwork: while this ran, the network policy refused:\n{}",
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(protocol: Protocol, host: Option<&str>, at: Time) -> Refusal {
        Refusal {
            at,
            count: 1,
            protocol,
            host: host.map(str::to_owned),
            address: Some("203.0.113.9".parse().unwrap()),
            port: Some(443),
            method: None,
            path: None,
            rule: "worker/default".into(),
            reason: "no rule allows it".into(),
        }
    }

    #[test]
    fn only_what_nothing_else_said_is_told() {
        let (before, begun) = (Time::from_micros(1_000), Time::from_micros(2_000));
        let name = refusal(Protocol::Dns, Some("evil.example"), begun);
        let refusals = [
            name.clone(),
            name,
            refusal(Protocol::Dns, Some("earlier.example"), before),
            refusal(Protocol::Https, Some("answered.example"), begun),
            refusal(Protocol::Tls, Some("greeted.example"), begun),
            refusal(Protocol::Opaque, None, begun),
        ];
        let mut answer = json!({ "content": [{ "type": "text", "text": "out" }] });
        tell(&mut answer, &refusals, begun);
        assert_eq!(
            answer["content"][1]["text"],
            "\noutwork: while this ran, the network policy refused:\n\
             - evil.example:443: no rule allows it (rule worker/default)\n\
             - 203.0.113.9:443: no rule allows it (rule worker/default)"
        );
        let mut answer = json!({ "content": [] });
        tell(&mut answer, &refusals[2..5], begun);
        assert_eq!(answer, json!({ "content": [] }));
        let many: Vec<_> = (0..9)
            .map(|n| refusal(Protocol::Dns, Some(&format!("{n}.example")), begun))
            .collect();
        assert!(note(&many, begun).unwrap().ends_with("- and 4 more"));
    }
}
