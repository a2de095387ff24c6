//! The frames between a worker and the hand inside a sandbox.
//!
//! ```text
//! frame  = length:u32be  kind:u8  call:u64be  body[length - 9]
//! ```
//!
//! One socket carries them both ways. The decoder is a function over bytes without I/O. It refuses a length under 9
//! or over the direction's limit before any of the body is read, a kind that does not belong to the direction, and
//! bodies that are not the JSON of their kind. Neither side recovers from a bad frame: the sandbox is ended.

use serde::{Deserialize, Serialize};

use crate::output::ContentBlock;

/// Longest frame from a worker to the hand. `write` carries whole files.
pub const MAX_TO_HAND: usize = 16 << 20;
/// Longest frame from the hand to a worker. A 20 MiB PDF is 27 MiB in base64.
pub const MAX_FROM_HAND: usize = 32 << 20;
const HEADER: usize = 4;
const FIXED: usize = 9;

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is out of its bounds.
    #[error("frame length {length} is not between {FIXED} and {limit}")]
    Length {
        /// As read.
        length: usize,
        /// Of this direction.
        limit: usize,
    },
    /// The kind is unknown in this direction.
    #[error("frame kind {0} is not known here")]
    Kind(u8),
    /// The body is not what the kind says.
    #[error("frame of kind {kind}: {reason}")]
    Body {
        /// The kind.
        kind: u8,
        /// What the parser said.
        reason: String,
    },
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq)]
pub enum ToHand {
    /// Run a tool.
    Call(u64, CallBody),
    /// Stop a call that runs or waits; its answer says that it was interrupted.
    Cancel(u64),
    /// Ask what a call runs to end by itself (`SIGTERM`); a call that waits is answered as if cancelled.
    End(u64),
    /// Stop every process inside but the hand; answered when all of them stand still.
    Pause(u64),
    /// Let them go on; answered.
    Resume(u64),
}

/// Body of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallBody {
    /// Tool name.
    pub name: String,
    /// Tool input.
    pub input: serde_json::Value,
}

/// What the hand says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromHand {
    /// The sandbox stands and takes calls.
    Ready,
    /// A step of building the sandbox failed; nothing ran.
    Failed(FailedBody),
    /// The answer to a call.
    Answer(u64, AnswerBody),
}

/// Which step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedBody {
    /// The step's name.
    pub step: String,
    /// The reason.
    pub reason: String,
}

/// Body of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerBody {
    /// Blocks of content; not empty.
    pub content: Vec<ContentBlock>,
    /// Whether the tool failed.
    pub is_error: bool,
    /// Exit code of a command that ran to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

const CALL: u8 = 1;
const CANCEL: u8 = 2;
const END: u8 = 3;
const PAUSE: u8 = 4;
const RESUME: u8 = 5;
const READY: u8 = 65;
const FAILED: u8 = 66;
const ANSWER: u8 = 67;

impl ToHand {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Call(id, body) => frame(CALL, *id, &json(body)),
            Self::Cancel(id) => frame(CANCEL, *id, &[]),
            Self::End(id) => frame(END, *id, &[]),
            Self::Pause(id) => frame(PAUSE, *id, &[]),
            Self::Resume(id) => frame(RESUME, *id, &[]),
        }
    }

    /// Takes one frame from the front of `bytes`: the frame and how many bytes it took, or `None` when more bytes
    /// are needed.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(raw) = split(bytes, MAX_TO_HAND)? else {
            return Ok(None);
        };
        let parsed = match raw.kind {
            CALL => Self::Call(raw.id, parse(&raw)?),
            CANCEL | END | PAUSE | RESUME => {
                empty(&raw)?;
                match raw.kind {
                    CANCEL => Self::Cancel(raw.id),
                    END => Self::End(raw.id),
                    PAUSE => Self::Pause(raw.id),
                    _ => Self::Resume(raw.id),
                }
            }
            kind => return Err(FrameError::Kind(kind)),
        };
        Ok(Some((parsed, raw.taken)))
    }
}

impl FromHand {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => frame(READY, 0, &[]),
            Self::Failed(body) => frame(FAILED, 0, &json(body)),
            Self::Answer(id, body) => frame(ANSWER, *id, &json(body)),
        }
    }

    /// As [`ToHand::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(raw) = split(bytes, MAX_FROM_HAND)? else {
            return Ok(None);
        };
        let parsed = match raw.kind {
            READY => {
                empty(&raw)?;
                zero(&raw)?;
                Self::Ready
            }
            FAILED => {
                zero(&raw)?;
                Self::Failed(parse(&raw)?)
            }
            ANSWER => {
                let body: AnswerBody = parse(&raw)?;
                if body.content.is_empty() {
                    return Err(body_error(ANSWER, "an answer has at least one block"));
                }
                Self::Answer(raw.id, body)
            }
            kind => return Err(FrameError::Kind(kind)),
        };
        Ok(Some((parsed, raw.taken)))
    }
}

