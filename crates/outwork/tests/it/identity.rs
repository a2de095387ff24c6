//! The identity of agents from outside: what is published, and whether the tokens stand up to it.

use std::os::unix::fs::PermissionsExt;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use outwork_plane::identity::Claims;
use outwork_plane::{Plane, PlaneOptions};
use outwork_wire::Time;
use outwork_wire::id::{AgentId, SessionId, WorkspaceId};
use reqwest::Method;
use serde_json::Value;

use crate::world::{Api, Server, ServerOptions};

const KEYS: &str = "/.well-known/jwks.json";
const CONFIGURATION: &str = "/.well-known/openid-configuration";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_needs_no_credential_may_be_cached_and_outlives_a_restart() {
    let options = ServerOptions::default().flags(&["--public-url", "https://agents.example.test/"]);
    let mut server = Server::start(options).await;
    let nobody = server.api().without_credential();
    let get = async |path: &str| {
        let answer = Api::send(nobody.bare(Method::GET, path)).await;
        assert_eq!(answer.headers["cache-control"], "public, max-age=300");
        assert_eq!(answer.headers["content-type"], "application/json");
        answer.ok()
    };
    let configuration = get(CONFIGURATION).await;
    assert_eq!(configuration["issuer"], "https://agents.example.test");
    assert_eq!(
        configuration["jwks_uri"],
        "https://agents.example.test/.well-known/jwks.json"
    );
    let keys = get(KEYS).await;
    let key = keys["keys"][0].as_object().unwrap();
    let fields: Vec<&String> = key.keys().collect();
    assert_eq!(fields, ["kty", "crv", "use", "alg", "kid", "x"], "nothing private");
    let file = server.data_dir().join("identity.keys");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.kill().await;
    server.restart().await;
    assert_eq!(get(KEYS).await, keys);
    // A file that others can read was perhaps read.
    server.kill().await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (status, said) = ServerOptions::default().refused(server.data_dir()).await;
    assert!(!status.success() && said.contains("identity.keys"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_agent_stands_up_to_what_the_server_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = PlaneOptions::new(folder.path().join("data"));
    options.listen = ([127, 0, 0, 1], 0).into();
    let plane = Plane::start(options).await.unwrap();
    let nobody = Api::new(&plane.base_url(), "none").without_credential();
    let get = async |path: &str| Api::send(nobody.bare(Method::GET, path)).await.ok();
    let configuration = get(CONFIGURATION).await;
    assert_eq!(configuration["issuer"], plane.base_url());

    let claims = Claims {
        workspace: WorkspaceId::fresh(),
        agent: AgentId::fresh(),
        version: 7,
        session: SessionId::fresh(),
        tool: "search".into(),
        audience: "https://wiki.example".into(),
    };
    let token = plane.identity().mint(&claims, Time::now());
    let path = configuration["jwks_uri"]
        .as_str()
        .unwrap()
        .strip_prefix(&plane.base_url())
        .unwrap();
    let keys: JwkSet = serde_json::from_value(get(path).await).unwrap();
    let header = decode_header(&token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("outwork-agent+jwt"));
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[plane.base_url()]);
    validation.set_audience(&["https://wiki.example"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let said = decode::<Value>(&token, &key, &validation).unwrap().claims;
    assert_eq!(said["agent_id"], claims.agent.as_str());
    assert_eq!(said["agent_version"], 7);
    validation.set_audience(&["https://other.example"]);
    assert!(decode::<Value>(&token, &key, &validation).is_err());
    plane.shutdown().await;
}
