//! Forms with one file (`multipart/form-data`, RFC 7578), read piece by piece: the file goes to its blob as it comes
//! and is never whole in memory.
//!
//! Refused: another content type, parts that the operation does not know or that come twice, a file above the limit,
//! headers and texts beyond some kilobytes, a body that stands still or takes too long. What was refused leaves no file.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header;
use multer::{Field, Multipart};
use outwork_store::WrittenBlob;
use outwork_wire::id::FileId;

use super::call::Call;
use super::query::shortened;
use crate::app::files;
use crate::error::{ApiError, ErrorKind};

/// How much may come before a part begins: its headers, and what else is not content.
const BETWEEN_PARTS: usize = 1 << 20;
/// The longest part that is a text, in bytes.
const TEXT: usize = 4096;
/// How much a form may have besides its file.
const BESIDES: u64 = 64 << 10;
/// The part with the file.
const FILE: &str = "file";
/// How long, and for how much, a refused body is read on, so that its sender comes to read the answer.
const DRAIN: (Duration, usize) = (Duration::from_secs(5), 64 << 20);

/// What a form held.
pub(super) struct Form {
    texts: Vec<(&'static str, String)>,
    /// The file.
    pub(super) file: ReceivedFile,
}

/// A file of a form. Its bytes are kept, but no file of the store has them yet.
pub(super) struct ReceivedFile {
    /// The id that the file will have.
    pub(super) id: FileId,
    /// Its name as it was sent.
    pub(super) filename: Option<String>,
    /// Its media type as it was sent, without parameters.
    pub(super) media_type: Option<String>,
    /// Its bytes.
    pub(super) blob: WrittenBlob,
}

impl Form {
    /// A text of the form.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.texts
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, text)| text.as_str())
    }
}

/// Reads the form of a call: a `file`, and texts of these names.
pub(super) async fn read(call: &Call, texts: &'static [&'static str]) -> Result<Form, ApiError> {
    let body = Incoming::new(call.take_body().into_data_stream());
    let limits = (call.app.limits().body_timeout, call.app.files.upload_timeout);
    let reading = receive(call, &body, texts, limits.0);
    let read = match tokio::time::timeout(limits.1, reading).await {
        Ok(read) => read,
        Err(_) => Err(too_slow(limits.1)),
    };
    if read.is_err() {
        body.drain().await;
    }
    read
}

async fn receive(
    call: &Call,
    body: &Incoming,
    texts: &'static [&'static str],
    patience: Duration,
) -> Result<Form, ApiError> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let boundary = content_type
        .and_then(|text| multer::parse_boundary(text).ok())
        .ok_or_else(|| ApiError::invalid("content-type: must be multipart/form-data with a boundary"))?;
    let announced = call.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let most = call.app.files.max_bytes;
    if announced
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|length| length > most.saturating_add(BESIDES))
    {
        return Err(too_large(most));
    }
    let _room = call.app.body_room(call.app.blobs.writer_bytes()).await?;
    let mut form = Multipart::new(body.stream(), boundary);
    let (mut found, mut file) = (Vec::new(), None);
    loop {
        body.between.store(0, Ordering::Relaxed);
        let next = tokio::time::timeout(patience, form.next_field()).await;
        let Some(part) = next.map_err(|_| too_slow(patience))?.map_err(fault)? else {
            break;
        };
        body.between.store(INSIDE, Ordering::Relaxed);
        let name = part.name().unwrap_or_default().to_owned();
        if name == FILE {
            if file.is_some() {
                return Err(ApiError::invalid(
                    "file: was sent more than once; one request takes one file",
                ));
            }
            file = Some(receive_file(call, part, most, patience).await?);
        } else if let Some(name) = texts.iter().find(|known| **known == name) {
            if found.iter().any(|(n, _)| n == name) {
                return Err(ApiError::invalid(format!("{name}: was sent more than once")));
            }
            found.push((*name, receive_text(name, part, patience).await?));
        } else {
            return Err(ApiError::invalid(format!(
                "{}: unknown part of the form; it takes {FILE}, {}",
                shortened(&name),
                texts.join(", ")
            )));
        }
    }
    let file = file.ok_or_else(|| ApiError::invalid("file: the form has no part of this name"))?;
    Ok(Form { texts: found, file })
}

