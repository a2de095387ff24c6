//! Tokens over a real store, and a token endpoint that does what each test says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use outwork_store::{CredentialSlot, NewVault, NewVaultCredential, Options};
use serde_json::{Map, json};
use tokio::sync::Semaphore;

use secrecy::ExposeSecret;

use super::*;
use crate::vault::LocalMasterKeys;
use crate::vault::aead::fresh_key;
use crate::vault::auth::{ClientAuth, PublicRefresh};
use crate::vault::outbound::{OutboundError, OutboundRequest, OutboundResponse};

const SERVER: &str = "https://mcp.example.com/mcp";

/// A token endpoint. Each request takes the next answer, and waits for a permit before it is given.
struct Endpoint {
    answers: Mutex<VecDeque<Result<(u16, String), OutboundError>>>,
    headers: Mutex<HeaderMap>,
    seen: Mutex<Vec<String>>,
    asked: AtomicUsize,
    permits: Semaphore,
}

impl Endpoint {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn will(&self, answer: Result<(u16, serde_json::Value), OutboundError>) {
        let answer = answer.map(|(status, body)| (status, body.to_string()));
        self.answers.lock().unwrap().push_back(answer);
    }

    fn grants(&self, access: &str, refresh: Option<&str>) {
        let mut body = json!({ "access_token": access, "token_type": "Bearer", "expires_in": 3600 });
        if let Some(refresh) = refresh {
            body["refresh_token"] = refresh.into();
        }
        self.will(Ok((200, body)));
    }

    fn forms(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Outbound for Endpoint {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let form = String::from_utf8(request.body.to_vec()).unwrap();
            self.seen.lock().unwrap().push(form);
            let permit = tokio::time::timeout(request.deadline, self.permits.acquire()).await;
            let Ok(permit) = permit else {
                return Err(OutboundError::Timeout);
            };
            permit.unwrap().forget();
            let (status, body) = self.answers.lock().unwrap().pop_front().expect("an answer was set")?;
            Ok(OutboundResponse {
                status: StatusCode::from_u16(status).unwrap(),
                headers: self.headers.lock().unwrap().clone(),
                body: Bytes::from(body),
                truncated: false,
            })
        })
    }

    fn plain_http(&self, _workspace: &WorkspaceId) -> bool {
        false
    }
}

