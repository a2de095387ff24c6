//! The authority of a gateway and the certificate that it signs: made, kept, registered with the tunnel.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Query};
use outwork_tunnel::certificate::{
    Authority, MadeAuthority, check_server, fingerprint, make_authority, make_server_certificate,
};
use outwork_wire::Time;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::folder::{AUTHORITY, AUTHORITY_KEY, CERTIFICATE, Change, Folder, KEY, Mode};
use crate::commands::{text, when};

/// The most authorities of a tunnel that can be active.
const ACTIVE: usize = 2;

/// An authority that a folder keeps.
pub(super) enum Kept {
    /// With its key: it can sign.
    Whole(MadeAuthority),
    /// Without: its owner keeps the key elsewhere.
    Public(Authority),
}

impl Kept {
    /// The authority itself.
    pub(super) fn authority(&self) -> &Authority {
        match self {
            Kept::Whole(made) => made.authority(),
            Kept::Public(authority) => authority,
        }
    }
}

/// The authority in two files of a folder; `None` where it is not whole, so that it was never used.
pub(super) fn read(folder: &Folder, certificate: &str, key: &str, now: Time) -> Result<Option<Kept>> {
    let Some(pem) = folder.read(certificate)? else {
        return Ok(None);
    };
    let path = folder.path(certificate);
    match folder.read_secret(key)? {
        Some(key_pem) => MadeAuthority::from_pem(pem, key_pem, now)
            .map(|made| Some(Kept::Whole(made)))
            .with_context(|| format!("{} and {key}", path.display())),
        None => Authority::parse(&pem, now)
            .map(|authority| Some(Kept::Public(authority)))
            .with_context(|| path.display().to_string()),
    }
}

/// Makes an authority into two files of a folder.
pub(super) fn make(folder: &Folder, domain: &str, certificate: &str, key: &str, now: Time) -> Result<MadeAuthority> {
    let made = make_authority(&format!("gateway of {domain}"), now)?;
    // The certificate goes last: where it is, its key is too.
    folder.write_secret(key, &made.key_pem)?;
    folder.write(certificate, &made.certificate_pem, Mode::Public)?;
    Ok(made)
}

/// The folder's authority; made if there is none.
pub(super) fn keep_or_make(folder: &Folder, domain: &str, now: Time) -> Result<(Kept, Change)> {
    match read(folder, AUTHORITY, AUTHORITY_KEY, now)
        .context("the authority cannot be used; `outwork tunnel renew --new-authority` makes another")?
    {
        Some(kept) => Ok((kept, Change::Kept)),
        None => {
            let made = make(folder, domain, AUTHORITY, AUTHORITY_KEY, now)?;
            Ok((Kept::Whole(made), Change::Made))
        }
    }
}

/// The server certificate in a folder, if the plane would take it: when it expires.
pub(super) fn certificate(folder: &Folder, authority: &Authority, domain: &str, now: Time) -> Result<Option<Time>> {
    let (Some(certificate), Some(key)) = (folder.read(CERTIFICATE)?, folder.read_secret(KEY)?) else {
        return Ok(None);
    };
    Ok(check_server(&certificate, key.expose_secret(), authority, domain, now).ok())
}

/// Makes a server certificate into a folder.
pub(super) fn sign(
    folder: &Folder,
    authority: &MadeAuthority,
    domain: &str,
    lifetime: Duration,
    now: Time,
) -> Result<(Time, Change)> {
    let made = make_server_certificate(authority, domain, lifetime, now)?;
    // A gateway that reads between the two refuses a pair that does not fit, keeps the one before and looks again.
    folder.write_secret(KEY, &made.key_pem)?;
    let change = folder.write(CERTIFICATE, &made.certificate_pem, Mode::Public)?;
    Ok((made.expires_at, change))
}

/// An authority as the server has it.
pub(super) struct Registered {
    pub(super) id: String,
    pub(super) new: bool,
}

/// Registers an authority with a tunnel, unless it is. Where two others are active, `superseded` makes place if it is
/// one of them.
pub(super) async fn register(
    client: &Client,
    tunnel_id: &str,
    authority: &Authority,
    pem: &str,
    superseded: Option<&str>,
) -> Result<Registered> {
    let certificates = client.tunnel_certificates(tunnel_id);
    let query = Query::new().maybe("include_archived", Some(true));
    let all: Vec<Value> = certificates.list(query)?.collect(usize::MAX).await?;
    let id = |item: &Value| text(item, "/id");
    let of = |item: &&Value| item["fingerprint"].as_str() == Some(authority.fingerprint.as_str());
    let is_active = |item: &&Value| item["archived_at"].is_null();
    if let Some(active) = all.iter().find(|item| of(item) && is_active(item)) {
        return Ok(Registered {
            id: id(active),
            new: false,
        });
    }
    if let Some(archived) = all.iter().find(of) {
        bail!(
            "the authority of this folder was archived on the server ({}, {}): nothing that it signed is trusted any \
             more. `outwork tunnel renew --new-authority` makes and registers another",
            id(archived),
            when(archived, "/archived_at")
        );
    }
    let active: Vec<&Value> = all.iter().filter(is_active).collect();
    if active.len() >= ACTIVE {
        match active
            .iter()
            .find(|item| superseded.is_some() && item["fingerprint"].as_str() == superseded)
        {
            Some(old) => drop(certificates.archive(&id(old)).await?),
            None => {
                let list: Vec<String> = active
                    .iter()
                    .map(|item| format!("{} (expires {})", id(item), when(item, "/expires_at")))
                    .collect();
                bail!(
                    "{tunnel_id} has {ACTIVE} active authorities, which is the most: {}. Archive the one that no \
                     gateway uses with `outwork tunnels certificates archive {tunnel_id} tcrt_…`, or copy ca.crt and \
                     ca.key from a gateway of this tunnel into the folder; then do this again",
                    list.join(", ")
                );
            }
        }
    }
    let made = certificates.create(pem).await?;
    Ok(Registered {
        id: id(&made),
        new: true,
    })
}

/// The fingerprint of a certificate in PEM, if it is one.
pub(super) fn fingerprint_of(pem: &str) -> Option<String> {
    outwork_tunnel::certificate::der(pem).map(|der| fingerprint(&der))
}
