"""Step 3: a conversation becomes ids and mask.

    <|bos|><|user_start|>Hi<|user_end|><|assistant_start|>Hello!<|assistant_end|>
    0      0             0 0           0                  1     1

The mask is 1 where the model is trained to say the token. It is trained to say its own text, its calls to the
calculator, and `<|assistant_end|>` (or replies would never stop). It is not trained to say what others say: the user,
the frame around the turns, and the calculator's output, which at run time is forced by the engine.

A conversation is first cut into segments `(text or special token, mask)`, and segments become ids. Wrong input raises
`RenderError`, which names the task, the row and the turn.
"""

from collections.abc import Iterator
from typing import NamedTuple

from nanolab.tokenizer import Tokenizer

# The two special tokens around each kind of assistant part, and whether the model is trained on the part.
PART_FRAMES = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),  # said by the tool, not by the model
}


class RenderError(ValueError):
    """A conversation that cannot be rendered; the message says which one, where in it, and why."""


class Segment(NamedTuple):
    """A piece of a rendered conversation: ordinary text, or the name of one special token."""

    text: str
    mask: int
    is_special: bool


def render_conversation(conversation: dict, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids of a conversation and, for each, 1 if the model is trained to say it (two lists of equal length).

    Raises RenderError for malformed conversations. A conversation that ends on a user turn is fine, and so is one
    without any assistant turn: there is less, or nothing, to learn from it.

    >>> ids, mask = render_conversation({"messages": [{"role": "user", "content": "Hi"},
    ...                                               {"role": "assistant", "content": "Yo"}]}, tokenizer)
    >>> tokenizer.decode([i for i, m in zip(ids, mask) if m])
    'Yo<|assistant_end|>'
    """
    return encode_segments(conversation_segments(conversation), tokenizer)


def render_for_completion(conversation: dict, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt: the conversation without its last reply, up to and including `<|assistant_start|>`.

    If the last message is the assistant's it is left out (it is what the model shall say itself).

    >>> tokenizer.decode(render_for_completion({"messages": [{"role": "user", "content": "Hi"}]}, tokenizer))
    '<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>'
    """
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if isinstance(messages, list) and messages and _role(messages[-1]) == "assistant":
        conversation = {**conversation, "messages": messages[:-1]}
    ids, _ = render_conversation(conversation, tokenizer)
    return ids + [tokenizer.special("assistant_start")]


def conversation_segments(conversation: dict) -> Iterator[Segment]:
    """Cut a conversation into segments, checking it on the way. Needs no tokenizer.

    >>> list(conversation_segments({"messages": [{"role": "user", "content": "Hi"}]}))[2]
    Segment(text='Hi', mask=0, is_special=False)
    """
    yield Segment("<|bos|>", 0, True)
    for turn, role, content, where in _checked_turns(conversation):
        if role == "user":
            yield Segment("<|user_start|>", 0, True)
            yield Segment(_user_text(content, f"{where}, turn {turn}"), 0, False)
            yield Segment("<|user_end|>", 0, True)
        else:
            yield Segment("<|assistant_start|>", 0, True)
            yield from _assistant_segments(content, f"{where}, turn {turn}")
            yield Segment("<|assistant_end|>", 1, True)


def encode_segments(segments: Iterator[Segment], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and mask of segments; text is encoded as ordinary text, whatever it spells."""
    ids, mask = [], []
    for text, bit, is_special in segments:
        new = [tokenizer.special(text)] if is_special else tokenizer.encode(text)
        ids.extend(new)
        mask.extend([bit] * len(new))
    return ids, mask


def _checked_turns(conversation: dict) -> Iterator[tuple[int, str, object, str]]:
    """Yield (turn number from 1, role, content, where), the system message joined to the first user message."""
    where = conversation.get("where", "conversation") if isinstance(conversation, dict) else "conversation"
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        raise RenderError(f'{where}: has no messages. Expected {{"messages": [{{"role", "content"}}, ...]}}.')
    first = 0
    system = None
    if _role(messages[0]) == "system":
        system, first = _system_text(messages, where), 1
    for k, message in enumerate(messages[first:]):
        turn, expected = first + k + 1, ("user", "assistant")[k % 2]
        role = _role(message)
        if role != expected:
            raise RenderError(
                f"{where}, turn {turn}: the role is {role!r} but {expected!r} was expected (an optional system "
                "message first, then user and assistant in turn)."
            )
        if "content" not in message:
            raise RenderError(f"{where}, turn {turn}: the message has no 'content'.")
        content = message["content"]
        if k == 0 and system is not None:
            content = f"{system}\n\n{_user_text(content, f'{where}, turn {turn}')}"
        yield turn, role, content, where


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _system_text(messages: list, where: str) -> str:
    if len(messages) < 2 or _role(messages[1]) != "user":
        raise RenderError(f"{where}, turn 2: a system message must be followed by a user message, which it joins.")
    return _user_text(messages[0].get("content"), f"{where}, turn 1")


def _user_text(content: object, where: str) -> str:
    """The text of a user or system message: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_checked_part(part, where, allowed=("text",))[1] for part in content)
    raise RenderError(f"{where}: the content is {type(content).__name__}; text or a list of parts was expected.")


def _assistant_segments(content: object, where: str) -> Iterator[Segment]:
    if isinstance(content, str):
        yield Segment(content, 1, False)
        return
    if not isinstance(content, list):
        raise RenderError(f"{where}: the content is {type(content).__name__}; text or a list of parts was expected.")
    for part in content:
        kind, text = _checked_part(part, where, allowed=tuple(PART_FRAMES))
        start, end, mask = PART_FRAMES[kind]
        if start:
            yield Segment(start, mask, True)
        yield Segment(text, mask, False)
        if end:
            yield Segment(end, mask, True)


def _checked_part(part: object, where: str, allowed: tuple[str, ...]) -> tuple[str, str]:
    """(type, text) of a part, or a RenderError that shows what was found."""
    if not isinstance(part, dict) or part.get("type") not in allowed or not isinstance(part.get("text"), str):
        raise RenderError(
            f'{where}: the part {str(part)[:80]!r} is not one of {{"type", "text"}} with type in {", ".join(allowed)}.'
        )
    return part["type"], part["text"]
