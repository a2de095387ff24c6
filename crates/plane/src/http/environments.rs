//! `/v1/environments`: what clients send for environments and what they are shown.
//!
//! What a cloud environment's sandboxes may reach and what is installed in them is in its `config`
//! ([`crate::app::environment_config`]); a self_hosted environment's workers decide that themselves.

use outwork_store::{EnvironmentRow, NewEnvironment};
use outwork_wire::Time;
use outwork_wire::id::EnvironmentId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::render::Reply;
use super::shortened;
use crate::app::environment_config::{ConfigWish, NetworkingWish, Packages, hosts};
use crate::app::environments::{self, EnvironmentChange, invalid_metadata, not_found};
use crate::app::fields::{check_length, checked_metadata, given};
use crate::error::ApiError;

const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 2048;
const MAX_PAGE: usize = 1000;

/// `POST /v1/environments`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let new = call.json::<CreateParams>()?.resolve()?;
    let row = environments::create(&call.app, &call.access, new).await?;
    Reply::json(&EnvironmentView::new(&row))
}

/// `GET /v1/environments`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let include_archived = call.query.flag("include_archived")?.unwrap_or(false);
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = environments::list(&call.app, &call.access, include_archived, page).await?;
    list_page(page, EnvironmentView::new)
}

/// `GET /v1/environments/{environment_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let row = environments::retrieve(&call.app, &call.access, &environment_id(&call)?).await?;
    Reply::json(&EnvironmentView::new(&row))
}

/// `POST /v1/environments/{environment_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = environment_id(&call)?;
    let change = call.json::<UpdateParams>()?.resolve()?;
    let row = environments::update(&call.app, &call.access, &id, change).await?;
    Reply::json(&EnvironmentView::new(&row))
}

/// `POST /v1/environments/{environment_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let row = environments::archive(&call.app, &call.access, &environment_id(&call)?).await?;
    Reply::json(&EnvironmentView::new(&row))
}

/// `DELETE /v1/environments/{environment_id}`
pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    let force = call.query.flag("force")?.unwrap_or(false);
    call.finish_query()?;
    call.no_body()?;
    let id = environment_id(&call)?;
    environments::delete(&call.app, &call.access, &id, force).await?;
    Reply::json(&json!({ "id": id, "type": "environment_deleted" }))
}