struct Bed {
    store: Store,
    vaults: Vaults,
    endpoint: Arc<Endpoint>,
    failures: Arc<Mutex<Vec<RefreshFailure>>>,
    workspace: WorkspaceId,
    vault: VaultId,
    _dir: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(dir.path())).unwrap();
        let workspace = store.default_workspace().clone();
        let sealer = Sealer::new(store.clone(), Arc::new(LocalMasterKeys::new(&[fresh_key()])));
        let endpoint = Arc::new(Endpoint {
            answers: Mutex::default(),
            headers: Mutex::default(),
            seen: Mutex::default(),
            asked: AtomicUsize::new(0),
            permits: Semaphore::new(1000),
        });
        let failures = Arc::new(Mutex::new(Vec::new()));
        let heard = failures.clone();
        let vaults = Vaults::new(
            store.clone(),
            Arc::new(sealer),
            endpoint.clone(),
            Arc::new(move |failure| heard.lock().unwrap().push(failure)),
        );
        let vault = VaultId::fresh();
        let new = NewVault {
            id: vault.clone(),
            display_name: "Alice".into(),
            metadata: Map::new(),
        };
        store.create_vault(&workspace, new, Time::now()).await.unwrap();
        Self {
            store,
            vaults,
            endpoint,
            failures,
            workspace,
            vault,
            _dir: dir,
        }
    }

    /// An OAuth credential whose token `at-0` ends in so many seconds.
    async fn oauth(&self, ends_in: i64) -> McpCredential {
        self.credential(
            PublicAuth::McpOauth {
                mcp_server_url: SERVER.into(),
                expires_at: Some(Time::now().plus_seconds(ends_in)),
                refresh: Some(PublicRefresh {
                    client_id: "client".into(),
                    token_endpoint: "https://as.example.com/token".into(),
                    token_endpoint_auth: ClientAuth::Post {},
                    scope: None,
                    resource: None,
                }),
            },
            &[
                (ACCESS_TOKEN, "at-0"),
                (REFRESH_TOKEN, "rt-0"),
                (CLIENT_SECRET, "client-secret"),
            ],
        )
        .await
    }

    async fn credential(&self, auth: PublicAuth, secrets: &[(&str, &str)]) -> McpCredential {
        let id = VaultCredentialId::fresh();
        let new = NewVaultCredential {
            vault_id: self.vault.clone(),
            slot: auth.slot(),
            display_name: None,
            auth: auth.to_value(),
            metadata: Map::new(),
            secrets: self.sealed(&id, secrets).await,
            limit: 20,
            id,
        };
        self.store
            .create_vault_credential(&self.workspace, new, Time::now())
            .await
            .unwrap();
        let vaults = [VaultId::fresh(), self.vault.clone()];
        let found = self.vaults.credential_for(&self.workspace, &vaults, SERVER).await;
        found.unwrap().unwrap()
    }

    async fn sealed(&self, id: &VaultCredentialId, secrets: &[(&str, &str)]) -> Vec<SealedSecret> {
        let mut sealed = Vec::new();
        for (field, text) in secrets {
            let text = SecretString::from(*text);
            let sealer = &self.vaults.inner.sealer;
            sealed.push(sealer.seal(&self.workspace, id, field, &text).await.unwrap());
        }
        sealed
    }

    /// Somebody stores other secrets.
    async fn replace(&self, credential: &McpCredential, secrets: &[(&str, &str)]) {
        let sealed = self.sealed(credential.id(), secrets).await;
        self.store
            .update_vault_credential(
                &self.workspace,
                &self.vault,
                credential.id(),
                sealed,
                Time::now(),
                |_| Ok(()),
            )
            .await
            .unwrap();
    }

    /// What is kept: the access token, the refresh token, when the first ends.
    async fn kept(&self, credential: &McpCredential) -> (String, String, Option<Time>) {
        let kept = self
            .store
            .vault_credential_secrets(&self.workspace, credential.id())
            .await
            .unwrap();
        let mut texts = Vec::new();
        for field in [ACCESS_TOKEN, REFRESH_TOKEN] {
            texts.push(credential.secret(&kept, field).await.unwrap().unwrap());
        }
        let ends = credential.held().await.unwrap().expires_at();
        (
            texts[0].expose_secret().to_owned(),
            texts[1].expose_secret().to_owned(),
            ends,
        )
    }

    fn failures(&self) -> Vec<RefreshFailure> {
        self.failures.lock().unwrap().clone()
    }
}

async fn text(token: impl Future<Output = Result<AccessToken, TokenError>>) -> String {
    token.await.unwrap().expose().to_owned()
}

