"""Conversations from a file of your own, and the identity conversations that ship with the data."""

import reprlib
from pathlib import Path

from nanolab.tasks import toy
from nanolab.tasks.base import PART_TYPES, DataError, Task
from nanolab.tasks.hub import hub_file
from nanolab.tasks.jsonfile import json_lines
from nanolab.tasks.rows import resolve_data
from nanolab.tasks.schema import FETCH_AGAIN, text_fault

ROLES = ("system", "user", "assistant")
IDENTITY_FILE = "identity_conversations.jsonl"
# 996 conversations in which nanochat says who it is; the address is that of nanochat's speedrun.sh.
IDENTITY_URL = f"https://karpathy-public.s3.us-west-2.amazonaws.com/{IDENTITY_FILE}"


class CustomJSON(Task):
    """One conversation a line, as an array of messages or as {"messages": [...]}; blank lines are skipped.

    The file's order is kept. It is read once, when the task is made, so a bad line is found before any
    training: DataError with the file, the line number and what is wrong.

        >>> CustomJSON("mine.jsonl")[0]["where"]  # doctest: +SKIP
        'CustomJSON mine.jsonl line 1'
    """

    name = "CustomJSON"

    def __init__(self, filepath: str | Path, **view: int):
        super().__init__(**view)
        path = Path(filepath).expanduser()
        self.part = path.name
        self.lines = read_conversations(path)

    def num_examples(self) -> int:
        return len(self.lines)

    def get_example(self, index: int) -> dict:
        return {"messages": self.lines[index][1]}

    def where(self, index: int) -> str:
        return f"{self.name} {self.part} line {self.lines[index][0]}"


class Identity(CustomJSON):
    """Conversations about who the model is, from wherever `data` says.

    >>> Identity(data="toy")[0]["messages"][0]["role"]
    'user'
    """

    name = "Identity"

    def __init__(self, data: str | Path | None = None, **view: int):
        source = resolve_data(data)
        if source != "toy":
            super().__init__(identity_path(source), **view)
            return
        Task.__init__(self, **view)
        self.part = "toy"
        rows = toy.toy_rows("identity_conversations", None, "train")
        self.lines = [(number, row["messages"]) for number, row in enumerate(rows, start=1)]


def identity_path(source: str | Path) -> Path:
    """Return the path of the identity conversations in a directory, or of the downloaded file for "hub"."""
    return hub_file(IDENTITY_FILE, IDENTITY_URL) if source == "hub" else source / IDENTITY_FILE


def read_conversations(path: Path) -> list[tuple[int, list[dict]]]:
    """Return [(line number, messages), ...] of a file with one conversation a line."""
    rows = json_lines(path, "one conversation a line, as JSON")
    lines = [(number, messages_of(row, f"{path} line {number}")) for number, row in rows]
    if not lines:
        raise DataError(f"{path} holds no conversations; it should hold one a line, as JSON. {FETCH_AGAIN}")
    return lines


def messages_of(row: object, where: str) -> list[dict]:
    """Return the messages of one line's value; DataError, with `where` in front, if they are none."""
    messages = row.get("messages") if isinstance(row, dict) else row
    fault = message_fault(messages)
    if fault:
        raise DataError(f"{where}: not a list of messages ({fault}). Correct the line or take it away.")
    return messages


def message_fault(messages: object) -> str | None:
    """Return what keeps `messages` from being a conversation, or None.

    >>> message_fault([{"role": "human", "content": "Hi"}])
    "message 0 has the role 'human', not one of system, user, assistant"
    """
    if not isinstance(messages, list):
        return f"found {type(messages).__name__}"
    if not messages:
        return "it is empty"
    return next(filter(None, map(single_fault, range(len(messages)), messages)), None)


def single_fault(number: int, message: object) -> str | None:
    """Return what is wrong with message `number`, or None."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        return f"message {number} is not an object with role and content"
    if message["role"] not in ROLES:
        return f"message {number} has the role {reprlib.repr(message['role'])}, not one of {', '.join(ROLES)}"
    content = message["content"]
    if not isinstance(content, str) and not are_parts(content):
        return f"the content of message {number} is neither a text nor a list of parts"
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return next(filter(None, (text_fault(text, f"message {number}") for text in texts)), None)


def are_parts(content: object) -> bool:
    """Return whether `content` is a list of {"type": "text" | "python" | "python_output", "text": str}.

    >>> are_parts([{"type": "python", "text": "1+1"}]), are_parts([{"type": "image"}])
    (True, False)
    """
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") in PART_TYPES and isinstance(part.get("text"), str)
        for part in content
    )
