//! One model request as a task: streams the answer, shows previews, brings back what came of it.

use outwork_engine::PreviewIds;
use outwork_model::ModelClient;
use outwork_wire::id::{EventId, SessionId};
use outwork_wire::model::{BlockKind, FailureKind, ModelAnswer, ModelDelta, ModelFailure, ModelRequest};
use tokio_util::sync::CancellationToken;

use super::hub::{Frame, Hub};

/// What came of a model request, and the ids that its previews carried.
pub(crate) struct Outcome {
    pub(crate) result: Result<ModelAnswer, ModelFailure>,
    pub(crate) previews: PreviewIds,
}

/// Carries a model request out.
pub(crate) async fn call(
    client: Option<&ModelClient>,
    request: &ModelRequest,
    cancel: CancellationToken,
    session: &SessionId,
    hub: &Hub,
) -> Outcome {
    let mut previews = Previews::new(session, hub);
    let result = match client {
        None => Err(ModelFailure {
            kind: FailureKind::NotConfigured,
            message: "No model provider is configured. Set OUTWORK_MODEL_BASE_URL and OUTWORK_MODEL_API_KEY (or [model] in outwork.toml), restart the server, and send another message.".into(),
            retry_after: None,
        }),
        Some(client) => {
            let answer = client
                .stream(request, cancel, |delta| previews.show(&delta))
                .await;
            match answer {
                Ok(answer) if !answer.partial => outwork_engine::validate_answer(&answer).map(|()| answer),
                other => other,
            }
        }
    };
    Outcome {
        result,
        previews: previews.ids,
    }
}

/// Turns the pieces of an answer into previews: one `event_start` per event, then its text.
struct Previews<'a> {
    session: &'a SessionId,
    hub: &'a Hub,
    ids: PreviewIds,
    /// The run of text blocks that is being written: where it began, its last block, its blocks with text so far.
    run: Option<TextRun>,
}

struct TextRun {
    first: usize,
    last: usize,
    blocks: usize,
    current_has_text: bool,
    /// Where the first block with text of this run is; its preview id is kept under that position.
    key: Option<usize>,
}

impl<'a> Previews<'a> {
    fn new(session: &'a SessionId, hub: &'a Hub) -> Self {
        Self {
            session,
            hub,
            ids: PreviewIds::new(),
            run: None,
        }
    }

    fn show(&mut self, delta: &ModelDelta) {
        match delta {
            ModelDelta::BlockStart {
                index,
                kind: BlockKind::Text,
            } => match &mut self.run {
                Some(run) if run.last + 1 == *index => {
                    run.last = *index;
                    run.current_has_text = false;
                }
                _ => {
                    self.run = Some(TextRun {
                        first: *index,
                        last: *index,
                        blocks: 0,
                        current_has_text: false,
                        key: None,
                    });
                }
            },
            ModelDelta::BlockStart { index, kind } => {
                self.run = None;
                if *kind == BlockKind::Thinking {
                    let id = EventId::fresh();
                    self.hub.publish(self.session, Frame::start(&id, "agent.thinking"));
                    self.ids.insert(*index, id);
                }
            }
            ModelDelta::Text { index, text } if !text.is_empty() => self.show_text(*index, text),
            ModelDelta::Text { .. } | ModelDelta::BlockStop { .. } => {}
        }
    }

    fn show_text(&mut self, index: usize, text: &str) {
        let Some(run) = self.run.as_mut().filter(|run| (run.first..=run.last).contains(&index)) else {
            return;
        };
        if !run.current_has_text {
            run.current_has_text = true;
            run.blocks += 1;
        }
        let key = match run.key {
            Some(key) => key,
            None => {
                run.key = Some(index);
                let id = EventId::fresh();
                self.hub.publish(self.session, Frame::start(&id, "agent.message"));
                self.ids.insert(index, id);
                index
            }
        };
        if let Some(id) = self.ids.get(&key) {
            self.hub.publish(self.session, Frame::delta(id, run.blocks - 1, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_text_is_one_event_and_empty_blocks_do_not_count() {
        let hub = Hub::default();
        let session = SessionId::fresh();
        let mut seen = hub.listen(&session, 64);
        let mut previews = Previews::new(&session, &hub);
        let text = |index, kind| ModelDelta::BlockStart { index, kind };
        let piece = |index, text: &str| ModelDelta::Text {
            index,
            text: text.into(),
        };
        for delta in [
            text(0, BlockKind::Thinking),
            text(1, BlockKind::Text),
            text(2, BlockKind::Text),
            piece(2, "a"),
            piece(2, "b"),
            text(3, BlockKind::Text),
            piece(3, "c"),
            text(4, BlockKind::ToolUse),
            text(5, BlockKind::Text),
            piece(5, "d"),
        ] {
            previews.show(&delta);
        }
        assert_eq!(previews.ids.keys().copied().collect::<Vec<_>>(), [0, 2, 5]);
        let frames: Vec<String> = std::iter::from_fn(|| seen.try_recv())
            .map(|f| String::from_utf8(f.bytes.to_vec()).unwrap())
            .collect();
        assert_eq!(frames.len(), 7);
        assert!(frames[2].contains(r#""index":0"#) && frames[4].contains(r#""index":1"#));
        assert!(frames[6].contains(r#""index":0"#));
    }
}
