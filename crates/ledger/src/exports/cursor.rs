//! How far an export is: the file `export-<name>` in the ledger's folder, which holds the receipt of the last line that
//! was delivered. Retention reads them all, so that nothing goes which an export still needs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::entry::Receipt;
use crate::folder::{MAX_HEAD, decode_receipt, encode_receipt, read_small, remove, replace, sync_dir};

const PREFIX: &str = "export-";
const MAX_NAME: usize = 64;

fn is_name(name: &str) -> bool {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(letters)
}

fn file(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = dir.join(format!("{PREFIX}{name}"));
    if is_name(name) {
        return Ok(path);
    }
    Err(Error::Stray {
        path,
        problem: "an export is named with small letters, digits and `-`, at most 64 of them".into(),
    })
}

/// Where an export is; `None` if there is no such export.
pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<Receipt>, Error> {
    let path = file(dir, name)?;
    let Some(bytes) = read_small(&path, MAX_HEAD)? else {
        return Ok(None);
    };
    match decode_receipt(&bytes) {
        Some(receipt) => Ok(Some(receipt)),
        None => Err(Error::Stray {
            path,
            problem: "it does not name a line in the form that is written".into(),
        }),
    }
}

/// Moves an export. A crash leaves the old place or the new one.
pub(crate) fn write(dir: &Path, name: &str, at: Receipt) -> Result<(), Error> {
    let path = file(dir, name)?;
    replace(&path, &encode_receipt(at)).map_err(Error::io("write", &path))
}

/// Forgets an export: it holds nothing any more.
pub(crate) fn forget(dir: &Path, name: &str) -> Result<(), Error> {
    remove(&file(dir, name)?)?;
    sync_dir(dir)
}

/// All exports of a folder, by name.
pub(crate) fn all(dir: &Path) -> Result<Vec<(String, Receipt)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if !is_name(name) {
            // What replaces a cursor ends in `.tmp`.
            continue;
        }
        if let Some(at) = read(dir, name)? {
            found.push((name.to_owned(), at));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
