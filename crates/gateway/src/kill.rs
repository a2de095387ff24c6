//! The local kill switch: routes that nothing passes, whatever the configuration says.
//!
//! What is killed stands in a file of the gateway's folder, so it survives a restart; the command writes it and the
//! gateway watches it. A killed route refuses new calls and cuts those under way. A file that cannot be read kills
//! everything: the owner reached for the switch, and it must not fail open.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The name of the state file in the gateway's folder.
pub const FILE: &str = "killed.json";

/// What is killed, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Killed {
    /// Everything, since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Timestamp>,
    /// Routes by name, since when.
    #[serde(default)]
    pub routes: BTreeMap<String, Timestamp>,
}

impl Killed {
    /// Reads the state in `folder`. No file: nothing is killed.
    pub fn read(folder: &Path) -> Result<Killed, Error> {
        let path = folder.join(FILE);
        let failed = |source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(std::io::Error::other(error))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Killed::default()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether a route is killed.
    pub fn holds(&self, route: &str) -> bool {
        self.all.is_some() || self.routes.contains_key(route)
    }
}

/// Which routes a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them, those of tomorrow too.
    All,
    /// One.
    Route(String),
}

/// Kills, for `outwork tunnel kill`. Safe to repeat.
pub fn kill(folder: &Path, scope: &Scope) -> Result<Killed, Error> {
    change(folder, |killed| match scope {
        Scope::All => {
            killed.all.get_or_insert_with(Timestamp::now);
        }
        Scope::Route(route) => {
            killed
                .routes
                .entry(route.to_ascii_lowercase())
                .or_insert_with(Timestamp::now);
        }
    })
}

/// Revives, for `outwork tunnel revive`. `All` revives every route; one route stays killed while all are.
pub fn revive(folder: &Path, scope: &Scope) -> Result<Killed, Error> {
    change(folder, |killed| match scope {
        Scope::All => *killed = Killed::default(),
        Scope::Route(route) => {
            killed.routes.remove(&route.to_ascii_lowercase());
        }
    })
}

/// Changes the file whole, one command at a time.
fn change(folder: &Path, change: impl FnOnce(&mut Killed)) -> Result<Killed, Error> {
    let path = folder.join(FILE);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    let lock_path = folder.join(".killed.lock");
    let lock = std::fs::File::create(&lock_path).map_err(failed("lock", &lock_path))?;
    lock.lock().map_err(failed("lock", &lock_path))?;
    let mut killed = Killed::read(folder)?;
    change(&mut killed);
    let next = folder.join(".killed.next");
    let write = || {
        let mut file = std::fs::File::create(&next)?;
        file.write_all(
            serde_json::to_string_pretty(&killed)
                .map_err(std::io::Error::other)?
                .as_bytes(),
        )?;
        file.sync_all()?;
        std::fs::rename(&next, &path)
    };
    write().map_err(failed("write", &path))?;
    Ok(killed)
}

/// The switch of a running gateway.
pub struct Switch {
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// `None` while the file cannot be read: everything is killed.
    killed: Option<Killed>,
    /// A token for each route that was ever called, cancelled when it is killed.
    cuts: HashMap<String, CancellationToken>,
}

impl State {
    fn holds(&self, route: &str) -> bool {
        self.killed.as_ref().is_none_or(|killed| killed.holds(route))
    }
}

impl Switch {
    /// The switch over the state in `folder`.
    pub fn open(folder: &Path) -> Switch {
        let switch = Switch {
            folder: folder.to_owned(),
            state: Mutex::new(State {
                killed: Some(Killed::default()),
                cuts: HashMap::new(),
            }),
        };
        switch.reload();
        switch
    }

    /// The token that is cancelled while a route is killed. Routes are few: their names come from the configuration.
    pub fn cut(&self, route: &str) -> CancellationToken {
        let mut state = self.state();
        let held = state.holds(route);
        let token = state.cuts.entry(route.to_owned()).or_default();
        if held {
            token.cancel();
        }
        token.clone()
    }

    /// Whether a route is killed.
    pub fn holds(&self, route: &str) -> bool {
        self.state().holds(route)
    }

    /// Takes over what the file says now.
    pub fn reload(&self) {
        let read = Killed::read(&self.folder);
        if let Err(error) = &read {
            tracing::error!(%error, "the kill switch cannot be read: every route is killed until it can");
        }
        let mut state = self.state();
        let next = read.ok();
        if next == state.killed {
            return;
        }
        state.killed = next;
        let names: Vec<String> = state.cuts.keys().cloned().collect();
        for route in names {
            let held = state.holds(&route);
            if let Some(token) = state.cuts.get_mut(&route)
                && held != token.is_cancelled()
            {
                if held {
                    tracing::warn!(route, "killed: calls under way are cut, new ones refused");
                    token.cancel();
                } else {
                    tracing::warn!(route, "revived");
                    *token = CancellationToken::new();
                }
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_switch_agree() {
        let folder = tempfile::tempdir().unwrap();
        let switch = Switch::open(folder.path());
        let wiki = switch.cut("wiki");
        assert!(!wiki.is_cancelled());

        let killed = kill(folder.path(), &Scope::Route("Wiki".into())).unwrap();
        assert_eq!(
            kill(folder.path(), &Scope::Route("wiki".into())).unwrap(),
            killed,
            "since when is kept"
        );
        switch.reload();
        assert!(wiki.is_cancelled() && switch.holds("wiki") && !switch.holds("db"));
        assert!(
            Switch::open(folder.path()).cut("wiki").is_cancelled(),
            "it survives a restart"
        );

        revive(folder.path(), &Scope::Route("wiki".into())).unwrap();
        switch.reload();
        assert!(wiki.is_cancelled() && !switch.cut("wiki").is_cancelled());

        kill(folder.path(), &Scope::All).unwrap();
        switch.reload();
        assert!(switch.cut("wiki").is_cancelled() && switch.cut("new").is_cancelled());
        revive(folder.path(), &Scope::All).unwrap();
        switch.reload();
        assert!(!switch.cut("new").is_cancelled());
    }

    #[test]
    fn a_broken_file_kills_everything() {
        let folder = tempfile::tempdir().unwrap();
        let switch = Switch::open(folder.path());
        for broken in ["{", "{\"rutes\":{}}", ""] {
            std::fs::write(folder.path().join(FILE), broken).unwrap();
            switch.reload();
            assert!(switch.holds("wiki"), "{broken}");
            assert!(kill(folder.path(), &Scope::All).is_err());
        }
    }
}