#[tokio::test]
async fn a_token_with_time_left_is_given_as_it_is() {
    let bed = Bed::new().await;
    let credential = bed.oauth(120).await;
    assert_eq!(text(credential.token()).await, "at-0");
    assert_eq!(bed.endpoint.asked(), 0);
    assert_eq!(credential.vault_id(), &bed.vault);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends_and_kept_before_it_is_used() {
    let bed = Bed::new().await;
    let credential = bed.oauth(30).await;
    bed.endpoint.grants("at-1", Some("rt-1"));
    assert_eq!(text(credential.token()).await, "at-1");
    assert_eq!(
        bed.endpoint.forms(),
        ["grant_type=refresh_token&refresh_token=rt-0&client_id=client&client_secret=client-secret"]
    );
    let (access, refresh, ends) = bed.kept(&credential).await;
    assert_eq!((access.as_str(), refresh.as_str()), ("at-1", "rt-1"));
    let life = ends.unwrap().seconds_since(Time::now());
    assert!((3500.0..=3600.0).contains(&life), "{life}");
    assert_eq!(text(credential.token()).await, "at-1");
    assert_eq!(bed.endpoint.asked(), 1);

    // The rotated refresh token is the one that is used next; without a new one it stays.
    bed.endpoint.grants("at-2", None);
    let rejected = credential.token().await.unwrap();
    assert_eq!(text(credential.refresh_after_rejection(&rejected)).await, "at-2");
    assert!(bed.endpoint.forms()[1].contains("refresh_token=rt-1"));
    assert_eq!(bed.kept(&credential).await.1, "rt-1");
}

#[tokio::test]
async fn an_answer_without_an_end_leaves_the_end_unknown() {
    let bed = Bed::new().await;
    let credential = bed.oauth(30).await;
    bed.endpoint
        .will(Ok((200, json!({ "access_token": "at-1", "token_type": "bearer" }))));
    assert_eq!(text(credential.token()).await, "at-1");
    assert_eq!(bed.kept(&credential).await.2, None);
    assert_eq!(text(credential.token()).await, "at-1");
    assert_eq!(bed.endpoint.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_sessions_wait_for_one_refresh() {
    let bed = Arc::new(Bed::new().await);
    bed.endpoint.permits.forget_permits(1000);
    let credential = bed.oauth(-5).await;
    let rejected = AccessToken::new(SecretString::from("at-0"));
    let waiting: Vec<_> = (0..50)
        .map(|number| {
            let (bed, rejected) = (bed.clone(), rejected.clone());
            tokio::spawn(async move {
                // Each session finds the credential by itself.
                let vaults = [bed.vault.clone()];
                let own = bed.vaults.credential_for(&bed.workspace, &vaults, SERVER).await;
                let own = own.unwrap().unwrap();
                match number % 2 {
                    0 => own.token().await,
                    _ => own.refresh_after_rejection(&rejected).await,
                }
                .map(|token| token.expose().to_owned())
            })
        })
        .collect();
    until("the endpoint is asked", || bed.endpoint.asked() == 1).await;
    bed.endpoint.grants("at-1", Some("rt-1"));
    bed.endpoint.permits.add_permits(1);
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap(), "at-1");
    }
    assert_eq!(bed.endpoint.asked(), 1);
    // One that comes late with the old token gets the new one, without another refresh.
    assert_eq!(text(credential.refresh_after_rejection(&rejected)).await, "at-1");
    assert_eq!(bed.endpoint.asked(), 1);
    assert!(bed.vaults.flights().is_empty());
}

#[tokio::test]
async fn a_caller_that_goes_away_interrupts_nothing() {
    let bed = Bed::new().await;
    bed.endpoint.permits.forget_permits(1000);
    let credential = bed.oauth(-5).await;
    let own = credential.clone();
    let caller = tokio::spawn(async move { own.token().await.map(drop) });
    until("the endpoint is asked", || bed.endpoint.asked() == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    bed.endpoint.grants("at-1", Some("rt-1"));
    bed.endpoint.permits.add_permits(1);
    bed.vaults.settle(credential.id()).await;
    let (access, refresh, _) = bed.kept(&credential).await;
    assert_eq!((access.as_str(), refresh.as_str()), ("at-1", "rt-1"));
}

#[tokio::test]
async fn a_refusal_that_is_final_holds_until_the_secrets_are_replaced() {
    let bed = Bed::new().await;
    let credential = bed.oauth(-5).await;
    bed.endpoint.will(Ok((400, json!({ "error": "invalid_grant" }))));
    let error = credential.token().await.err().unwrap();
    assert!(matches!(error, TokenError::Dead { .. }) && !error.is_passing());
    let said = error.to_string();
    assert!(
        said.contains(credential.id().as_str()) && said.contains("invalid_grant"),
        "{said}"
    );
    for _ in 0..5 {
        assert!(credential.token().await.is_err());
    }
    assert_eq!(bed.endpoint.asked(), 1);
    let failures = bed.failures();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].permanent && &failures[0].credential_id == credential.id());

    bed.replace(&credential, &[(REFRESH_TOKEN, "rt-new")]).await;
    bed.endpoint.grants("at-1", None);
    assert_eq!(text(credential.token()).await, "at-1");
    assert!(bed.endpoint.forms()[1].contains("rt-new"));
}

