//! A small document from an address that the owner configured: the keys of an identity issuer.
//!
//! One request, five seconds, a quarter of a megabyte, no redirects.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;

use super::address::AddressPolicy;
use super::dial::{Dialer, SystemResolver};
use super::tls::client_config;
use crate::config::text::{Scheme, Target};
use crate::error::Error;

const LIMIT: Duration = Duration::from_secs(5);
const SIZE: usize = 256 * 1024;

/// A document at an address.
pub struct Fetch {
    dialer: Dialer,
    path: String,
}

impl Fetch {
    /// The document at `url`, whose server `ca_file` vouches for, or else the system's authorities do.
    pub fn new(url: url::Url, ca_file: Option<&Path>) -> Result<Fetch, Error> {
        let scheme = if url.scheme() == "http" {
            Scheme::Http
        } else {
            Scheme::Https
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let dialer = Dialer {
            target: Target { scheme, host, port },
            policy: AddressPolicy::any(),
            resolver: std::sync::Arc::new(SystemResolver),
            tls: client_config(ca_file, false)?,
            limit: LIMIT,
        };
        Ok(Fetch { dialer, path })
    }

    /// Fetches it, or says why not.
    pub async fn get(&self) -> Result<Bytes, String> {
        tokio::time::timeout(LIMIT, self.request())
            .await
            .map_err(|_| "no answer in time".to_owned())?
    }

    async fn request(&self) -> Result<Bytes, String> {
        let io = self.dialer.dial().await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|error| error.to_string())?;
        let request = Request::get(&self.path)
            .header(HOST, self.dialer.target.authority())
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("the answer has status {}", response.status()));
            }
            let body = Limited::new(response.into_body(), SIZE)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok(body.to_bytes())
        };
        // Both on this task, so that nothing outlives the request.
        tokio::pin!(connection);
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(error.to_string()),
            },
        }
    }
}
