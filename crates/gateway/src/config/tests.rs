//! What files say, and what is said about files that say it wrong.

use super::*;
use crate::config::text::Scheme;

/// A file of the hosted proxy's shape.
const HOSTED: &str = "\
listen_addr: \":8080\"
log_level: info
shutdown_timeout: 30s
tunnel_domain: abc.tunnel.example
tls:
  cert_file: /etc/mcp-gateway/tls/tls.crt
  key_file: tls.key
routes:
  wiki: http://wiki:8080
  db.corp.example: https://10.0.0.5:8443
upstream:
  allowed_ips:
    - 10.0.0.0/8
  disable_ip_validation: false
  tls:
    ca_file: ca.crt
    include_system_cas: true
";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/gw/config.yaml"))
}

fn refused(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

fn with(more: &str) -> String {
    format!("{HOSTED}{more}")
}

#[test]
fn files_of_the_hosted_proxy_work() {
    let config = parse(HOSTED).unwrap();
    assert_eq!(config.tunnel_domain.as_deref(), Some("abc.tunnel.example"));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    assert_eq!(config.tls.cert, Path::new("/etc/mcp-gateway/tls/tls.crt"));
    assert_eq!(config.tls.key, Path::new("/etc/gw/tls.key"));
    assert_eq!(config.routes["wiki"].target.to_string(), "http://wiki:8080");
    assert_eq!(config.routes["db.corp.example"].target.scheme, Scheme::Https);
    assert!(config.addresses.check("10.1.1.1".parse().unwrap()).is_ok());
    assert!(
        config.addresses.check("192.168.1.1".parse().unwrap()).is_err(),
        "setting replaces the default"
    );
    assert!(config.upstream_tls.include_system_cas);
    assert!(
        config.notices.iter().any(|notice| notice.contains("listen_addr")),
        "{:?}",
        config.notices
    );
    assert!(config.edge.is_none() && config.health.is_none() && config.ledger.is_none());
}

#[test]
fn defaults() {
    let config =
        parse("tunnel_domain: t.example\ntls: {cert_file: a, key_file: b}\nroutes: {wiki: 'http://wiki:80'}\n")
            .unwrap();
    assert_eq!(
        (config.log_level, config.shutdown_timeout),
        (LogLevel::Info, Duration::from_secs(30))
    );
    assert!(config.addresses.check("172.16.3.4".parse().unwrap()).is_ok());
    assert!(config.addresses.check("127.0.0.1".parse().unwrap()).is_err());
    assert!(config.notices.is_empty());
    assert_eq!(config.state_dir, Path::new("/etc/gw"));
}

#[test]
fn everything_of_ours() {
    let text = HOSTED.replace(
        "  wiki: http://wiki:8080\n",
        "  raw: tcp://10.0.0.7:5432
  wiki:
    url: http://wiki:8080
    tools: {allow: ['read_*'], deny: [read_secret], read_only: true}
    limits: {per_tool: {'slow*': 1/s, '*': 10/s burst 20}, per_session: 100/m, per_route: 1000/m}
    request_max: 1MiB
    response_max: 8MiB
    headers: {set: {x-team: a}, remove: [cookie], allow: [authorization]}
    preserve_host: true
    approvals: [{tool: deploy, arguments: {env: 'prod*'}}]
    redact:
      - {detector: all, action: redact}
      - {name: ticket, pattern: 'SEC-[0-9]+', action: block, direction: both}
    callers: {workspaces: ['wrkspc_*'], agents: ['*'], sessions: ['*']}
    pass_identity: true
",
    ) + "\
tunnel_id: tnl_1
token_file: token
state_dir: state
approvals_file: approvals.yaml
edge: {addresses: ['plane.example:7844'], ca_file: edge.pem, transport: quic, connections: 4}
identity: {issuer: 'https://plane.example', jwks_url: 'https://plane.example/.well-known/jwks.json', required: false}
health: {listen_addr: '127.0.0.1:9100'}
ledger: {dir: ledger, record_payloads: true}
timeouts: {handshake: 1s, keep_alive: 1m, body: 2s, connect: 3s, response: 4s, idle: 5s, stream_idle: 1h}
";
    let config = parse(&text).unwrap();
    assert_eq!(config.edge.as_ref().unwrap().connections, 4);
    assert_eq!(config.timeouts.stream_idle, Duration::from_secs(3600));
    assert_eq!(config.state_dir, Path::new("/etc/gw/state"));
    assert_eq!(config.routes["wiki"].rules.request_max, 1 << 20);
    assert!(config.routes["wiki"].same(&parse(&text).unwrap().routes["wiki"]));
    assert!(!config.routes["wiki"].same(&parse(&text.replace("1000/m", "1001/m")).unwrap().routes["wiki"]));
    assert_eq!(
        config
            .fixed
            .differing(&parse(&text.replace("connections: 4", "connections: 5")).unwrap().fixed),
        ["edge"]
    );
}

#[test]
fn unknown_keys_are_refused_by_name_and_line() {
    for (text, line, key) in [
        (with("lisen_addr: x\n"), 18, "lisen_addr"),
        (HOSTED.replace("  cert_file:", "  certfile:"), 6, "certfile"),
        (
            HOSTED.replace("    include_system_cas", "    include_system_ca"),
            17,
            "include_system_ca",
        ),
        (
            HOSTED.replace(
                "  wiki: http://wiki:8080",
                "  wiki:\n    url: http://wiki:8080\n    tool: {}",
            ),
            11,
            "tool",
        ),
        (
            HOSTED.replace(
                "  wiki: http://wiki:8080",
                "  wiki:\n    url: http://wiki:8080\n    tools:\n      alow: []",
            ),
            12,
            "alow",
        ),
    ] {
        let error = parse(&text).map(|_| ()).unwrap_err();
        assert!(
            error.message.contains(&format!("`{key}`")) || error.message.contains(&format!("'{key}'")),
            "{error}"
        );
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.to_string().starts_with("/etc/gw/config.yaml, line"), "{error}");
    }
}

