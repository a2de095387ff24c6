//! Bytes of files on their way: to the server from wherever they come, from it piece by piece. Neither is whole in memory.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::multipart::Part;
use reqwest::{Body, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client::root_cause;
use crate::{ClientError, Result};

/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// A file to be sent.
pub struct Upload {
    filename: String,
    media_type: Option<String>,
    length: Option<u64>,
    body: Body,
}

impl Upload {
    /// Bytes in memory.
    pub fn bytes(filename: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            filename: filename.into(),
            media_type: None,
            length: Some(bytes.len() as u64),
            body: Body::from(bytes),
        }
    }

    /// What a reader gives: exactly `length` bytes if that is known.
    pub fn reader(
        filename: impl Into<String>,
        length: Option<u64>,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Self {
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let mut piece = vec![0; PIECE];
            let read = reader.read(&mut piece).await?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), reader)))
        });
        Self {
            filename: filename.into(),
            media_type: None,
            length,
            body: Body::wrap_stream(pieces),
        }
    }

    /// A file of this machine, under its own name.
    pub async fn file(path: &Path) -> Result<Self> {
        let fault = |error: std::io::Error| ClientError::Invalid(format!("{}: {error}", path.display()));
        let file = tokio::fs::File::open(path).await.map_err(fault)?;
        let metadata = file.metadata().await.map_err(fault)?;
        if !metadata.is_file() {
            return Err(ClientError::Invalid(format!("{} is not a file", path.display())));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("unnamed");
        // A file that grows while it is sent is sent as far as it was; one that shrinks ends the call.
        let length = metadata.len();
        Ok(Self::reader(name, Some(length), file.take(length)))
    }

    /// Under another name.
    #[must_use]
    pub fn named(mut self, filename: impl Into<String>) -> Self {
        self.filename = filename.into();
        self
    }

    /// Of this media type. Without one, the server goes by the name.
    #[must_use]
    pub fn of_type(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = Some(media_type.into());
        self
    }

    pub(crate) fn part(self) -> Result<Part> {
        let part = match self.length {
            Some(length) => Part::stream_with_length(self.body, length),
            None => Part::stream(self.body),
        };
        let part = part.file_name(self.filename);
        match &self.media_type {
            Some(text) => part
                .mime_str(text)
                .map_err(|_| ClientError::Invalid(format!("`{text}` is not a media type"))),
            None => Ok(part),
        }
    }
}

/// The bytes of an answer, piece by piece.
pub struct Download {
    response: Response,
    call: String,
    silence: Duration,
}

impl Download {
    pub(crate) fn new(response: Response, call: String, silence: Duration) -> Self {
        Self {
            response,
            call,
            silence,
        }
    }

    /// How many bytes there are, if the server says so.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// A header of the answer, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next piece; none at the end. An answer that breaks off is an error and not an end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        let next = tokio::time::timeout(self.silence, self.response.chunk()).await;
        let next = next.map_err(|_| ClientError::Timeout {
            call: self.call.clone(),
            after: self.silence,
        })?;
        next.map_err(|error| ClientError::Transport {
            call: self.call.clone(),
            cause: root_cause(&error),
        })
    }

    /// Writes all of it; how many bytes it were.
    pub async fn write_to(mut self, to: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
        let mut written = 0;
        while let Some(piece) = self.piece().await? {
            let wrote = to.write_all(&piece).await;
            wrote
                .map_err(|error| ClientError::Invalid(format!("what was downloaded could not be written: {error}")))?;
            written += piece.len() as u64;
        }
        to.flush()
            .await
            .map_err(|error| ClientError::Invalid(format!("what was downloaded could not be written: {error}")))?;
        Ok(written)
    }
}
