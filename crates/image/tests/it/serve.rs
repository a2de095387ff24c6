//! A registry on this machine that does what a test tells it to, and remembers what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, Uri, header};
use bytes::Bytes;
use outwork_image::Digest;

use crate::make::{MANIFEST, Made};

/// One answer.
#[derive(Clone)]
pub(crate) enum Answer {
    Bytes(&'static str, Vec<u8>),
    /// Half of it, then the connection breaks.
    Torn(Vec<u8>),
    /// Zeros without end.
    Endless,
    /// Nothing, ever.
    Silent,
    Redirect(String),
    Status(u16),
}

/// What is needed before an answer is given.
#[derive(Clone)]
pub(crate) enum Door {
    Open,
    /// A bearer token, from a token service at this address.
    Token {
        realm: String,
        token: String,
    },
    Basic {
        expected: String,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) accept: String,
}

pub(crate) struct Server {
    pub(crate) host: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    answers: Mutex<HashMap<String, Answer>>,
    door: Mutex<Door>,
    asked: Mutex<Vec<Asked>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            answers: Mutex::default(),
            door: Mutex::new(Door::Open),
            asked: Mutex::default(),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, shared, task }
    }

    pub(crate) fn set(&self, path: impl Into<String>, answer: Answer) {
        self.shared.answers.lock().unwrap().insert(path.into(), answer);
    }

    pub(crate) fn door(&self, door: Door) {
        *self.shared.door.lock().unwrap() = door;
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Serves an image as `team/app`, by digest and as `:1`.
    pub(crate) fn put(&self, made: &Made) -> String {
        for (digest, bytes) in &made.blobs {
            self.set(
                format!("/v2/team/app/blobs/{digest}"),
                Answer::Bytes("application/octet-stream", bytes.clone()),
            );
        }
        for name in [made.manifest.to_string(), "1".into()] {
            self.set(
                format!("/v2/team/app/manifests/{name}"),
                Answer::Bytes(MANIFEST, made.manifest_bytes().to_vec()),
            );
        }
        self.reference(&made.manifest)
    }

    pub(crate) fn reference(&self, digest: &Digest) -> String {
        format!("{}/team/app@{digest}", self.host)
    }

    pub(crate) fn blob(made: &Made, layer: usize) -> String {
        format!("/v2/team/app/blobs/{}", Digest::of(&made.layers[layer].blob))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, _request: Request) -> Response<Body> {
    let text = |name: header::HeaderName| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let authorization = text(header::AUTHORIZATION);
    let path = uri.path().to_owned();
    let asked = Asked {
        path: uri.to_string(),
        authorization: authorization.clone(),
        accept: text(header::ACCEPT).unwrap_or_default(),
    };
    shared.asked.lock().unwrap().push(asked);
    let door = shared.door.lock().unwrap().clone();
    if path.starts_with("/v2/") {
        let challenge = match &door {
            Door::Open => None,
            Door::Token { token, .. } if authorization.as_deref() == Some(&format!("Bearer {token}")) => None,
            Door::Token { realm, .. } => Some(format!(
                r#"Bearer realm="{realm}",service="test",scope="repository:other:push""#
            )),
            Door::Basic { expected } if authorization.as_ref() == Some(expected) => None,
            Door::Basic { .. } => Some(r#"Basic realm="test""#.into()),
        };
        if let Some(challenge) = challenge {
            let refused = Response::builder()
                .status(401)
                .header(header::WWW_AUTHENTICATE, challenge);
            return refused.body(Body::empty()).unwrap();
        }
    }
    let found = shared.answers.lock().unwrap().get(&path).cloned();
    let whole = Response::builder().status(StatusCode::OK);
    match found {
        None => Response::builder().status(404).body(Body::empty()).unwrap(),
        Some(Answer::Bytes(kind, bytes)) => whole.header(header::CONTENT_TYPE, kind).body(bytes.into()).unwrap(),
        Some(Answer::Torn(bytes)) => {
            let parts = [Ok(Bytes::from(bytes)), Err(std::io::Error::other("torn"))];
            whole
                .body(Body::from_stream(futures_util::stream::iter(parts)))
                .unwrap()
        }
        Some(Answer::Endless) => {
            let zeros = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; 16 << 10])));
            whole.body(Body::from_stream(zeros)).unwrap()
        }
        Some(Answer::Silent) => std::future::pending().await,
        Some(Answer::Redirect(to)) => Response::builder()
            .status(307)
            .header(header::LOCATION, to)
            .body(Body::empty())
            .unwrap(),
        Some(Answer::Status(status)) => Response::builder().status(status).body(Body::empty()).unwrap(),
    }
}