#[test]
fn the_hosted_proxys_errors() {
    for (text, meaning) in [
        (
            HOSTED.replace(
                "  wiki: http://wiki:8080\n  db.corp",
                "  - wiki: http://wiki:8080\n  - db.corp",
            ),
            "cannot unmarshal !!seq",
        ),
        (
            HOSTED.replace("http://wiki:8080", "http://wiki:8080/mcp"),
            "invalid upstream",
        ),
        (HOSTED.replace("http://wiki:8080", "http://wiki"), "invalid upstream"),
        (HOSTED.replace("http://wiki:8080", "wiki"), "invalid upstream"),
        (
            HOSTED.replace("http://wiki:8080", "[http://wiki:8080]"),
            "cannot unmarshal !!seq",
        ),
        (
            HOSTED.replace("disable_ip_validation: false", "disable_ip_validation: true"),
            "exclude each other",
        ),
        (
            HOSTED.replace("tunnel_domain: abc.tunnel.example\n", ""),
            "tunnel_domain",
        ),
        (HOSTED.replace("10.0.0.0/8", "10.0.0.0/33"), "10.0.0.0/33"),
    ] {
        let error = refused(&text);
        assert!(error.contains(meaning), "{error}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let route = |more: &str| {
        HOSTED.replace(
            "  wiki: http://wiki:8080",
            &format!("  wiki:\n    url: http://wiki:8080\n{more}"),
        )
    };
    for (text, meaning) in [
        (String::new(), "tls"),
        (
            HOSTED.replace(
                "routes:\n  wiki: http://wiki:8080\n  db.corp.example: https://10.0.0.5:8443\n",
                "routes: {}\n",
            ),
            "routes is empty",
        ),
        (
            HOSTED.replace(
                "routes:\n  wiki: http://wiki:8080\n  db.corp.example: https://10.0.0.5:8443\n",
                "",
            ),
            "routes is missing",
        ),
        (HOSTED.replace("  wiki:", "  wi_ki:"), "wi_ki"),
        (HOSTED.replace("  wiki:", "  WIKI: http://x:1\n  wiki:"), "twice"),
        (HOSTED.replace("  wiki:", "  wiki: http://x:1\n  wiki:"), "wiki"),
        (
            HOSTED.replace("shutdown_timeout: 30s", "shutdown_timeout: 30"),
            "length of time",
        ),
        (HOSTED.replace("log_level: info", "log_level: loud"), "loud"),
        (with("health: {listen_addr: '0.0.0.0:9100'}\n"), "loopback"),
        (with("health: {listen_addr: '192.168.1.1:9100'}\n"), "loopback"),
        (with("edge: {addresses: []}\n"), "edge.addresses"),
        (with("edge: {addresses: ['plane']}\n"), "plane"),
        (with("edge: {addresses: ['plane:1'], connections: 1}\n"), "from 2 to 16"),
        (
            with("edge: {addresses: ['plane:1'], fingerprint: ab}\n"),
            "64 hex digits",
        ),
        (with("identity: {issuer: 'https://p'}\n"), "jwks_file"),
        (
            with("identity: {issuer: 'https://p', jwks_file: a, jwks_url: 'https://p/k'}\n"),
            "exclude each other",
        ),
        (
            with("identity: {issuer: 'https://p', jwks_url: 'http://p/k'}\n"),
            "not https",
        ),
        (with("timeouts: {body: 0s}\n"), "timeouts.body"),
        (route("    tools: {}"), "tools says nothing"),
        (route("    tools: {allow: ['[']}"), "pattern"),
        (route("    limits: {per_route: 10}"), "rate"),
        (route("    callers: {agents: ['*']}"), "identity"),
        (route("    pass_identity: true"), "identity"),
        (route("    approvals: [{tool: x}]"), "approvals_file"),
        (route("    redact: [{action: redact}]"), "pattern or a detector"),
        (route("    redact: [{detector: dna, action: redact}]"), "dna"),
        (route("    redact: [{detector: iban, action: burn}]"), "burn"),
        (route("    headers: {set: {host: x}}"), "host"),
        (
            route("    headers: {set: {outwork-agent-identity: x}}"),
            "outwork-agent-identity",
        ),
        (route("    headers: {set: {'a b': x}}"), "a b"),
        (
            HOSTED.replace(
                "  wiki: http://wiki:8080",
                "  wiki: {url: 'tcp://wiki:1', tools: {read_only: true}}",
            ),
            "no rules",
        ),
        (
            with("identity: {issuer: 'https://p', jwks_file: a, required: true}\n")
                .replace("http://wiki:8080", "tcp://wiki:1"),
            "identity.required",
        ),
        (
            HOSTED.replace("  wiki: http://wiki:8080", "  wiki: {tools: {read_only: true}}"),
            "url",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(meaning), "wanted `{meaning}` in: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
