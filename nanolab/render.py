"""Step 3: a conversation becomes ids and mask.

    <|bos|><|user_start|>Hi<|user_end|><|assistant_start|>Hello!<|assistant_end|>
    0      0             0 0           0                  1     1

The mask is 1 where the model is trained to say the token. It is trained to say its own text, its calls to the
calculator, and `<|assistant_end|>` (or replies would never stop). It is not trained to say what others say: the user,
the frame around the turns, and the calculator's output, which at run time is forced by the engine.

A conversation is first cut into segments `(text or special token, mask)`, and segments become ids. Wrong input raises
`RenderError`, which names the task, the row and the turn.
"""

import reprlib
from collections.abc import Iterator
from typing import NamedTuple

from nanolab.tokenizer import Tokenizer, check_text

# The two special tokens around each kind of assistant part, and whether the model is trained on the part.
PART_FRAMES = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),  # said by the tool, not by the model
}
PART_KINDS = tuple(PART_FRAMES)


class RenderError(ValueError):
    """A conversation that cannot be rendered; the message says which one, where in it, and why."""


class Segment(NamedTuple):
    """A piece of a rendered conversation: ordinary text, or the name of one special token."""

    text: str
    mask: int
    is_special: bool


# The frame around the turns: the same five segments in every conversation, so they are made once.
BOS = Segment("<|bos|>", 0, True)
USER_START, USER_END = Segment("<|user_start|>", 0, True), Segment("<|user_end|>", 0, True)
ASSISTANT_START, ASSISTANT_END = Segment("<|assistant_start|>", 0, True), Segment("<|assistant_end|>", 1, True)


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
    yield BOS
    where = conversation.get("where") if isinstance(conversation, dict) else None
    where = where if isinstance(where, str) else "conversation"
    for turn, role, content in _checked_turns(conversation, where):
        if role == "user":
            yield USER_START
            yield Segment(_user_text(content, where, turn), 0, False)
            yield USER_END
        else:
            yield ASSISTANT_START
            yield from _assistant_segments(content, where, turn)
            yield ASSISTANT_END


def encode_segments(segments: Iterator[Segment], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and mask of segments; text is encoded as ordinary text, whatever it spells."""
    ids, mask = [], []
    for text, bit, is_special in segments:
        if is_special:
            ids.append(tokenizer.special(text))
            mask.append(bit)
        else:
            new = tokenizer.encode(text)
            ids += new
            mask += [bit] * len(new)
    return ids, mask


def _checked_turns(conversation: dict, where: str) -> Iterator[tuple[int, str, object]]:
    """Yield (turn number from 1, role, content), the system message joined to the first user message."""
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
                f"{where}, turn {turn}: the role is {reprlib.repr(role)} but {expected!r} was expected (an optional "
                "system message first, then user and assistant in turn)."
            )
        if "content" not in message:
            raise RenderError(f"{where}, turn {turn}: the message has no 'content'.")
        content = message["content"]
        if k == 0 and system is not None:
            content = f"{system}\n\n{_user_text(content, where, turn)}"
        yield turn, role, content


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _system_text(messages: list, where: str) -> str:
    if len(messages) < 2 or _role(messages[1]) != "user":
        raise RenderError(f"{where}, turn 2: a system message must be followed by a user message, which it joins.")
    return _user_text(messages[0].get("content"), where, 1)


def _user_text(content: object, where: str, turn: int) -> str:
    """The text of a user or system message: a string, or a list of text parts."""
    if isinstance(content, str):
        return _checked_text(content, where, turn)
    if isinstance(content, list):
        return "".join(_checked_part(part, where, turn, allowed=("text",))[1] for part in content)
    raise _wrong_content(content, where, turn)


def _assistant_segments(content: object, where: str, turn: int) -> Iterator[Segment]:
    if isinstance(content, str):
        yield Segment(_checked_text(content, where, turn), 1, False)
        return
    if not isinstance(content, list):
        raise _wrong_content(content, where, turn)
    for part in content:
        kind, text = _checked_part(part, where, turn, allowed=PART_KINDS)
        start, end, mask = PART_FRAMES[kind]
        if start:
            yield Segment(start, mask, True)
        yield Segment(text, mask, False)
        if end:
            yield Segment(end, mask, True)


def _wrong_content(content: object, where: str, turn: int) -> RenderError:
    found = type(content).__name__
    return RenderError(f"{where}, turn {turn}: the content is {found}; text or a list of parts was expected.")


def _checked_part(part: object, where: str, turn: int, allowed: tuple[str, ...]) -> tuple[str, str]:
    """(type, text) of a part, or a RenderError that shows what was found."""
    if not isinstance(part, dict) or part.get("type") not in allowed or not isinstance(part.get("text"), str):
        raise RenderError(
            f"{where}, turn {turn}: the part {reprlib.repr(part)} is not one of "
            f'{{"type", "text"}} with type in {", ".join(allowed)}.'
        )
    return part["type"], _checked_text(part["text"], where, turn)


def _checked_text(text: str, where: str, turn: int) -> str:
    """The text, or a RenderError if it has no UTF-8."""
    try:
        check_text(text)
    except ValueError as error:
        raise RenderError(f"{where}, turn {turn}: {error}") from None
    return text
