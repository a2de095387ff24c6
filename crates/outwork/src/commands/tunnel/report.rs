//! What `outwork tunnel setup` says in the end: what is there, what was done for it, what comes next.

use std::path::PathBuf;

use anyhow::Result;
use outwork_wire::Time;
use serde_json::json;

use super::CONFIG;
use super::configuration::Edge;
use super::folder::{AUTHORITY, Change, TOKEN};
use crate::commands::print_json;
use crate::exit::Exit;
use crate::terminal::{Look, sanitize, style};

/// What is set up, and what was done for it.
pub(crate) struct Set {
    pub(crate) folder: PathBuf,
    pub(crate) tunnel_id: String,
    pub(crate) domain: String,
    pub(super) tunnel: &'static str,
    pub(super) token: Change,
    pub(super) authority: Option<(String, &'static str)>,
    pub(super) certificate: (Time, Change),
    pub(super) edge: Edge,
    pub(super) config: Change,
    pub(super) routes: usize,
    pub(super) notes: Vec<String>,
    pub(super) offline: bool,
}

impl Set {
    pub(super) fn show(&self, json: bool, look: &Look) -> Result<Exit> {
        let (expires, change) = &self.certificate;
        if json {
            print_json(&json!({
                "type": "tunnel_setup",
                "folder": self.folder,
                "tunnel_id": self.tunnel_id,
                "domain": self.domain,
                "tunnel": self.tunnel,
                "token": self.token.as_str(),
                "authority": self.authority.as_ref().map(|(id, story)| json!({ "id": id, "story": story })),
                "certificate": { "expires_at": expires, "change": change.as_str() },
                "edge": { "addresses": self.edge.addresses, "fingerprint": self.edge.fingerprint },
                "config": self.config.as_str(),
                "routes": self.routes,
                "notes": self.notes,
            }))?;
            return Ok(Exit::Done);
        }
        let authority = match &self.authority {
            Some((id, story)) => format!("{id} {story}"),
            None => "yours; register it with `outwork tunnels certificates add` if it is not".to_owned(),
        };
        let trust = match (&self.edge.fingerprint, &self.edge.ca_file) {
            (Some(fingerprint), _) => format!("its certificate pinned, {}…", &fingerprint[..16.min(fingerprint.len())]),
            (None, Some(path)) => format!("vouched for by {}", path.display()),
            (None, None) => "vouched for by the public authorities".to_owned(),
        };
        let mut rows = vec![
            ("tunnel", format!("{} {}", self.tunnel_id, self.tunnel)),
            (
                "domain",
                format!("{0}: servers are called https://<route>.{0}/…", self.domain),
            ),
            ("edge", format!("{}, {trust}", self.edge.addresses.join(", "))),
            (
                "token",
                format!("{}, {}", self.folder.join(TOKEN).display(), self.token.as_str()),
            ),
            ("authority", authority),
            ("certificate", format!("until {}, {}", day(*expires), change.as_str())),
            (
                "config",
                format!("{}, {}", self.folder.join(CONFIG).display(), self.config.as_str()),
            ),
        ];
        rows.extend(self.notes.iter().map(|note| ("note", note.clone())));
        let folder = self.folder.display();
        if self.offline {
            let file = self.folder.join(AUTHORITY);
            if file.exists() {
                rows.push((
                    "next",
                    format!(
                        "register the authority: outwork tunnels certificates add {} {}",
                        self.tunnel_id,
                        file.display()
                    ),
                ));
            }
        }
        if self.routes == 0 {
            rows.push((
                "next",
                format!("write the routes into {}", self.folder.join(CONFIG).display()),
            ));
        }
        rows.push(("next", format!("outwork tunnel check --folder {folder}")));
        rows.push(("next", format!("outwork tunnel run --folder {folder}")));
        for (label, text) in rows {
            println!(
                "{}  {}",
                look.paint(style::FAINT, &format!("{label:<11}")),
                sanitize::line(&text)
            );
        }
        Ok(Exit::Done)
    }
}

/// The day of a time.
pub(super) fn day(time: Time) -> String {
    let text = time.to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}
