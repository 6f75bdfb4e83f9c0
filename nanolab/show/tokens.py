"""A conversation as the model meets it: one chip per token, with what is supervised and what is special."""

from collections.abc import Iterator
from html import escape

from IPython.display import HTML
from numpy.typing import ArrayLike

from nanolab.show.page import legend, note, view
from nanolab.show.values import as_list, percent
from nanolab.tokenizer import Tokenizer

# Which part of a conversation begins and ends at which special token.
STARTS = {
    "<|user_start|>": "user",
    "<|assistant_start|>": "assistant",
    "<|python_start|>": "python",
    "<|output_start|>": "python output",
}
ENDS = {
    "<|user_end|>": "",
    "<|assistant_end|>": "",
    "<|python_end|>": "assistant",
    "<|output_end|>": "assistant",
}
NEW_LINE_BEFORE = ("<|bos|>", "<|user_start|>", "<|assistant_start|>")

PICTURES = {"\n": "↵", "\t": "⇥", "\r": "␍"} | {
    chr(code): chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t\r"
}


class Labels:
    """What to write on a chip: specials by name, spaces as ·, newlines as ↵, broken UTF-8 as ⟨e2 80⟩."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.special_names = {id: name for name, id in tokenizer.special_ids.items()}

    def is_special(self, id: int) -> bool:
        """Whether an id is a control token."""
        return id in self.special_names

    def text(self, id: int) -> str:
        """The token's own text, newlines and all; bytes that are no whole character as ⟨hex⟩."""
        return self.special_names.get(id) or readable_bytes(self.tokenizer.decode_bytes([id]))

    def label(self, id: int) -> str:
        """The token's text made visible, for plain text and tables."""
        dots, rest = visible(self.text(id))
        return dots + rest

    def html(self, id: int) -> str:
        """The token's text made visible, escaped, with the dots for spaces printed light."""
        dots, rest = visible(self.text(id))
        shown = (f"<i>{dots}</i>" if dots else "") + escape(rest)
        return f"<b>{shown}</b>" if self.is_special(id) else shown


def readable_bytes(data: bytes) -> str:
    """Text of bytes that may begin or end inside a character; the broken bytes are written in hex.

    >>> readable_bytes("né".encode()[:2])
    'n⟨c3⟩'
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        broken = data[error.start : error.end].hex(" ")
        return data[: error.start].decode() + f"⟨{broken}⟩" + readable_bytes(data[error.end :])


def visible(text: str) -> tuple[str, str]:
    """Leading spaces as dots, and the rest with its newlines and control characters as pictures.

    >>> visible("  if x:\\n")
    ('··', 'if x:↵')
    """
    rest = text.lstrip(" ")
    return "·" * (len(text) - len(rest)), "".join(PICTURES.get(letter, letter) for letter in rest)


def roles_of(ids: ArrayLike, tokenizer: Tokenizer) -> list[str]:
    """For each token the part of the conversation it belongs to: "user", "assistant", "python", ... or "".

    >>> roles_of([tokenizer.special("user_start"), 7, tokenizer.special("user_end")], tokenizer)
    ['user', 'user', 'user']
    """
    names, role, roles = {id: name for name, id in tokenizer.special_ids.items()}, "", []
    for id in as_list(ids):
        name = names.get(id, "")
        role = "" if name == "<|bos|>" else STARTS.get(name, role)
        roles.append(role)
        role = ENDS.get(name, role)
    return roles


def token_view(
    ids: ArrayLike, mask: ArrayLike, tokenizer: Tokenizer, title: str | None = None, max_tokens: int = 600
) -> HTML:
    """Draw a conversation as coloured tokens (supervised, ignored, special), with more to read on hovering.

    `ids` and `mask` (1 = supervised) are (T,), lists or tensors. Supervised tokens are underlined as well
    as coloured, specials are bold. The counts are of all tokens, also when only the first `max_tokens` are
    drawn. Raises ValueError when the two lengths differ.

    >>> token_view(*render_conversation(task[0], tokenizer), tokenizer)
    """
    ids, mask = as_list(ids), as_list(mask)
    if len(ids) != len(mask):
        raise ValueError(
            f"token_view: {len(ids)} ids but {len(mask)} mask values: pass both from one render_conversation"
        )
    chips = "".join(_chips(ids[:max_tokens], mask, tokenizer))
    left_out = len(ids) - max_tokens
    after = f"… {left_out:,} more of {len(ids):,} tokens left out (max_tokens={max_tokens})" if left_out > 0 else ""
    return view(_legend(mask) + f'<div class="nl-box nl-code">{chips}</div>' + note(after), title)


def _legend(mask: list[int]) -> str:
    supervised = sum(map(bool, mask))
    return legend(
        "<u>supervised</u> the model is trained to say it",
        '<span class="nl-c">ignored</span> read only',
        '<b class="nl-c nl-s">special</b> bold; underlined if supervised',
        f"{supervised:,} of {len(mask):,} tokens supervised, {percent(supervised, len(mask))}",
    )


def _chips(ids: list[int], mask: list[int], tokenizer) -> Iterator[str]:
    labels, before = Labels(tokenizer), ""
    for position, (id, learns, role) in enumerate(zip(ids, mask, roles_of(ids, tokenizer), strict=False)):
        name = labels.special_names.get(id, "")
        if name in NEW_LINE_BEFORE and before not in ("", "<br>", "<|bos|>"):
            yield "<br>"
        yield token_chip(id, labels, learns, f"{position} · id {id} · {role or 'outside'}")
        before = name or "text"
        if not name and "\n" in labels.text(id):
            yield "<br>"
            before = "<br>"


def token_chip(id: int, labels: Labels, learns: bool, about: str) -> str:
    """One chip: <u> where supervised, <span> elsewhere; `about` opens its hover title."""
    state = "supervised" if learns else "ignored"
    title = escape(f"{about}, {state} · {labels.text(id)!r}")
    classes = " ".join(["nl-c"] * (not learns) + ["nl-s"] * labels.is_special(id))
    attribute = f' class="{classes}"' if classes else ""
    tag = "u" if learns else "span"
    return f'<{tag}{attribute} title="{title}">{labels.html(id)}</{tag}>'
