//! What a session's sandbox sees instead of secrets, and where the real ones may go.
//!
//! A placeholder stays the same for as long as its value does, whatever else changes; so a variable that a running shell
//! has keeps its meaning.

use std::collections::HashMap;

use outwork_client::{SessionSecrets, SessionVariable};
use outwork_egress::secret::{Locations, SecretSet, SecretSpec, placeholder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::error::BoundaryError;
use super::options::WorkerSecret;
use super::repository::Repository;

/// The placeholders that were given out in one session, by the name of the secret.
#[derive(Default)]
pub(crate) struct Placeholders(HashMap<String, (SecretString, String)>);

impl Placeholders {
    fn of(&mut self, name: &str, value: &SecretString) -> String {
        if let Some((known, placeholder)) = self.0.get(name)
            && known.expose_secret() == value.expose_secret()
        {
            return placeholder.clone();
        }
        let made = placeholder::for_value(value.expose_secret(), &mut rand::rng());
        self.0.insert(name.to_owned(), (value.clone(), made.clone()));
        made
    }
}

/// What a session may use.
pub(crate) struct Secrets {
    pub set: SecretSet,
    /// Variables for the sandbox: the placeholders, and what tells git of them.
    pub env: Vec<(String, String)>,
}

/// The secrets of a session: those of its vaults, tokens of its repositories, and the worker's own.
pub(crate) fn of_session(
    given: Option<&SessionSecrets>,
    own: &[(WorkerSecret, SecretString)],
    repositories: &[Repository],
    placeholders: &mut Placeholders,
) -> Result<Secrets, BoundaryError> {
    let mut specs = Vec::new();
    let mut env: Vec<(String, String)> = Vec::new();
    for variable in given.map_or(&[][..], |given| &given.variables) {
        if env.iter().any(|(name, _)| *name == variable.name) {
            tracing::warn!(
                variable = variable.name,
                credential = variable.credential_id,
                "two credentials of the session's vaults are for one variable; the first is used"
            );
            continue;
        }
        let spec = of_variable(variable, placeholders)?;
        env.push((variable.name.clone(), spec.placeholder.clone()));
        specs.push(spec);
    }
    for (secret, value) in own {
        if env.iter().any(|(name, _)| *name == secret.name) {
            return Err(BoundaryError::Secrets(format!(
                "`{}` is a secret of the worker's own and a credential of the session; rename one of them",
                secret.name
            )));
        }
        let placeholder = placeholders.of(&secret.name, value);
        env.push((secret.name.clone(), placeholder.clone()));
        let mut spec = SecretSpec::new(&secret.name, value.clone(), placeholder, secret.hosts.clone());
        spec.locations = secret.locations;
        specs.push(spec);
    }
    let mut git = Vec::new();
    for repository in repositories {
        let Some((spec, settings)) = of_repository(given, repository, placeholders) else {
            continue;
        };
        specs.push(spec);
        git.extend(settings);
    }
    env.extend(git_env(git));
    let set = SecretSet::new(specs).map_err(|error| BoundaryError::Secrets(error.to_string()))?;
    Ok(Secrets { set, env })
}

/// The token of one repository, for the sandbox that brings it.
pub(crate) fn of_one_repository(
    given: Option<&SessionSecrets>,
    repository: &Repository,
    placeholders: &mut Placeholders,
) -> Result<Secrets, BoundaryError> {
    let (specs, git) = match of_repository(given, repository, placeholders) {
        Some((spec, settings)) => (vec![spec], settings),
        None => (Vec::new(), Vec::new()),
    };
    let set = SecretSet::new(specs).map_err(|error| BoundaryError::Secrets(error.to_string()))?;
    Ok(Secrets { set, env: git_env(git) })
}

fn of_variable(variable: &SessionVariable, placeholders: &mut Placeholders) -> Result<SecretSpec, BoundaryError> {
    let wrong = |what: &str| {
        BoundaryError::Secrets(format!(
            "the credential {} has {what} that this worker does not know",
            variable.credential_id
        ))
    };
    let hosts = match variable.networking["type"].as_str() {
        Some("unrestricted") => vec!["*".to_owned()],
        Some("limited") => {
            let hosts = variable.networking["allowed_hosts"].as_array();
            let hosts = hosts.ok_or_else(|| wrong("a network"))?;
            let hosts: Option<Vec<_>> = hosts.iter().map(|host| host.as_str().map(str::to_owned)).collect();
            hosts.ok_or_else(|| wrong("a network"))?
        }
        _ => return Err(wrong("a network")),
    };
    let place = |name: &str| match &variable.injection_location[name] {
        Value::Bool(may) => Ok(*may),
        Value::Null => Ok(false),
        _ => Err(wrong("a location")),
    };
    let placeholder = placeholders.of(&variable.name, &variable.value);
    let mut spec = SecretSpec::new(&variable.name, variable.value.clone(), placeholder, hosts);
    spec.locations = Locations::from_injection(place("header")?, place("body")?);
    Ok(spec)
}

/// A repository's token, and the settings by which git inside sends its placeholder.
fn of_repository(
    given: Option<&SessionSecrets>,
    repository: &Repository,
    placeholders: &mut Placeholders,
) -> Option<(SecretSpec, Vec<(String, String)>)> {
    let tokens = &given?.repositories;
    let token = tokens.iter().find(|token| token.resource_id == repository.id)?;
    let name = format!("repository {}", repository.id);
    let placeholder = placeholders.of(&name, &token.token);
    let host = repository.host.to_string();
    let settings = repository.git_settings(&placeholder);
    Some((
        SecretSpec::new(name, token.token.clone(), placeholder, vec![host]),
        settings,
    ))
}

/// Settings as git takes them from its environment: nothing is written anywhere.
fn git_env(settings: Vec<(String, String)>) -> Vec<(String, String)> {
    if settings.is_empty() {
        return Vec::new();
    }
    let mut env = vec![("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string())];
    for (number, (key, value)) in settings.into_iter().enumerate() {
        env.push((format!("GIT_CONFIG_KEY_{number}"), key));
        env.push((format!("GIT_CONFIG_VALUE_{number}"), value));
    }
    env
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::worker::boundary::options::SecretSource;

    fn given() -> SessionSecrets {
        serde_json::from_value(json!({
            "repositories": [
                {"resource_id": "sesrsc_1", "url": "https://git.example/a/b", "token": "ghp_abcdefghijklmnop"},
            ],
            "variables": [
                {"vault_id": "v", "credential_id": "c", "name": "API_KEY", "value": "sk-live-0123456789abcdef",
                 "networking": {"type": "limited", "allowed_hosts": ["api.example"]},
                 "injection_location": {"header": true, "body": false}},
            ],
        }))
        .unwrap()
    }

    fn own(name: &str) -> (WorkerSecret, SecretString) {
        let secret = WorkerSecret {
            name: name.into(),
            source: SecretSource::Variable("X".into()),
            hosts: vec!["own.example".into()],
            locations: Locations::from_injection(true, false),
        };
        (secret, SecretString::from("own-value-0123456789"))
    }

    fn repository() -> Repository {
        Repository::read("sesrsc_1", "https://git.example/a/b", "/workspace/b", None, true).unwrap()
    }

    #[test]
    fn no_value_is_in_what_the_sandbox_sees() {
        let mut placeholders = Placeholders::default();
        let made = of_session(Some(&given()), &[own("OWN")], &[repository()], &mut placeholders).unwrap();
        let names: Vec<&str> = made.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["API_KEY", "OWN", "GIT_CONFIG_COUNT"]);
        let text = format!("{:?}", made.env);
        for value in [
            "sk-live-0123456789abcdef",
            "own-value-0123456789",
            "ghp_abcdefghijklmnop",
        ] {
            assert_eq!(made.set.scrub_text(&text).1, 0);
            assert!(!text.contains(value));
        }
        for host in ["api.example", "own.example", "git.example"] {
            assert!(made.set.bound_to(host));
        }
        assert!(!made.set.bound_to("other.example"));
        // The same again, and another placeholder only for another value.
        let again = of_session(Some(&given()), &[own("OWN")], &[repository()], &mut placeholders).unwrap();
        assert_eq!(again.env, made.env);
        let mut other = given();
        other.variables[0].value = SecretString::from("sk-live-fedcba9876543210");
        let changed = of_session(Some(&other), &[own("OWN")], &[repository()], &mut placeholders).unwrap();
        assert_ne!(changed.env[0], made.env[0]);
        assert_eq!(changed.env[1..], made.env[1..]);
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let mut placeholders = Placeholders::default();
        let mut refused = |given: &SessionSecrets, own: &[(WorkerSecret, SecretString)]| {
            let made = of_session(Some(given), own, &[], &mut placeholders);
            made.err().expect("must be refused").to_string()
        };
        assert!(refused(&given(), &[own("API_KEY")]).contains("rename"));
        let mut unknown = given();
        unknown.variables[0].networking = json!({"type": "other"});
        assert!(refused(&unknown, &[]).contains("a network"));
        let mut short = given();
        short.variables[0].value = SecretString::from("short");
        let text = refused(&short, &[]);
        assert!(text.contains("at least 8") && !text.contains("short;"), "{text}");
    }
}
