//! `outwork files`
//!
//! A download appears under its name when it is complete; a file that is there is replaced only if that was asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Query, Upload};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{print_done, print_list, print_one, text, when};
use crate::cli::files::FilesCommand;
use crate::config::process_environment;
use crate::connection;
use crate::exit::Exit;
use crate::terminal::Look;

pub(crate) async fn files(command: FilesCommand, look: Look) -> Result<Exit> {
    match command {
        FilesCommand::Upload {
            file,
            name,
            media_type,
            expires_in,
            common,
        } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let mut upload = if file == Path::new("-") {
                Upload::reader("unnamed", None, tokio::io::stdin())
            } else {
                Upload::file(&file).await?
            };
            if let Some(name) = name {
                upload = upload.named(name);
            }
            if let Some(media_type) = media_type {
                upload = upload.of_type(media_type);
            }
            let seconds = expires_in.map(|span| span.0.as_secs());
            let made = client.files().upload(upload, seconds).await?;
            print_one(&made, common.output.json, &look)
        }
        FilesCommand::List { session, limit, common } => {
            let client = connection::client(&common.connection, &process_environment)?;
            let query = Query::new()
                .with("limit", limit.clamp(1, 1000))
                .maybe("scope_id", session);
            let items = client.files().list(query).collect(limit).await?;
            print_list(
                &items,
                common.output.json,
                &look,
                &["ID", "NAME", "TYPE", "BYTES", "SESSION", "CREATED"],
                |item| {
                    vec![
                        text(item, "/id"),
                        text(item, "/filename"),
                        text(item, "/mime_type"),
                        text(item, "/size_bytes"),
                        text(item, "/scope/id"),
                        when(item, "/created_at"),
                    ]
                },
            )
        }
        FilesCommand::Get(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            print_one(&client.files().get(&one.id).await?, one.common.output.json, &look)
        }
        FilesCommand::Download { one, output, force } => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            download(&client, &one.id, output, force, one.common.output.json).await
        }
        FilesCommand::Delete(one) => {
            let client = connection::client(&one.common.connection, &process_environment)?;
            let answer = client.files().delete(&one.id).await?;
            print_done(&answer, one.common.output.json, &format!("deleted {}", one.id))
        }
    }
}

async fn download(client: &Client, id: &str, output: Option<PathBuf>, force: bool, json: bool) -> Result<Exit> {
    if output.as_deref() == Some(Path::new("-")) {
        client
            .files()
            .download(id)
            .await?
            .write_to(&mut tokio::io::stdout())
            .await?;
        return Ok(Exit::Done);
    }
    let to = match output {
        Some(path) => path,
        None => plain_name(&client.files().get(id).await?)?,
    };
    if !force && to.exists() {
        bail!(
            "{} is there already: give --force to replace it, or --output",
            to.display()
        );
    }
    let download = client.files().download(id).await?;
    let mut unfinished: OsString = to.clone().into();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let bytes = write(download, &unfinished).await;
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            // The error is what is told; a piece that cannot be removed is a small thing beside it.
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
    };
    std::fs::rename(&unfinished, &to).with_context(|| format!("could not write {}", to.display()))?;
    let answer = json!({ "id": id, "path": to, "size_bytes": bytes });
    print_done(&answer, json, &format!("{}: {bytes} bytes", to.display()))
}

async fn write(download: outwork_client::Download, to: &Path) -> Result<u64> {
    let fault = || format!("could not write {}", to.display());
    let mut file = tokio::fs::File::create(to).await.with_context(fault)?;
    let bytes = download.write_to(&mut file).await?;
    file.shutdown().await.with_context(fault)?;
    file.sync_all().await.with_context(fault)?;
    Ok(bytes)
}

/// The file's name, if it is one of a file in this folder: the server is not asked where to write.
fn plain_name(file: &Value) -> Result<PathBuf> {
    let name = text(file, "/filename");
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    if !plain {
        bail!("the file's name is not one to write to: give --output");
    }
    Ok(PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_not_written_to() {
        assert_eq!(
            plain_name(&json!({ "filename": "a b.csv" })).unwrap(),
            PathBuf::from("a b.csv")
        );
        for bad in ["", ".bashrc", "..", "a/b", "/etc/passwd", "a\\b", "a\nb"] {
            assert!(plain_name(&json!({ "filename": bad })).is_err(), "{bad}");
        }
    }
}