#[tokio::test]
async fn what_passes_is_tried_again_then_left_alone_for_a_while() {
    let bed = Bed::new().await;
    let credential = bed.oauth(-5).await;
    bed.endpoint.will(Err(OutboundError::Connect("refused".into())));
    bed.endpoint.will(Ok((503, json!({}))));
    bed.endpoint.grants("at-1", None);
    assert_eq!(text(credential.token()).await, "at-1");
    assert_eq!(bed.endpoint.asked(), 3);
    assert!(bed.failures().is_empty());

    let rejected = credential.token().await.unwrap();
    for _ in 0..3 {
        bed.endpoint.will(Ok((500, json!({}))));
    }
    let error = credential.refresh_after_rejection(&rejected).await.err().unwrap();
    assert!(error.is_passing(), "{error}");
    let resting = credential.refresh_after_rejection(&rejected).await;
    assert!(resting.err().unwrap().is_passing());
    assert_eq!(bed.endpoint.asked(), 6, "it is left alone at first");
    assert_eq!(bed.failures().len(), 1);
    // Somebody who asks for it by name is not put off.
    bed.endpoint.grants("at-2", None);
    assert_eq!(text(credential.refresh_in_any_case(&rejected)).await, "at-2");
}

#[tokio::test]
async fn a_retry_later_than_the_deadline_is_not_waited_for() {
    let bed = Bed::new().await;
    let credential = bed.oauth(-5).await;
    let later = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("30"))]);
    *bed.endpoint.headers.lock().unwrap() = later;
    bed.endpoint.will(Ok((429, json!({}))));
    let began = Instant::now();
    assert!(credential.token().await.err().unwrap().is_passing());
    assert!(began.elapsed() < DEADLINE);
    assert_eq!(bed.endpoint.asked(), 1);
    let rest = bed.vaults.inner.rests.lock().unwrap();
    let until = rest[credential.id()].until.unwrap();
    assert!(until > began + Duration::from_secs(29));
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_is_given_up() {
    let mut bed = Bed::new().await;
    let deadline = Duration::from_millis(300);
    Arc::get_mut(&mut bed.vaults.inner)
        .expect("nobody else has it")
        .deadline = deadline;
    bed.endpoint.permits.forget_permits(1000);
    let credential = bed.oauth(-5).await;
    let began = Instant::now();
    assert!(credential.token().await.err().unwrap().is_passing());
    assert!(began.elapsed() >= deadline);
    assert_eq!(bed.endpoint.asked(), 1, "no time is left for another attempt");
}

#[tokio::test]
async fn a_token_that_still_holds_serves_while_its_refresh_fails() {
    let bed = Bed::new().await;
    let credential = bed.oauth(40).await;
    bed.endpoint.will(Ok((400, json!({ "error": "invalid_grant" }))));
    assert_eq!(text(credential.token()).await, "at-0");
    assert_eq!(bed.failures().len(), 1);
    let rejected = credential.token().await.unwrap();
    let error = credential.refresh_after_rejection(&rejected).await.err().unwrap();
    assert!(matches!(error, TokenError::Dead { .. }));
    assert_eq!(bed.endpoint.asked(), 1);
}

#[tokio::test]
async fn secrets_that_were_replaced_meanwhile_win() {
    let bed = Bed::new().await;
    bed.endpoint.permits.forget_permits(1000);
    let credential = bed.oauth(-5).await;
    let own = credential.clone();
    let rejected = AccessToken::new(SecretString::from("at-0"));
    let waiting = tokio::spawn(async move { own.refresh_after_rejection(&rejected).await });
    until("the endpoint is asked", || bed.endpoint.asked() == 1).await;
    bed.replace(&credential, &[(ACCESS_TOKEN, "at-new"), (REFRESH_TOKEN, "rt-new")])
        .await;
    bed.endpoint.grants("at-1", Some("rt-1"));
    bed.endpoint.permits.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap().expose(), "at-new");
    assert_eq!(bed.kept(&credential).await.1, "rt-new");
}

