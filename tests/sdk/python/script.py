"""What the rehearsal model shall say: a message whose text is a script for `rehearsal/script`.

Each step is one answer of the model to what came before it; the words are those of a scenario file."""

from __future__ import annotations

import json
import uuid
from typing import Any

MODEL = "rehearsal/script"

Block = dict[str, Any]
Step = dict[str, Any]


def text(words: str) -> Block:
    return {"text": words}


def thinking(words: str) -> Block:
    return {"thinking": words}


def call(tool: str, **fields: Any) -> Block:
    return {"tool_use": {"name": tool, "input": fields}}


def say(*blocks: Block | str, **more: Any) -> Step:
    """One answer. `more` is any other field of a step: `faults`, `expect`, `pace`, `stop_reason`."""
    return {"say": [text(block) if isinstance(block, str) else block for block in blocks], **more}


def message(*steps: Step | str, superseded: bool = False) -> dict[str, Any]:
    """The `user.message` event that carries the steps. A message that is never answered reaches the model together
    with the next one; with `superseded` the next one's script is then played."""
    whole = [say(step) if isinstance(step, str) else step for step in steps]
    if superseded:
        return {"type": "user.message", "content": [{"type": "text", "text": json.dumps({"steps": whole})}]}
    # Fenced: when two messages reach the model together, the first one's script is played. Numbered: faults are counted
    # by the words of a conversation, and no two tests share one.
    words = f"{uuid.uuid4()}\n```json\n{json.dumps({'steps': whole})}\n```"
    return {"type": "user.message", "content": [{"type": "text", "text": words}]}


def status(code: int, times: int | None = None, **more: Any) -> dict[str, Any]:
    """A fault: the model's server answers with an error, `times` times or for ever."""
    fault: dict[str, Any] = {"status": code, **more}
    if times is not None:
        fault["times"] = times
    return fault
