//! `/v1/tunnels`. Pausing, status, connections and usage are there on servers of this project only.

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Client, Pages, Query, Result, path};

/// Tunnels.
pub struct Tunnels<'a>(pub(crate) &'a Client);

impl Tunnels<'_> {
    /// Makes a tunnel; made twice there are two.
    pub async fn create(&self, body: &(impl Serialize + ?Sized)) -> Result<Value> {
        self.0.post("/v1/tunnels", &Query::new(), body).await
    }

    /// A tunnel.
    pub async fn get(&self, id: &str) -> Result<Value> {
        self.0.get(path(&["v1", "tunnels", id])?, &Query::new()).await
    }

    /// Every tunnel, newest first.
    pub fn list(&self, query: Query) -> Pages<Value> {
        self.0.pages("/v1/tunnels", query)
    }

    /// Archives a tunnel for good.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        self.act(id, "archive").await
    }

    /// The present token.
    pub async fn reveal_token(&self, id: &str) -> Result<Value> {
        self.act(id, "reveal_token").await
    }

    /// Makes another token; the one before is void at once.
    pub async fn rotate_token(&self, id: &str, reason: Option<&str>) -> Result<Value> {
        let path = path(&["v1", "tunnels", id, "rotate_token"])?;
        self.0.post(path, &Query::new(), &json!({ "reason": reason })).await
    }

    /// Lets nothing pass from now on. The new status.
    pub async fn pause(&self, id: &str) -> Result<Value> {
        self.act(id, "pause").await
    }

    /// Lets calls pass again. The new status.
    pub async fn resume(&self, id: &str) -> Result<Value> {
        self.act(id, "resume").await
    }

    /// Whether it is paused, who is connected.
    pub async fn status(&self, id: &str) -> Result<Value> {
        self.look(id, "status").await
    }

    /// The gateways that are connected.
    pub async fn connections(&self, id: &str) -> Result<Value> {
        self.look(id, "connections").await
    }

    /// Calls and bytes, by route.
    pub async fn usage(&self, id: &str) -> Result<Value> {
        self.look(id, "usage").await
    }

    /// Where gateways connect, and the certificate that they find there. Refused where no gateway can connect.
    pub async fn edge(&self) -> Result<Value> {
        self.0.get("/v1/outwork/edge", &Query::new()).await
    }

    async fn act(&self, id: &str, what: &str) -> Result<Value> {
        self.0.post_empty(path(&["v1", "tunnels", id, what])?).await
    }

    async fn look(&self, id: &str, what: &str) -> Result<Value> {
        self.0.get(path(&["v1", "tunnels", id, what])?, &Query::new()).await
    }
}

/// The certificate authorities of one tunnel.
pub struct TunnelCertificates<'a> {
    client: &'a Client,
    tunnel_id: String,
}

impl<'a> TunnelCertificates<'a> {
    pub(crate) fn new(client: &'a Client, tunnel_id: String) -> Self {
        Self { client, tunnel_id }
    }

    fn path(&self) -> Result<String> {
        path(&["v1", "tunnels", &self.tunnel_id, "certificates"])
    }

    /// Registers an authority by its PEM text.
    pub async fn create(&self, ca_certificate_pem: &str) -> Result<Value> {
        let body = json!({ "ca_certificate_pem": ca_certificate_pem });
        self.client.post(self.path()?, &Query::new(), &body).await
    }

    /// An authority.
    pub async fn get(&self, id: &str) -> Result<Value> {
        let path = path(&["v1", "tunnels", &self.tunnel_id, "certificates", id])?;
        self.client.get(path, &Query::new()).await
    }

    /// Every authority, newest first.
    pub fn list(&self, query: Query) -> Result<Pages<Value>> {
        Ok(self.client.pages(self.path()?, query))
    }

    /// Takes an authority out of those that are trusted.
    pub async fn archive(&self, id: &str) -> Result<Value> {
        let path = path(&["v1", "tunnels", &self.tunnel_id, "certificates", id, "archive"])?;
        self.client.post_empty(path).await
    }
}