#[tokio::test]
async fn what_is_archived_or_deleted_gives_nothing() {
    let bed = Bed::new().await;
    bed.endpoint.permits.forget_permits(1000);
    let credential = bed.oauth(-5).await;
    let own = credential.clone();
    let waiting = tokio::spawn(async move { own.token().await });
    until("the endpoint is asked", || bed.endpoint.asked() == 1).await;
    let (workspace, vault, id) = (&bed.workspace, &bed.vault, credential.id());
    bed.store
        .archive_vault_credential(workspace, vault, id, Time::now())
        .await
        .unwrap();
    bed.endpoint.grants("at-1", Some("rt-1"));
    bed.endpoint.permits.add_permits(1);
    assert!(matches!(waiting.await.unwrap(), Err(TokenError::Gone(_))));
    let kept = bed.store.vault_credential_secrets(workspace, id).await.unwrap();
    assert!(kept.secrets.is_empty(), "an archived credential holds no secret");
    let vaults = [vault.clone()];
    let found = bed.vaults.credential_for(workspace, &vaults, SERVER).await.unwrap();
    assert!(found.is_none());
    bed.store.delete_vault_credential(workspace, vault, id).await.unwrap();
    assert!(matches!(credential.token().await, Err(TokenError::Gone(_))));
}

#[tokio::test]
async fn without_a_refresh_there_is_only_the_token() {
    let bed = Bed::new().await;
    let credential = bed
        .credential(
            PublicAuth::StaticBearer {
                mcp_server_url: SERVER.into(),
            },
            &[(TOKEN, "fixed")],
        )
        .await;
    let token = credential.token().await.unwrap();
    assert_eq!(token.expose(), "fixed");
    let error = credential.refresh_after_rejection(&token).await.err().unwrap();
    assert!(matches!(error, TokenError::NoRefresh(_)));
    // Somebody stored another one in the meantime.
    bed.replace(&credential, &[(TOKEN, "another")]).await;
    assert_eq!(text(credential.refresh_after_rejection(&token)).await, "another");
    assert_eq!(bed.endpoint.asked(), 0);
}

#[tokio::test]
async fn the_first_vault_with_a_match_is_used_and_no_other_workspace() {
    let bed = Bed::new().await;
    let credential = bed.oauth(600).await;
    let found = |workspace: WorkspaceId, vaults: Vec<VaultId>, url: &'static str| {
        let vaults_of = bed.vaults.clone();
        async move {
            let found = vaults_of.credential_for(&workspace, &vaults, url).await.unwrap();
            found.map(|credential| credential.id().clone())
        }
    };
    let (own, vault) = (bed.workspace.clone(), bed.vault.clone());
    let second = VaultId::fresh();
    let new = NewVault {
        id: second.clone(),
        display_name: "Bob".into(),
        metadata: Map::new(),
    };
    bed.store.create_vault(&own, new, Time::now()).await.unwrap();
    let id = VaultCredentialId::fresh();
    let auth = PublicAuth::StaticBearer {
        mcp_server_url: SERVER.into(),
    };
    let new = NewVaultCredential {
        vault_id: second.clone(),
        slot: CredentialSlot { ..auth.slot() },
        display_name: None,
        auth: auth.to_value(),
        metadata: Map::new(),
        secrets: bed.sealed(&id, &[(TOKEN, "bob")]).await,
        limit: 20,
        id: id.clone(),
    };
    bed.store.create_vault_credential(&own, new, Time::now()).await.unwrap();
    let both = vec![vault.clone(), second.clone()];
    assert_eq!(
        found(own.clone(), both.clone(), SERVER).await.as_ref(),
        Some(credential.id())
    );
    let swapped = vec![second, vault];
    assert_eq!(
        found(own.clone(), swapped, "https://MCP.example.com:443/mcp/").await,
        Some(id)
    );
    assert_eq!(
        found(own.clone(), both.clone(), "https://mcp.example.com/other").await,
        None
    );
    assert_eq!(found(own, Vec::new(), SERVER).await, None);
    let other = bed.store.create_workspace("other", Time::now()).await.unwrap().id;
    assert_eq!(found(other, both, SERVER).await, None);
}

/// Waits until something holds; a test that waits for ever is ended by its bound.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let bound = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < bound, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
