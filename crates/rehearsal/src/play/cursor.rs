//! The way through steps and loops: which step answers next.

use crate::scenario::{Condition, Step};

/// Goes through steps and loops, one leaf at a time.
pub(super) struct Cursor<'a> {
    frames: Vec<Frame<'a>>,
}

struct Frame<'a> {
    steps: &'a [Step],
    next: usize,
    round: u32,
    rounds: u32,
    until: Option<&'a Condition>,
    repeats_leaf: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(steps: &'a [Step]) -> Self {
        Self {
            frames: vec![Frame {
                steps,
                next: 0,
                round: 0,
                rounds: 1,
                until: None,
                repeats_leaf: false,
            }],
        }
    }

    /// The next leaf and its round (from 1) in the innermost loop.
    pub(super) fn next(&mut self, holds: impl Fn(&Condition) -> bool) -> Option<(&'a Step, u32)> {
        loop {
            let frame = self.frames.last_mut()?;
            if frame.next == 0 && (frame.round == frame.rounds || frame.until.is_some_and(&holds)) {
                self.frames.pop();
                continue;
            }
            let Some(step) = frame.steps.get(frame.next) else {
                frame.next = 0;
                frame.round += 1;
                continue;
            };
            frame.next += 1;
            let round = frame.round + 1;
            match (step.steps.is_empty(), step.repeat) {
                (true, None) => return Some((step, round)),
                // A repeated leaf is a loop of one leaf.
                (true, Some(_)) if frame.repeats_leaf => return Some((step, round)),
                (repeats_leaf, rounds) => {
                    let steps = if repeats_leaf {
                        std::slice::from_ref(step)
                    } else {
                        &step.steps[..]
                    };
                    let until = step.until.as_ref();
                    let rounds = rounds.unwrap_or(1);
                    self.frames.push(Frame {
                        steps,
                        next: 0,
                        round: 0,
                        rounds,
                        until,
                        repeats_leaf,
                    });
                }
            }
        }
    }
}
