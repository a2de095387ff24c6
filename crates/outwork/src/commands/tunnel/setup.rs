//! `outwork tunnel setup`: a tunnel, an authority, a certificate, a token and a configuration, in one folder.
//!
//! Each step looks for what is there before it makes anything, so that a setup that was interrupted is completed by
//! doing it again, and one that was complete changes nothing but a token that was rotated.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Query};
use outwork_gateway::config::Config;
use outwork_tunnel::certificate::{Authority, SERVER_LIFETIME, check_server, parse_fingerprint};
use outwork_wire::Time;
use outwork_wire::id::fresh_secret;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::authority::{self, Kept};
use super::configuration::{self, Edge, Identity, Wanted};
use super::folder::{AUTHORITY, CERTIFICATE, Change, Folder, KEY, Mode, State, TOKEN};
use super::report::Set;
use super::{CONFIG, folder_of, read};
use crate::cli::tunnel::{EdgeArgs, SetupArgs};
use crate::commands::text;
use crate::config::{process_environment, secret_file};
use crate::workload;

/// A tunnel, and how it came about.
struct Tunnel {
    id: String,
    domain: String,
    story: &'static str,
}

pub(crate) async fn setup(args: &SetupArgs) -> Result<Set> {
    let routes: Vec<_> = args
        .routes
        .iter()
        .map(|route| configuration::route(route))
        .collect::<Result<_>>()?;
    let health = configuration::health(&args.health)?;
    let folder = Folder::open(&folder_of(args.folder.as_deref()))?;
    let mut state = folder.state()?;
    if let (Some(wanted), Some(present)) = (&args.tunnel, &state.tunnel_id)
        && wanted != present
    {
        bail!(
            "{} is the folder of {present}: give another --folder for {wanted}",
            folder.at().display()
        );
    }
    let server = match args.offline {
        true => None,
        false => Some(workload::client(&args.connection, &process_environment).await?),
    };
    // Before anything is made: without an edge a tunnel is of no use.
    let edge = edge(&args.edge, server.as_ref()).await?;
    let issuer = match &server {
        Some(client) => issuer(client).await?,
        None => None,
    };
    let tunnel = match (&server, &args.tunnel, &args.domain) {
        (Some(client), ..) => find_or_make(client, args, &folder, &mut state).await?,
        (None, Some(id), Some(domain)) => given(id, domain, &state)?,
        (None, ..) => bail!("--offline needs --tunnel and --domain"),
    };
    state.tunnel_id = Some(tunnel.id.clone());
    state.domain = Some(tunnel.domain.clone());
    state.server = server
        .as_ref()
        .map(|client| client.base_url().to_owned())
        .or(state.server);
    folder.keep(&state)?;
    refuse_foreign_config(&folder, &tunnel.id)?;

    let token = token(args, server.as_ref(), &tunnel.id).await?;
    let token = folder.write_secret(TOKEN, &token)?;
    let now = Time::now();
    let (authority, certificate, files) = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => own(args, server.as_ref(), &tunnel, certificate, key, now).await?,
        _ => made(&folder, server.as_ref(), &tunnel, now).await?,
    };

    let mut notes = Vec::new();
    let (config, routes) = match folder.read(CONFIG)? {
        Some(_) => {
            notes.extend(differences(&folder, &edge, args));
            let routes = Config::load(&folder.path(CONFIG)).map_or(0, |config| config.routes.len());
            (Change::Kept, routes)
        }
        None => {
            let identity = issuer.as_ref().filter(|_| args.identity);
            if args.identity && identity.is_none() {
                bail!("--identity: the server does not say who signs the identities of agents");
            }
            let text = configuration::render(&Wanted {
                tunnel_id: &tunnel.id,
                domain: &tunnel.domain,
                token_file: Path::new(TOKEN),
                certificate: &files.0,
                key: &files.1,
                edge: &edge,
                routes: &routes,
                allow: &args.allow,
                health,
                identity,
                issuer: issuer.as_ref(),
            })?;
            (folder.write(CONFIG, &text, Mode::Public)?, routes.len())
        }
    };
    Ok(Set {
        folder: folder.at().to_owned(),
        tunnel_id: tunnel.id,
        domain: tunnel.domain,
        tunnel: tunnel.story,
        token,
        authority,
        certificate,
        edge,
        config,
        routes,
        notes,
        offline: args.offline,
    })
}