async fn receive_file(
    call: &Call,
    mut part: Field<'_>,
    most: u64,
    patience: Duration,
) -> Result<ReceivedFile, ApiError> {
    let id = FileId::fresh();
    let filename = part.file_name().map(str::to_owned);
    let media_type = part.content_type().map(|mime| mime.essence_str().to_ascii_lowercase());
    let mut writer = files::begin(&call.app, &id).await?;
    let mut size = 0u64;
    while let Some(bytes) = chunk(&mut part, patience).await? {
        size += bytes.len() as u64;
        if size > most {
            return Err(too_large(most));
        }
        writer.push(&bytes).await?;
    }
    Ok(ReceivedFile {
        id,
        filename,
        media_type,
        blob: writer.finish().await?,
    })
}

async fn receive_text(name: &str, mut part: Field<'_>, patience: Duration) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(bytes) = chunk(&mut part, patience).await? {
        text.extend_from_slice(&bytes);
        if text.len() > TEXT {
            return Err(ApiError::invalid(format!("{name}: has more than {TEXT} bytes")));
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::invalid(format!("{name}: is not UTF-8")))
}

async fn chunk(part: &mut Field<'_>, patience: Duration) -> Result<Option<Bytes>, ApiError> {
    let next = tokio::time::timeout(patience, part.chunk()).await;
    next.map_err(|_| too_slow(patience))?.map_err(fault)
}

/// A body that is being read. What the parser leaves of it can be read to its end.
struct Incoming {
    data: Arc<Mutex<BodyDataStream>>,
    /// How much has come since the last part ended.
    between: Arc<AtomicUsize>,
}

/// In place of a count, while a part is read.
const INSIDE: usize = usize::MAX;

impl Incoming {
    fn new(data: BodyDataStream) -> Self {
        Self {
            data: Arc::new(Mutex::new(data)),
            between: Arc::default(),
        }
    }

    fn stream(&self) -> impl Stream<Item = Result<Bytes, BodyFault>> + Send + use<> {
        let (data, between) = (self.data.clone(), self.between.clone());
        stream::poll_fn(move |context| {
            let mut data = data.lock().unwrap_or_else(PoisonError::into_inner);
            data.poll_next_unpin(context).map(|next| {
                next.map(|read| {
                    let bytes = read.map_err(|_| BodyFault::Ended)?;
                    let before = between.load(Ordering::Relaxed);
                    if before != INSIDE {
                        if before > BETWEEN_PARTS {
                            return Err(BodyFault::NoPart);
                        }
                        between.store(before + bytes.len(), Ordering::Relaxed);
                    }
                    Ok(bytes)
                })
            })
        })
    }

    /// Reads on for a while and throws away what comes.
    async fn drain(&self) {
        let drained = async {
            let mut left = DRAIN.1;
            loop {
                let next = poll_fn(|context| {
                    let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
                    data.poll_next_unpin(context)
                });
                match next.await {
                    Some(Ok(bytes)) if bytes.len() <= left => left -= bytes.len(),
                    _ => return,
                }
            }
        };
        // Whoever does not send on may read the answer now.
        let _ = tokio::time::timeout(DRAIN.0, drained).await;
    }
}

/// Why a body gives no more.
#[derive(Debug, thiserror::Error)]
enum BodyFault {
    #[error("the request body ended before it was complete")]
    Ended,
    #[error("a part of the form does not begin")]
    NoPart,
}

fn fault(error: multer::Error) -> ApiError {
    ApiError::invalid(match error {
        multer::Error::StreamReadFailed(source) => source.to_string(),
        multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => {
            "the form ends before its last part does: the body was cut off, or the boundary in content-type is not the \
             one that the body has"
                .into()
        }
        other => format!("the form cannot be read: {other}"),
    })
}

fn too_large(most: u64) -> ApiError {
    ApiError::new(
        ErrorKind::TooLarge,
        format!("file: is larger than {most} bytes, which is the most that this server takes"),
    )
}

fn too_slow(within: Duration) -> ApiError {
    ApiError::new(
        ErrorKind::RequestTimeout,
        format!("the request body did not arrive within {} s", within.as_secs()),
    )
}
