use serde_json::json;

use super::*;

fn now() -> Time {
    Time::from_micros(1_800_000_000_000_000)
}

type Texts = Vec<(&'static str, String)>;

fn create(auth: Value) -> Result<(Value, Texts), String> {
    let (public, secrets) = create_auth(auth, now()).map_err(|e| e.message)?;
    let secrets = secrets
        .into_iter()
        .map(|(field, secret)| (field, secret.expose_secret().to_owned()))
        .collect();
    Ok((public.to_value(), secrets))
}

fn refusal(auth: Value) -> String {
    create(auth).err().unwrap()
}

fn oauth(change: impl FnOnce(&mut Value)) -> Value {
    let mut auth = json!({
        "type": "mcp_oauth", "access_token": "at", "mcp_server_url": "https://a.example/mcp",
        "refresh": {
            "client_id": "c", "refresh_token": "rt", "token_endpoint": "https://a.example/token",
            "token_endpoint_auth": { "type": "client_secret_post", "client_secret": "cs" },
        },
    });
    change(&mut auth);
    auth
}

fn variable(change: impl FnOnce(&mut Value)) -> Value {
    let mut auth = json!({
        "type": "environment_variable", "secret_name": "API_KEY", "secret_value": "v",
        "networking": { "type": "limited", "allowed_hosts": ["API.example.com", "192.0.2.1", "*.example.com"] },
    });
    change(&mut auth);
    auth
}

#[test]
fn secrets_and_what_is_public_are_taken_apart() {
    let (public, secrets) = create(oauth(|_| ())).unwrap();
    assert_eq!(
        secrets,
        [
            ("access_token", "at".to_owned()),
            ("refresh_token", "rt".to_owned()),
            ("client_secret", "cs".to_owned())
        ]
    );
    assert_eq!(
        public["refresh"]["token_endpoint_auth"],
        json!({ "type": "client_secret_post" })
    );
    for secret in ["\"at\"", "\"rt\"", "\"cs\""] {
        assert!(!public.to_string().contains(secret));
    }
    let bearer = json!({ "type": "static_bearer", "token": "t", "mcp_server_url": "https://a.example/mcp" });
    let (public, secrets) = create(bearer).unwrap();
    assert_eq!(
        public,
        json!({ "type": "static_bearer", "mcp_server_url": "https://a.example/mcp" })
    );
    assert_eq!(secrets, [("token", "t".to_owned())]);
    let (public, _) = create(variable(|_| ())).unwrap();
    assert_eq!(
        public,
        json!({
            "type": "environment_variable", "secret_name": "API_KEY",
            "networking": { "type": "limited", "allowed_hosts": ["api.example.com", "192.0.2.1", "*.example.com"] },
            "injection_location": { "body": false, "header": true },
        })
    );
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    for (auth, path) in [
        (json!({}), "auth.type"),
        (json!({ "type": "basic" }), "auth.type"),
        (
            json!({ "type": "static_bearer", "token": "t" }),
            "auth: missing field `mcp_server_url`",
        ),
        (
            json!({ "type": "static_bearer", "token": "t", "mcp_server_url": "https://a.example", "access_token": "x" }),
            "auth.access_token: unknown field",
        ),
        (
            oauth(|a| a["mcp_server_url"] = json!("ftp://a.example/")),
            "auth.mcp_server_url",
        ),
        (oauth(|a| a["access_token"] = json!("")), "auth.access_token"),
        (oauth(|a| a["access_token"] = json!("a b")), "auth.access_token"),
        (oauth(|a| a["access_token"] = json!("a\r\nb: c")), "auth.access_token"),
        (
            oauth(|a| a["access_token"] = json!("a".repeat(40_000))),
            "auth.access_token",
        ),
        (
            oauth(|a| a["expires_at"] = json!("2020-01-01T00:00:00Z")),
            "auth.expires_at",
        ),
        (oauth(|a| a["expires_at"] = json!("tomorrow")), "auth.expires_at"),
        (
            oauth(|a| a["refresh"]["token_endpoint"] = json!("b.example")),
            "auth.refresh.token_endpoint",
        ),
        (
            oauth(|a| a["refresh"]["token_endpoint_auth"] = json!({ "type": "private_key_jwt" })),
            "auth.refresh.token_endpoint_auth.type",
        ),
        (
            oauth(|a| a["refresh"]["token_endpoint_auth"] = json!({ "type": "none", "client_secret": "x" })),
            "auth.refresh.token_endpoint_auth.client_secret",
        ),
        (
            oauth(|a| a["refresh"]["token_endpoint_auth"] = json!({ "type": "client_secret_basic" })),
            "auth.refresh.token_endpoint_auth: missing field `client_secret`",
        ),
        (
            oauth(|a| a["refresh"]["client_id"] = json!("")),
            "auth.refresh.client_id",
        ),
        (oauth(|a| a["refresh"]["colour"] = json!("red")), "auth.refresh.colour"),
        (variable(|a| a["secret_name"] = json!("1KEY")), "auth.secret_name"),
        (variable(|a| a["secret_name"] = json!("A-B")), "auth.secret_name"),
        (variable(|a| a["secret_value"] = json!("a\nb")), "auth.secret_value"),
        (
            variable(|a| a["networking"] = json!({ "type": "open" })),
            "auth.networking.type",
        ),
        (
            variable(|a| a["networking"] = json!({ "type": "unrestricted", "allowed_hosts": [] })),
            "auth.networking.allowed_hosts",
        ),
        (
            variable(|a| a["networking"] = json!({ "type": "limited" })),
            "auth.networking: missing field `allowed_hosts`",
        ),
        (
            variable(|a| a["injection_location"] = json!({})),
            "auth.injection_location",
        ),
        (
            variable(|a| a["injection_location"] = json!({ "header": false, "body": false })),
            "auth.injection_location",
        ),
        (
            variable(|a| a["injection_location"] = json!({ "query": true })),
            "auth.injection_location.query",
        ),
    ] {
        let message = refusal(auth);
        assert!(message.starts_with(path), "{path}: {message}");
    }
}

#[test]
fn hosts_are_bare() {
    let with = |hosts: Value| variable(|a| a["networking"]["allowed_hosts"] = hosts);
    for bad in [
        "https://a.example",
        "a.example:443",
        "a.example/x",
        "[::1]",
        "::1",
        "*.com",
        "*",
        "a.*.example",
        "*.*.example.com",
        "",
        "-a.example",
        "a..example",
        "1.2.3",
        "1.2.3.400",
        "0x7f.0.0.0x1",
        "*.1.2.3.4",
        &"a".repeat(64),
    ] {
        let message = refusal(with(json!([bad])));
        assert!(
            message.starts_with("auth.networking.allowed_hosts.0:"),
            "{bad}: {message}"
        );
    }
    assert!(refusal(with(json!(["a.example", "A.example"]))).starts_with("auth.networking.allowed_hosts.1"));
    let many: Vec<String> = (0..17).map(|n| format!("h{n}.example")).collect();
    assert!(refusal(with(json!(many))).contains("16"));
    assert!(create(with(json!(many[..16]))).is_ok());
    assert!(create(with(json!([]))).is_ok());
}

#[test]
fn no_message_repeats_a_value() {
    const SECRET: &str = "hunter2-hunter2-hunter2!";
    for auth in [
        json!(SECRET),
        json!([SECRET]),
        json!({ "type": SECRET }),
        json!({ "type": "static_bearer", "token": { "value": SECRET }, "mcp_server_url": "https://a.example" }),
        json!({ "type": "static_bearer", "token": "t", "mcp_server_url": SECRET }),
        json!({ "type": "static_bearer", SECRET: "t" }),
        oauth(|a| a["refresh"] = json!(SECRET)),
        oauth(|a| a["refresh"]["token_endpoint_auth"] = json!(SECRET)),
        oauth(|a| {
            a["refresh"]["token_endpoint_auth"] = json!({ "type": "client_secret_post", "client_secret": [SECRET] })
        }),
        oauth(|a| a["expires_at"] = json!(SECRET)),
        variable(|a| a["injection_location"] = json!(SECRET)),
        variable(|a| a["injection_location"] = json!({ "header": SECRET })),
        variable(|a| a["networking"]["allowed_hosts"] = json!(SECRET)),
        variable(|a| a["networking"]["allowed_hosts"] = json!([SECRET])),
        variable(|a| a["secret_name"] = json!(SECRET)),
    ] {
        let shown = auth.to_string();
        let message = refusal(auth);
        assert!(!message.contains("hunter2"), "{shown}: {message}");
    }
}

#[test]
fn a_change_says_what_stays() {
    let update = |auth: Value| update_auth(auth, now()).map_err(|e| e.message);
    let AuthChange::McpOauth {
        access_token,
        expires_at,
        refresh,
    } = update(json!({ "type": "mcp_oauth", "access_token": null, "refresh": { "scope": "" } }))
        .ok()
        .unwrap()
    else {
        panic!("another type");
    };
    assert!(access_token.is_none() && expires_at.is_none());
    let refresh = refresh.unwrap();
    assert!(refresh.refresh_token.is_none() && refresh.client_secret.is_none());
    assert_eq!(refresh.scope, Some(None), "an empty scope takes it away");
    let AuthChange::McpOauth { expires_at, .. } =
        update(json!({ "type": "mcp_oauth", "expires_at": null })).ok().unwrap()
    else {
        panic!("another type");
    };
    assert_eq!(expires_at, Some(None));
    for (auth, path) in [
        (
            json!({ "type": "mcp_oauth", "mcp_server_url": "https://a.example" }),
            "auth.mcp_server_url",
        ),
        (
            json!({ "type": "mcp_oauth", "refresh": { "client_id": "x" } }),
            "auth.refresh.client_id",
        ),
        (
            json!({ "type": "mcp_oauth", "refresh": { "token_endpoint_auth": { "type": "none" } } }),
            "auth.refresh.token_endpoint_auth.type",
        ),
        (
            json!({ "type": "environment_variable", "secret_name": "X" }),
            "auth.secret_name",
        ),
        (json!({ "type": "static_bearer", "token": "" }), "auth.token"),
        (json!({ "token": "x" }), "auth.type"),
    ] {
        let message = update(auth).err().unwrap();
        assert!(message.starts_with(path), "{path}: {message}");
    }
}