/// How to reach the edge: what the flags say, and what the server says where they do not.
async fn edge(flags: &EdgeArgs, client: Option<&Client>) -> Result<Edge> {
    let fingerprint = |text: &str| {
        let plain = text.strip_prefix("sha256:").unwrap_or(text);
        let bytes = parse_fingerprint(plain)
            .with_context(|| format!("`{text}` is not the SHA-256 of a certificate: 64 hexadecimal digits"))?;
        Ok::<_, anyhow::Error>(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let ca_file = flags.edge_ca_file.as_ref().map(|path| absolute(path)).transpose()?;
    let mut edge = Edge {
        addresses: flags.addresses.clone(),
        fingerprint: flags.edge_fingerprint.as_deref().map(fingerprint).transpose()?,
        ca_file,
        server_name: flags.edge_name.clone(),
    };
    let trusted = edge.fingerprint.is_some() || edge.ca_file.is_some();
    let Some(client) = client.filter(|_| edge.addresses.is_empty() || !trusted) else {
        return Ok(edge);
    };
    let said = match client.tunnels().edge().await {
        Ok(said) => said,
        // An edge that was named may have a certificate of a public authority.
        Err(_) if !edge.addresses.is_empty() => return Ok(edge),
        Err(error) => {
            return Err(anyhow::Error::new(error).context(
                "the server does not say where gateways connect; start it with --tunnel-listen, or give --edge and \
                 --edge-fingerprint",
            ));
        }
    };
    if edge.addresses.is_empty() {
        edge.addresses.push(edge_address(&said, client.base_url())?);
    }
    if !trusted {
        let said = said["fingerprint"].as_str();
        edge.fingerprint = said.map(fingerprint).transpose()?;
    }
    Ok(edge)
}

/// Where gateways connect: the address for others, or where the edge listens, with the server's own name for an
/// address that stands for all of them.
fn edge_address(said: &Value, base_url: &str) -> Result<String> {
    if let Some(address) = said["address"].as_str() {
        return Ok(address.to_owned());
    }
    let listen: std::net::SocketAddr = said["listen"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .context("the server does not say where gateways connect; give --edge")?;
    if !listen.ip().is_unspecified() {
        return Ok(listen.to_string());
    }
    let url = reqwest::Url::parse(base_url).context("the server's address")?;
    let host = url.host_str().context("the server's address has no host")?;
    Ok(format!("{host}:{}", listen.port()))
}

/// Who signs the identities of agents, as the server publishes it.
async fn issuer(client: &Client) -> Result<Option<Identity>> {
    let said: Result<Value, _> = client.get("/.well-known/openid-configuration", &Query::new()).await;
    // Other servers do not publish it.
    let Ok(said) = said else { return Ok(None) };
    Ok(match (said["issuer"].as_str(), said["jwks_uri"].as_str()) {
        (Some(issuer), Some(jwks_url)) => Some(Identity {
            issuer: issuer.to_owned(),
            jwks_url: jwks_url.to_owned(),
        }),
        _ => None,
    })
}

/// The tunnel that the folder is of, or that was named; a new one otherwise.
async fn find_or_make(client: &Client, args: &SetupArgs, folder: &Folder, state: &mut State) -> Result<Tunnel> {
    let shown = |tunnel: &Value, story| {
        if !tunnel["archived_at"].is_null() {
            bail!(
                "{} is archived and cannot be used any more: make another, in another folder",
                text(tunnel, "/id")
            );
        }
        Ok(Tunnel {
            id: text(tunnel, "/id"),
            domain: text(tunnel, "/domain"),
            story,
        })
    };
    if let Some(id) = state.tunnel_id.as_ref().or(args.tunnel.as_ref()) {
        let tunnel = client.tunnels().get(id).await?;
        let found = shown(&tunnel, if state.tunnel_id.is_some() { "kept" } else { "joined" })?;
        let name = tunnel["display_name"].as_str();
        if let Some(wanted) = args.name.as_deref().filter(|wanted| Some(*wanted) != name) {
            bail!(
                "{} is the folder of {id}, whose name is {}: give another --folder for {wanted}",
                folder.at().display(),
                name.unwrap_or("not set")
            );
        }
        return Ok(found);
    }
    // The name is kept before a tunnel is made with it, so that it is found again after a crash.
    if args.name.is_some() || state.name.is_none() {
        state.name = Some(match &args.name {
            Some(name) => name.clone(),
            None => format!("{}-{}", host_name(), fresh_secret(6, &mut rand::rng()).to_lowercase()),
        });
        folder.keep(state)?;
    }
    let name = state.name.as_deref().unwrap_or_default();
    let all: Vec<Value> = client.tunnels().list(Query::new()).collect(usize::MAX).await?;
    let same: Vec<&Value> = all
        .iter()
        .filter(|tunnel| tunnel["display_name"].as_str() == Some(name))
        .collect();
    match same[..] {
        [] => shown(
            &client.tunnels().create(&json!({ "display_name": name })).await?,
            "made",
        ),
        [one] => shown(one, "joined"),
        _ => {
            let ids: Vec<String> = same.iter().map(|tunnel| text(tunnel, "/id")).collect();
            bail!(
                "there are several tunnels of the name {name}: say with --tunnel which: {}",
                ids.join(", ")
            )
        }
    }
}

/// The name of this machine, as a part of a name.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = name.split('.').next().unwrap_or_default();
    if first.is_empty() {
        "gateway".to_owned()
    } else {
        first.to_owned()
    }
}

/// The tunnel that the flags describe.
fn given(id: &str, domain: &str, state: &State) -> Result<Tunnel> {
    if let Some(present) = state.domain.as_deref().filter(|present| *present != domain) {
        bail!("the domain of {id} is {present}, not {domain}: a tunnel keeps its domain for good");
    }
    Ok(Tunnel {
        id: id.to_owned(),
        domain: domain.to_owned(),
        story: "given",
    })
}

/// A configuration of another tunnel means that the folder is another's.
fn refuse_foreign_config(folder: &Folder, tunnel_id: &str) -> Result<()> {
    let path = folder.path(CONFIG);
    if !path.exists() {
        return Ok(());
    }
    // What cannot be read yet is for `check` to say: it may be without routes.
    let Ok(config) = Config::load(&path) else { return Ok(()) };
    match config.tunnel_id {
        Some(other) if other != tunnel_id => bail!(
            "{} is of {other}, not of {tunnel_id}: give another --folder",
            path.display()
        ),
        _ => Ok(()),
    }
}

async fn token(args: &SetupArgs, client: Option<&Client>, tunnel_id: &str) -> Result<SecretString> {
    let token = match (&args.token_file, client) {
        (Some(path), _) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("could not read the token from standard input")?;
            SecretString::from(text.trim())
        }
        (Some(path), _) => secret_file(path)?,
        (None, Some(client)) => {
            let shown = client.tunnels().reveal_token(tunnel_id).await?;
            let token = shown["tunnel_token"].as_str();
            SecretString::from(token.context("the server showed no token")?)
        }
        (None, None) => bail!("--offline needs --token-file"),
    };
    if token.expose_secret().is_empty() {
        bail!("the token is empty");
    }
    Ok(SecretString::from(format!("{}\n", token.expose_secret())))
}

/// What was done for certificates: the authority and its story, the certificate, and its files for the configuration.
type Certificates = (Option<(String, &'static str)>, (Time, Change), (PathBuf, PathBuf));

/// An authority and a certificate of the folder's own.
async fn made(folder: &Folder, client: Option<&Client>, tunnel: &Tunnel, now: Time) -> Result<Certificates> {
    let (kept, change) = authority::keep_or_make(folder, &tunnel.domain, now)?;
    let authority = kept.authority().clone();
    let story = match client {
        Some(client) => {
            let pem = read(&folder.path(AUTHORITY))?;
            let registered = authority::register(client, &tunnel.id, &authority, &pem, None).await?;
            let story = if registered.new { "registered" } else { "is registered" };
            Some((registered.id, story))
        }
        None => Some((
            folder.path(AUTHORITY).display().to_string(),
            match change {
                Change::Kept => "kept",
                Change::Made | Change::Replaced => "made",
            },
        )),
    };
    let certificate = match (authority::certificate(folder, &authority, &tunnel.domain, now)?, &kept) {
        (Some(expires), _) => (expires, Change::Kept),
        (None, Kept::Whole(made)) => authority::sign(folder, made, &tunnel.domain, SERVER_LIFETIME, now)?,
        (None, Kept::Public(_)) => bail!(
            "{} is not a certificate for {} and *.{0} by the authority in {AUTHORITY}, whose key is not here: sign one, \
             or bring ca.key",
            folder.path(CERTIFICATE).display(),
            tunnel.domain
        ),
    };
    Ok((story, certificate, (CERTIFICATE.into(), KEY.into())))
}

/// A certificate that its owner brings. It stays where it is, so that whatever renews it reaches the gateway.
async fn own(
    args: &SetupArgs,
    client: Option<&Client>,
    tunnel: &Tunnel,
    certificate: &Path,
    key: &Path,
    now: Time,
) -> Result<Certificates> {
    let pem = read(certificate)?;
    let key_pem = secret_file(key)?;
    let expires = outwork_tunnel::certificate::expires_at(&pem)
        .with_context(|| format!("{} holds no certificate in PEM", certificate.display()))?;
    let mut story = None;
    if let Some(path) = &args.authority {
        let authority_pem = read(path)?;
        let authority = Authority::parse(&authority_pem, now).with_context(|| path.display().to_string())?;
        check_server(&pem, key_pem.expose_secret(), &authority, &tunnel.domain, now)
            .with_context(|| format!("{} under {}", certificate.display(), path.display()))?;
        if let Some(client) = client {
            let registered = authority::register(client, &tunnel.id, &authority, &authority_pem, None).await?;
            story = Some((
                registered.id,
                if registered.new { "registered" } else { "is registered" },
            ));
        }
    }
    Ok((story, (expires, Change::Kept), (absolute(certificate)?, absolute(key)?)))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("could not find {}", path.display()))
}

/// In what an existing configuration differs from what a new one would say.
fn differences(folder: &Folder, edge: &Edge, args: &SetupArgs) -> Vec<String> {
    let mut notes = Vec::new();
    let path = folder.path(CONFIG);
    if !args.routes.is_empty() || !args.allow.is_empty() || args.identity {
        notes.push(format!(
            "{} is yours and was not changed: write routes, ranges and identity into it by hand",
            path.display()
        ));
    }
    if let Ok(Config {
        edge: Some(present), ..
    }) = Config::load(&path)
    {
        if present.addresses != edge.addresses {
            notes.push(format!(
                "{}: edge.addresses is {}, and gateways are to connect to {}",
                path.display(),
                present.addresses.join(", "),
                edge.addresses.join(", ")
            ));
        }
        if edge.fingerprint.is_some() && present.ca_file.is_none() && present.fingerprint != edge.fingerprint {
            notes.push(format!(
                "{}: edge.fingerprint is not that of the edge's present certificate, {}; check who changed it before you \
                 change it here",
                path.display(),
                edge.fingerprint.as_deref().unwrap_or_default()
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_gateways_connect_follows_from_what_the_server_says() {
        let said = |value: Value| edge_address(&value, "https://plane.example:8400");
        assert_eq!(
            said(json!({ "listen": "0.0.0.0:7844", "address": "edge.example:443" })).unwrap(),
            "edge.example:443"
        );
        assert_eq!(
            said(json!({ "listen": "127.0.0.1:7844", "address": null })).unwrap(),
            "127.0.0.1:7844"
        );
        assert_eq!(said(json!({ "listen": "0.0.0.0:7844" })).unwrap(), "plane.example:7844");
        assert_eq!(said(json!({ "listen": "[::]:7844" })).unwrap(), "plane.example:7844");
        assert!(said(json!({})).is_err());
    }
}
