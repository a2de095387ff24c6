//! `outwork tunnel renew`: another certificate before the present one expires, and another authority before the
//! present one is too near its end to sign it.
//!
//! The authority follows in steps that each can be the last: the next one is made beside the present one, registered,
//! signs a certificate, and takes the place of the present one, which stays registered until a later renewal needs its
//! place. Whoever runs a gateway with the certificate before is not cut off.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_tunnel::certificate::{MadeAuthority, SERVER_LIFETIME};
use outwork_wire::Time;
use serde_json::json;

use super::authority::{self, Kept};
use super::folder::{
    AUTHORITY, AUTHORITY_KEY, CERTIFICATE, Folder, Mode, NEXT_AUTHORITY, NEXT_AUTHORITY_KEY, OLD_AUTHORITY,
};
use super::folder_of;
use super::report::day;
use crate::cli::tunnel::RenewArgs;
use crate::commands::print_json;
use crate::config::process_environment;
use crate::exit::Exit;
use crate::workload;

pub(super) async fn renew(args: &RenewArgs) -> Result<Exit> {
    let folder = Folder::existing(&folder_of(args.folder.as_deref()))?;
    let state = folder.state()?;
    let (Some(tunnel_id), Some(domain)) = (&state.tunnel_id, &state.domain) else {
        bail!(
            "the setup of {} was not completed: do `outwork tunnel setup` again",
            folder.at().display()
        );
    };
    if !folder.path(AUTHORITY).exists() && !folder.path(NEXT_AUTHORITY).exists() {
        bail!(
            "the certificate of {} is not made here: there is no {AUTHORITY}. Renew it where it comes from; the gateway \
             takes it over by itself",
            folder.at().display()
        );
    }
    let lifetime = args.lifetime.map_or(SERVER_LIFETIME, |span| span.0);
    let before = args.before.0;
    if lifetime <= before {
        bail!("a certificate that lives no longer than --before would be renewed every time");
    }
    let now = Time::now();
    let next = authority::read(&folder, NEXT_AUTHORITY, NEXT_AUTHORITY_KEY, now)?;
    // With a next one on its way the present one may be half replaced.
    let present = match authority::read(&folder, AUTHORITY, AUTHORITY_KEY, now) {
        Ok(present) => present,
        Err(_) if next.is_some() || args.new_authority => None,
        Err(error) => return Err(error.context("`outwork tunnel renew --new-authority` makes and registers another")),
    };
    let near_its_end = present
        .as_ref()
        .is_some_and(|present| left(present.authority().expires_at, now) < lifetime + before);
    if next.is_some() || args.new_authority || near_its_end || present.is_none() {
        let next = match next {
            Some(Kept::Whole(next)) => next,
            Some(Kept::Public(_)) | None => authority::make(&folder, domain, NEXT_AUTHORITY, NEXT_AUTHORITY_KEY, now)?,
        };
        return roll(args, &folder, tunnel_id, domain, &next, lifetime, now).await;
    }
    let Some(present) = present else {
        bail!("there is no {AUTHORITY}");
    };
    if let Some(expires) = authority::certificate(&folder, present.authority(), domain, now)?
        && left(expires, now) >= before
        && !args.force
    {
        return done(
            args,
            "kept",
            expires,
            None,
            &format!("the certificate is valid until {}", day(expires)),
        );
    }
    let Kept::Whole(present) = present else {
        bail!(
            "{} has to be renewed, and the authority's key is not here: sign one, or bring {AUTHORITY_KEY}",
            folder.path(CERTIFICATE).display()
        );
    };
    let (expires, _) = authority::sign(&folder, &present, domain, lifetime, now)?;
    let sentence = format!("renewed: valid until {}; a running gateway takes it over", day(expires));
    done(args, "renewed", expires, None, &sentence)
}

/// Puts the next authority in the place of the present one.
async fn roll(
    args: &RenewArgs,
    folder: &Folder,
    tunnel_id: &str,
    domain: &str,
    next: &MadeAuthority,
    lifetime: Duration,
    now: Time,
) -> Result<Exit> {
    let client = workload::client(&args.connection, &process_environment)
        .await
        .context("the authority has to be followed by another, which the server must know")?;
    // Two can be active. The one before the present one has had the time of an authority's life to go out of use.
    let superseded = folder
        .read(OLD_AUTHORITY)?
        .and_then(|pem| authority::fingerprint_of(&pem));
    let registered = authority::register(
        &client,
        tunnel_id,
        next.authority(),
        &next.certificate_pem,
        superseded.as_deref(),
    )
    .await?;
    let (expires, _) = authority::sign(folder, next, domain, lifetime, now)?;
    let present = folder.read(AUTHORITY)?;
    if let Some(present) = present.filter(|present| *present != next.certificate_pem) {
        folder.write(OLD_AUTHORITY, &present, Mode::Public)?;
    }
    folder.write_secret(AUTHORITY_KEY, &next.key_pem)?;
    folder.write(AUTHORITY, &next.certificate_pem, Mode::Public)?;
    folder.remove(NEXT_AUTHORITY)?;
    folder.remove(NEXT_AUTHORITY_KEY)?;
    let sentence = format!(
        "renewed with another authority, {}: valid until {}; a running gateway takes it over. The authority before stays \
         registered; once no gateway shows its certificates, archive it: outwork tunnels certificates ls {tunnel_id}",
        registered.id,
        day(expires)
    );
    done(args, "renewed", expires, Some(&registered.id), &sentence)
}

/// How long until `end`.
fn left(end: Time, now: Time) -> Duration {
    Duration::from_micros(u64::try_from(end.as_micros() - now.as_micros()).unwrap_or(0))
}

fn done(args: &RenewArgs, what: &str, expires: Time, authority: Option<&str>, sentence: &str) -> Result<Exit> {
    if args.output.json {
        print_json(&json!({
            "type": "tunnel_renewal",
            "certificate": what,
            "expires_at": expires,
            "new_authority": authority,
        }))?;
    } else {
        println!("{sentence}");
    }
    Ok(Exit::Done)
}
