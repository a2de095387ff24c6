//! The master key: the one that it must be, and its rotation.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::upstream::Upstream;
use super::{LOOPBACK, outwork, said, stopped, vault, without_refresh};
use crate::world::process::BINARY;
use crate::world::{Server, ServerOptions};

/// A stopped server's folder with a credential that is valid only if its token is opened.
async fn kept_folder(options: ServerOptions) -> (tempfile::TempDir, std::path::PathBuf, Upstream, String) {
    let server = Server::start(options.settings(LOOPBACK)).await;
    let upstream = Upstream::start().await;
    let api = server.api();
    let vault = vault(&api).await;
    upstream.set(|known| known.access_token = "good".into());
    let path = format!("/v1/vaults/{vault}/credentials");
    let id = api.make(&path, without_refresh(&upstream, "good")).await;
    let (folder, data_dir) = stopped(server).await;
    (
        folder.unwrap(),
        data_dir,
        upstream,
        format!("{path}/{id}/mcp_oauth_validate"),
    )
}

fn options_in(data_dir: &Path) -> ServerOptions {
    ServerOptions {
        data_dir: Some(data_dir.to_owned()),
        ..ServerOptions::default()
    }
}

fn with_master_key(mut options: ServerOptions, key: &str) -> ServerOptions {
    options.variables.push(("OUTWORK_MASTER_KEY".into(), key.into()));
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_master_key_does_not_start() {
    let (_folder, data_dir, _upstream, path) = kept_folder(ServerOptions::default()).await;
    let key_file = data_dir.join("master.key");
    let key = std::fs::read_to_string(&key_file).unwrap();
    let refused = async |options: ServerOptions, named: &[&str]| {
        let (status, said) = options.refused(&data_dir).await;
        assert_eq!(status.code(), Some(1));
        for name in named {
            assert!(said.contains(name), "`{name}` is missing: {said}");
        }
        assert!(!said.contains(key.trim()), "{said}");
    };
    const ANOTHER: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let restore = ["mkey_", "master.key", "OUTWORK_MASTER_KEY"];
    refused(with_master_key(options_in(&data_dir), ANOTHER), &restore).await;
    refused(
        with_master_key(options_in(&data_dir), "short"),
        &["OUTWORK_MASTER_KEY", "openssl rand"],
    )
    .await;
    std::fs::write(&key_file, ANOTHER).unwrap();
    refused(options_in(&data_dir), &restore).await;
    std::fs::remove_file(&key_file).unwrap();
    refused(options_in(&data_dir), &restore).await;
    assert!(
        !key_file.exists(),
        "a key that opens nothing was put in place of the one that is missing"
    );
    std::fs::write(&key_file, &key).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(options_in(&data_dir), &["master.key", "chmod 600"]).await;

    // The right one, from wherever it comes.
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for options in [
        options_in(&data_dir),
        with_master_key(options_in(&data_dir), key.trim()),
    ] {
        let server = Server::start(options.settings(LOOPBACK)).await;
        assert_eq!(server.api().post(&path, json!({})).await.ok()["status"], "valid");
        stopped(server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_rotated_while_the_server_is_stopped() {
    let (_folder, data_dir, _upstream, path) = kept_folder(ServerOptions::default()).await;
    let folder = data_dir.to_str().unwrap();
    let key_file = data_dir.join("master.key");
    let before = std::fs::read_to_string(&key_file).unwrap();
    let rotation = ["vault", "rotate-master-key", "--data-dir", folder];

    let server = Server::start(options_in(&data_dir).settings(LOOPBACK)).await;
    let output = outwork(&rotation, "", &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("in use by another server"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&key_file).unwrap(), before);
    stopped(server).await;

    let output = outwork(&rotation, "", &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 data key"), "{}", said(&output));
    let after = std::fs::read_to_string(&key_file).unwrap();
    assert!(!said(&output).contains(after.trim()) && !said(&output).contains(before.trim()));
    assert!(after.lines().count() == 1 && after != before);
    let server = Server::start(options_in(&data_dir).settings(LOOPBACK)).await;
    assert_eq!(server.api().post(&path, json!({})).await.ok()["status"], "valid");
    stopped(server).await;

    // Killed at any moment, it can be done again, and nothing is lost.
    for delay in (0..60).step_by(6) {
        let mut child = Command::new(BINARY)
            .args(rotation)
            .env_remove("OUTWORK_MASTER_KEY")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // No condition: the moment is meant to be any.
        let _ = timeout(Duration::from_millis(delay), child.wait()).await;
        child.kill().await.unwrap();
        let mode = std::fs::metadata(&key_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let server = Server::start(options_in(&data_dir).settings(LOOPBACK)).await;
    assert_eq!(server.api().post(&path, json!({})).await.ok()["status"], "valid");
    stopped(server).await;
    let output = outwork(&rotation, "", &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&key_file).unwrap().lines().count(), 1);
    let output = outwork(&["vault", "rotate-master-key", "--data-dir", "/nowhere"], "", &[]).await;
    assert!(said(&output).contains("no data folder"), "{}", said(&output));
}