struct Raw<'a> {
    kind: u8,
    id: u64,
    body: &'a [u8],
    taken: usize,
}

fn split(bytes: &[u8], limit: usize) -> Result<Option<Raw<'_>>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(FIXED..=limit).contains(&length) {
        return Err(FrameError::Length { length, limit });
    }
    let Some(frame) = rest.get(..length) else {
        return Ok(None);
    };
    let Some((fixed, body)) = frame.split_first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let [kind, id @ ..] = *fixed;
    Ok(Some(Raw {
        kind,
        id: u64::from_be_bytes(id),
        body,
        taken: HEADER + length,
    }))
}

fn frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + FIXED + body.len());
    bytes.extend_from_slice(&u32::try_from(FIXED + body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn json<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("frame bodies are plain structs with string keys, which always serialize")
}

fn parse<'a, T: Deserialize<'a>>(raw: &Raw<'a>) -> Result<T, FrameError> {
    serde_json::from_slice(raw.body).map_err(|error| body_error(raw.kind, error))
}

fn empty(raw: &Raw<'_>) -> Result<(), FrameError> {
    if raw.body.is_empty() {
        Ok(())
    } else {
        Err(body_error(raw.kind, "this kind has no body"))
    }
}

fn zero(raw: &Raw<'_>) -> Result<(), FrameError> {
    if raw.id == 0 {
        Ok(())
    } else {
        Err(body_error(raw.kind, "this kind belongs to no call"))
    }
}

fn body_error(kind: u8, reason: impl ToString) -> FrameError {
    FrameError::Body {
        kind,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer() -> impl Strategy<Value = FromHand> {
        (
            any::<u64>(),
            proptest::collection::vec(".{1,40}", 1..4),
            any::<bool>(),
            any::<Option<i32>>(),
        )
            .prop_map(|(id, texts, is_error, exit_code)| {
                let content = texts.into_iter().map(|text| ContentBlock::Text { text }).collect();
                FromHand::Answer(
                    id,
                    AnswerBody {
                        content,
                        is_error,
                        exit_code,
                    },
                )
            })
    }

    fn call() -> impl Strategy<Value = ToHand> {
        (any::<u64>(), "[a-z]{1,8}", ".{0,200}").prop_map(|(id, name, command)| {
            ToHand::Call(
                id,
                CallBody {
                    name,
                    input: serde_json::json!({ "command": command }),
                },
            )
        })
    }

    proptest! {
        #[test]
        fn a_frame_reads_back_as_it_was_written(frame in call(), tail in proptest::collection::vec(any::<u8>(), 0..32)) {
            let mut bytes = frame.encode();
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(ToHand::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend_from_slice(&tail);
            prop_assert_eq!(ToHand::decode(&bytes), Ok(Some((frame, length))));
        }

        #[test]
        fn an_answer_reads_back_as_it_was_written(frame in answer()) {
            let bytes = frame.encode();
            prop_assert_eq!(FromHand::decode(&bytes), Ok(Some((frame, bytes.len()))));
        }

        #[test]
        fn any_bytes_are_a_frame_a_refusal_or_too_few(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for taken in [
                ToHand::decode(&bytes).ok().flatten().map(|(_, taken)| taken),
                FromHand::decode(&bytes).ok().flatten().map(|(_, taken)| taken),
            ].into_iter().flatten() {
                prop_assert!(taken >= HEADER + FIXED && taken <= bytes.len());
            }
        }

        #[test]
        fn each_direction_refuses_the_other(frame in call(), other in answer()) {
            prop_assert!(FromHand::decode(&frame.encode()).is_err());
            prop_assert!(ToHand::decode(&other.encode()).is_err());
        }
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_the_body_is_there() {
        for length in [0_u32, 8, MAX_TO_HAND as u32 + 1, u32::MAX] {
            assert!(
                matches!(ToHand::decode(&length.to_be_bytes()), Err(FrameError::Length { .. })),
                "{length}"
            );
        }
        assert_eq!(ToHand::decode(&9_u32.to_be_bytes()), Ok(None));
    }

    #[test]
    fn bodies_are_strict() {
        let unknown = frame(CALL, 1, br#"{"name":"bash","input":{},"root":true}"#);
        assert!(matches!(ToHand::decode(&unknown), Err(FrameError::Body { .. })));
        assert!(matches!(
            ToHand::decode(&frame(CANCEL, 1, b"x")),
            Err(FrameError::Body { .. })
        ));
        let nothing = frame(ANSWER, 1, br#"{"content":[],"is_error":false}"#);
        assert!(matches!(FromHand::decode(&nothing), Err(FrameError::Body { .. })));
        assert!(matches!(
            FromHand::decode(&frame(READY, 7, b"")),
            Err(FrameError::Body { .. })
        ));
    }
}
