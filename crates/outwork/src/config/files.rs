//! `[files]` and `[blobs]`: how large files may be, who may have them, and where their bytes are kept.

use anyhow::{Context, Result, bail};
use outwork_plane::{BlobPlace, FileOptions};

use super::missing;
use super::settings::{BlobSettings, FileSettings};

/// What the two tables say together.
pub(super) fn resolve(files: &FileSettings, blobs: &BlobSettings) -> Result<FileOptions> {
    let options = FileOptions {
        blobs: blobs.url.clone().map(BlobPlace::Url),
        max_bytes: files.max_size.context(missing("files.max_size"))?.as_u64(),
        upload_timeout: files.upload_timeout.context(missing("files.upload_timeout"))?.0,
        downloadable_uploads: files
            .downloadable_uploads
            .context(missing("files.downloadable_uploads"))?,
        self_hosted_resources: files
            .self_hosted_resources
            .context(missing("files.self_hosted_resources"))?,
        session_outputs: files.session_outputs.context(missing("files.session_outputs"))?,
        session_output_bytes: files
            .session_output_bytes
            .context(missing("files.session_output_bytes"))?
            .as_u64(),
    };
    if options.max_bytes == 0 || options.upload_timeout.is_zero() {
        bail!("files.max_size and files.upload_timeout must be more than nothing");
    }
    if let Some(url) = &blobs.url
        && !url.starts_with("s3://")
        && !url.starts_with("file:///")
    {
        bail!("blobs.url: `{url}` is neither s3://bucket/prefix nor file:///folder, which are the places there are");
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::super::settings::{DEFAULTS, Settings, parse};
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_plane() {
        let settings: Settings = parse(DEFAULTS, "default.toml").unwrap();
        let (ours, theirs) = (
            resolve(&settings.files, &settings.blobs).unwrap(),
            FileOptions::default(),
        );
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn places_that_there_are_not_are_refused_by_name() {
        let files = parse::<Settings>(DEFAULTS, "default.toml").unwrap().files;
        for (url, good) in [
            ("s3://bucket/prefix", true),
            ("file:///srv/blobs", true),
            ("gs://bucket", false),
            ("file://blobs", false),
            ("/srv/blobs", false),
        ] {
            let blobs = BlobSettings {
                url: Some(url.to_owned()),
            };
            let resolved = resolve(&files, &blobs);
            assert_eq!(resolved.is_ok(), good, "{url}");
            if let Err(error) = resolved {
                assert!(error.to_string().contains(url), "{error}");
            }
        }
    }
}