/// The environment in the path.
pub(super) fn environment_id(call: &Call) -> Result<EnvironmentId, ApiError> {
    let text = call.text("environment_id");
    text.parse().map_err(|_| not_found(&shortened(text)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: String,
    #[serde(default)]
    config: Option<ConfigParams>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Map<String, Value>>,
    #[serde(default)]
    scope: Option<String>,
}

impl CreateParams {
    fn resolve(self) -> Result<NewEnvironment, ApiError> {
        check_name(&self.name)?;
        check_description(self.description.as_deref())?;
        check_scope(self.scope.as_deref())?;
        let wish = match self.config {
            Some(config) => config.resolve()?,
            None => ConfigWish::Cloud {
                networking: None,
                packages: None,
            },
        };
        Ok(NewEnvironment {
            id: EnvironmentId::fresh(),
            kind: wish.kind(),
            name: self.name,
            description: self.description,
            config: wish.over(None).map_err(ApiError::invalid)?,
            metadata: checked_metadata(self.metadata.unwrap_or_default()).map_err(invalid_metadata)?,
            scope: Some("organization".into()),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    // A null leaves name, config and scope as they are; only a description can be cleared.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    config: Option<ConfigParams>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Map<String, Value>>,
    #[serde(default)]
    scope: Option<String>,
}

impl UpdateParams {
    fn resolve(self) -> Result<EnvironmentChange, ApiError> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        check_description(self.description.as_ref().and_then(Option::as_deref))?;
        check_scope(self.scope.as_deref())?;
        Ok(EnvironmentChange {
            name: self.name,
            description: self.description,
            config: self.config.map(ConfigParams::resolve).transpose()?,
            metadata: self.metadata,
        })
    }
}

fn check_name(name: &str) -> Result<(), ApiError> {
    check_length("name", name, 1..=MAX_NAME)
}

fn check_description(description: Option<&str>) -> Result<(), ApiError> {
    check_length("description", description.unwrap_or_default(), 0..=MAX_DESCRIPTION)
}

fn check_scope(scope: Option<&str>) -> Result<(), ApiError> {
    match scope {
        None | Some("organization") => Ok(()),
        Some(other) => Err(ApiError::invalid(format!(
            "scope: `{}` is not supported by this server; use organization or leave the field out",
            shortened(other)
        ))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigParams {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    networking: Option<NetworkingParams>,
    #[serde(default)]
    packages: Option<PackagesParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkingParams {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    allowed_hosts: Option<Vec<String>>,
    #[serde(default)]
    allow_mcp_servers: Option<bool>,
    #[serde(default)]
    allow_package_managers: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackagesParams {
    #[serde(rename = "type", default, deserialize_with = "given")]
    kind: Option<String>,
    #[serde(default)]
    apt: Option<Vec<String>>,
    #[serde(default)]
    cargo: Option<Vec<String>>,
    #[serde(default)]
    gem: Option<Vec<String>>,
    #[serde(default)]
    go: Option<Vec<String>>,
    #[serde(default)]
    npm: Option<Vec<String>>,
    #[serde(default)]
    pip: Option<Vec<String>>,
}

impl ConfigParams {
    fn resolve(self) -> Result<ConfigWish, ApiError> {
        match self.kind.as_str() {
            "self_hosted" => {
                let field = match (&self.networking, &self.packages) {
                    (Some(_), _) => "networking",
                    (None, Some(_)) => "packages",
                    (None, None) => return Ok(ConfigWish::SelfHosted),
                };
                Err(ApiError::invalid(format!(
                    "config.{field}: is not a field of a self_hosted environment; set this on its workers"
                )))
            }
            "cloud" => Ok(ConfigWish::Cloud {
                networking: self.networking.map(NetworkingParams::resolve).transpose()?,
                packages: self.packages.map(PackagesParams::resolve).transpose()?,
            }),
            other => Err(ApiError::invalid(format!(
                "config.type: `{}` is not supported; use cloud or self_hosted",
                shortened(other)
            ))),
        }
    }
}

impl NetworkingParams {
    fn resolve(self) -> Result<NetworkingWish, ApiError> {
        match self.kind.as_str() {
            "limited" => Ok(NetworkingWish::Limited {
                allowed_hosts: self.allowed_hosts.map(hosts).transpose().map_err(ApiError::invalid)?,
                allow_mcp_servers: self.allow_mcp_servers,
                allow_package_managers: self.allow_package_managers,
            }),
            "unrestricted" => {
                let fields = [
                    ("allowed_hosts", self.allowed_hosts.is_some()),
                    ("allow_mcp_servers", self.allow_mcp_servers.is_some()),
                    ("allow_package_managers", self.allow_package_managers.is_some()),
                ];
                match fields.iter().find(|(_, given)| *given) {
                    Some((field, _)) => Err(ApiError::invalid(format!(
                        "config.networking.{field}: is not a field of unrestricted networking; leave it out, or use \
                         limited"
                    ))),
                    None => Ok(NetworkingWish::Unrestricted),
                }
            }
            other => Err(ApiError::invalid(format!(
                "config.networking.type: `{}` is not supported; use limited or unrestricted",
                shortened(other)
            ))),
        }
    }
}

impl PackagesParams {
    fn resolve(self) -> Result<Packages, ApiError> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != "packages") {
            return Err(ApiError::invalid(format!(
                "config.packages.type: must be `packages`, not `{}`",
                shortened(kind)
            )));
        }
        let mut packages = Packages::default();
        packages.apt = self.apt.unwrap_or_default();
        packages.cargo = self.cargo.unwrap_or_default();
        packages.gem = self.gem.unwrap_or_default();
        packages.go = self.go.unwrap_or_default();
        packages.npm = self.npm.unwrap_or_default();
        packages.pip = self.pip.unwrap_or_default();
        packages.check().map_err(ApiError::invalid)?;
        Ok(packages)
    }
}

/// An environment as responses show it.
#[derive(Serialize)]
struct EnvironmentView {
    id: EnvironmentId,
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    description: Option<String>,
    config: Value,
    metadata: Map<String, Value>,
    scope: Option<String>,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

impl EnvironmentView {
    fn new(row: &EnvironmentRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "environment",
            name: row.name.clone(),
            description: row.description.clone(),
            config: row.config.clone(),
            metadata: row.metadata.clone(),
            scope: row.scope.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use outwork_wire::agent::EnvironmentKind;

    use super::*;

    fn create(value: Value) -> Result<NewEnvironment, String> {
        let params: CreateParams = serde_json::from_value(value).map_err(|e| e.to_string())?;
        params.resolve().map_err(|e| e.message)
    }

    fn config(config: Value) -> Result<NewEnvironment, String> {
        create(json!({ "name": "n", "config": config }))
    }

    #[test]
    fn the_plainest_calls_work() {
        for body in [
            json!({ "name": "n" }),
            json!({ "name": "n", "config": null, "scope": null, "description": null }),
            json!({ "name": "n", "config": { "type": "cloud" }, "scope": "organization" }),
        ] {
            let new = create(body).unwrap();
            assert_eq!(new.kind, EnvironmentKind::Cloud);
            assert_eq!(new.config["networking"]["type"], "limited");
            assert_eq!(new.scope.as_deref(), Some("organization"));
        }
        let own = config(json!({ "type": "self_hosted" })).unwrap();
        assert_eq!(
            (own.kind, own.config),
            (EnvironmentKind::SelfHosted, json!({ "type": "self_hosted" }))
        );
    }

    #[test]
    fn what_a_response_shows_is_taken_back() {
        for shown in [
            json!({
                "type": "cloud",
                "networking": {
                    "type": "limited", "allowed_hosts": ["a.example"], "allow_mcp_servers": true,
                    "allow_package_managers": true,
                },
                "packages": { "type": "packages", "apt": ["jq"], "cargo": [], "gem": [], "go": [], "npm": [], "pip": [] },
            }),
            json!({
                "type": "cloud",
                "networking": { "type": "unrestricted" },
                "packages": { "type": "packages", "apt": [], "cargo": [], "gem": [], "go": [], "npm": [], "pip": ["x"] },
            }),
        ] {
            assert_eq!(config(shown.clone()).unwrap().config, shown);
        }
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (value, place) in [
            (
                json!({ "type": "cloud", "networking": { "type": "open" } }),
                "config.networking.type",
            ),
            (
                json!({ "type": "cloud", "networking": { "type": "unrestricted", "allowed_hosts": [] } }),
                "config.networking.allowed_hosts",
            ),
            (
                json!({ "type": "cloud", "networking": { "type": "limited", "allowed_hosts": ["a.example", "b/c"] } }),
                "config.networking.allowed_hosts.1",
            ),
            (
                json!({ "type": "cloud", "packages": { "pip": ["x"] } }),
                "config.packages: limited",
            ),
            (
                json!({ "type": "cloud", "networking": { "type": "unrestricted" }, "packages": { "pip": ["-r x"] } }),
                "config.packages.pip.0",
            ),
            (
                json!({ "type": "cloud", "packages": { "type": "x" } }),
                "config.packages.type",
            ),
            (json!({ "type": "self_hosted", "packages": {} }), "config.packages"),
            (
                json!({ "type": "self_hosted", "networking": { "type": "limited" } }),
                "config.networking",
            ),
            (json!({ "type": "bridge" }), "config.type"),
        ] {
            let message = config(value).err().unwrap();
            assert!(message.starts_with(place), "{message}");
        }
        assert!(
            config(json!({ "type": "cloud", "region": "eu" }))
                .err()
                .unwrap()
                .contains("`region`")
        );
        assert!(config(json!({})).err().unwrap().contains("`type`"));
        for (body, place) in [
            (json!({ "name": "" }), "name"),
            (json!({ "name": "n", "scope": "account" }), "scope"),
            (json!({ "name": "n", "metadata": { "a": null } }), "metadata.a"),
        ] {
            let message = create(body).err().unwrap();
            assert!(message.starts_with(place), "{message}");
        }
        assert!(create(json!({ "name": "n", "metadata": null })).is_err());
    }

    #[test]
    fn an_update_clears_only_the_description() {
        let update = |value: Value| {
            serde_json::from_value::<UpdateParams>(value)
                .unwrap()
                .resolve()
                .unwrap()
        };
        let nothing = update(json!({ "name": null, "config": null, "scope": null }));
        assert!(nothing.name.is_none() && nothing.config.is_none() && nothing.description.is_none());
        assert_eq!(update(json!({ "description": null })).description, Some(None));
        assert_eq!(
            update(json!({ "description": "" })).description,
            Some(Some(String::new()))
        );
    }
}
