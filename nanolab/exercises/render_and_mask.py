"""Checks of notebook 03: special tokens that are learned, counting without rendering, mask and prompt from ids alone.

What is right is what nanolab.render says. The functions on top are what the exercises ask for.
"""

from collections.abc import Callable, Collection, Sequence

from nanolab.render import render_conversation, render_for_completion
from nanolab.tokenizer import SPECIAL_TOKENS, Tokenizer


def _part(kind: str, text: str) -> dict:
    return {"type": kind, "text": text}


def _chat(*contents: str | list[dict], system: str | None = None) -> dict:
    """A conversation from what the user and the assistant say in turn."""
    messages = [{"role": ("user", "assistant")[turn % 2], "content": said} for turn, said in enumerate(contents)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


CALL = [_part("python", "7*6"), _part("python_output", "42")]
REPLIES = (  # the parts of one reply
    [_part("text", "Paris.")],
    [_part("text", "That is "), *CALL, _part("text", "42.")],
    [*CALL, _part("python", "42-2"), _part("python_output", "40"), _part("text", "40, so 40.\n#### 40")],
    [_part("python", "1/3")],
)
CONVERSATIONS = (  # each ends on a reply
    _chat("Hi", "Yo"),
    _chat("Hi", "Yo", "And of Spain?", "Madrid.", system="Be brief."),
    *(_chat("What is it?", reply) for reply in REPLIES),
    _chat("First", REPLIES[1], "Again", REPLIES[2]),
    _chat("Say <|assistant_start|> or <|output_end|>", "<|assistant_end|> is what I am not to say as text."),
)
OPEN_ENDED = (_chat("Hi"), _chat("Hi", "Yo", "Why?"))  # end on the user's turn


def said_specials() -> set[str]:
    """The special tokens that the model is trained to say, in some conversation.

    >>> "<|bos|>" in said_specials()
    False
    """
    tokenizer = Tokenizer([bytes([b]) for b in range(256)])
    rows = [render_conversation(conversation, tokenizer) for conversation in CONVERSATIONS]
    said = {token for ids, mask in rows for token, bit in zip(ids, mask, strict=True) if bit}
    return {name for name, token in tokenizer.special_ids.items() if token in said}


def num_supervised(parts: Sequence[dict], tokenizer: Tokenizer) -> int:
    """How many supervised tokens a reply of these parts has, counted on the rendered conversation.

    >>> num_supervised([{"type": "text", "text": "Yo"}], tokenizer)      # of single bytes
    3
    """
    return sum(render_conversation(_chat("Hi", list(parts)), tokenizer)[1])


def mask_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The mask of a rendered conversation, from its ids alone.

    >>> mask_of([tokenizer.special(name) for name in ("bos", "assistant_start", "assistant_end")], tokenizer)
    [0, 0, 1]
    """
    (start, end), (forced, free) = (
        [tokenizer.special(f"{who}_{side}") for side in ("start", "end")] for who in ("assistant", "output")
    )
    mask, speaker = [], "user"
    for token in ids:
        speaker = "tool" if token == forced else speaker
        mask.append(int(speaker == "assistant"))
        speaker = {start: "assistant", end: "user", free: "assistant"}.get(token, speaker)
    return mask


def prompt_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """What the program writes before the last reply: the ids up to and including the last `<|assistant_start|>`.

    >>> prompt_of(render_conversation(conversation, tokenizer)[0], tokenizer) == render_for_completion(
    ...     conversation, tokenizer)
    True
    """
    from_the_end = list(ids)[::-1].index(tokenizer.special("assistant_start"))
    return list(ids)[: len(ids) - from_the_end]


def check_said_specials(my_specials: Collection[str]) -> None:
    """Check `my_specials`: the names of the special tokens that the model is trained to say.

    Raises AssertionError with the number of wrong decisions, not with the names.

    >>> check_said_specials(said_specials())
    Right for all 9 special tokens.
    """
    assert not isinstance(my_specials, str), "A set or list of names is wanted, not one text."
    mine = {name if name.startswith("<|") else f"<|{name}|>" for name in my_specials}
    unknown = sorted(mine - set(SPECIAL_TOKENS))
    assert not unknown, f"There is no special token {', '.join(unknown)}; there are {', '.join(SPECIAL_TOKENS)}."
    wrong = len(mine ^ said_specials())
    assert wrong == 0, (
        f"{wrong} of the {len(SPECIAL_TOKENS)} are on the wrong side. For each, ask who writes it when the model is "
        "used: the program, the tool, or the model?"
    )
    print(f"Right for all {len(SPECIAL_TOKENS)} special tokens.")


def check_num_supervised(my_num_supervised: Callable[[list[dict], Tokenizer], int], tokenizer: Tokenizer) -> None:
    """Check `my_num_supervised(parts, tokenizer)`: how many supervised tokens a reply of these parts has.

    Raises AssertionError with the kinds of parts and the right number.

    >>> check_num_supervised(num_supervised, tokenizer)
    my_num_supervised is right for 4 replies.
    """
    for parts in REPLIES:
        expected, got = num_supervised(parts, tokenizer), my_num_supervised(list(parts), tokenizer)
        tokens = [(part["type"], len(tokenizer.encode(part["text"]))) for part in parts]
        assert got == expected, (
            f"A reply of {tokens} (kind of part, tokens of its text) has {expected} supervised tokens, "
            f"my_num_supervised says {got}. The model also says where a call begins and ends, and where the reply ends."
        )
    print(f"my_num_supervised is right for {len(REPLIES)} replies.")


def check_mask(
    my_mask: Callable[[list[int], Tokenizer], list[int]],
    tokenizer: Tokenizer,
    rows: Sequence[tuple[list[int], list[int]]] = (),
) -> None:
    """Check `my_mask(ids, tokenizer)`: the mask from the ids alone; also of `rows` (ids, mask), if given.

    Raises AssertionError with the first token whose bit is wrong.

    >>> check_mask(mask_of, tokenizer)
    my_mask is right for 10 conversations.
    """
    made = [render_conversation(conversation, tokenizer) for conversation in (*CONVERSATIONS, *OPEN_ENDED)]
    for ids, mask in [*made, *rows]:
        got = [int(bit) for bit in my_mask(list(ids), tokenizer)]
        assert len(got) == len(ids), f"{len(ids)} ids need {len(ids)} bits, my_mask gives {len(got)}."
        wrong = next((t for t in range(len(ids)) if got[t] != mask[t]), None)
        assert wrong is None, (
            f"Position {wrong}, {tokenizer.decode([ids[wrong]])!r}, has mask {mask[wrong]}, my_mask says {got[wrong]}; "
            f"it stands behind {tokenizer.decode(ids[max(wrong - 12, 0) : wrong])!r}."
        )
    print(f"my_mask is right for {len(made) + len(rows)} conversations.")


def check_prompt(my_prompt: Callable[[list[int], Tokenizer], list[int]], tokenizer: Tokenizer) -> None:
    """Check `my_prompt(ids, tokenizer)`: of a conversation that ends on a reply, what the program writes before it.

    Raises AssertionError with the ends of both prompts, as text.

    >>> check_prompt(prompt_of, tokenizer)
    my_prompt is right for 8 conversations.
    """
    for conversation in CONVERSATIONS:
        ids, _ = render_conversation(conversation, tokenizer)
        expected, got = render_for_completion(conversation, tokenizer), list(my_prompt(list(ids), tokenizer))
        assert got == expected, (
            f"The prompt of {len(ids)} ids has {len(expected)} and ends in {tokenizer.decode(expected[-8:])!r}; yours "
            f"has {len(got)} and ends in {tokenizer.decode(got[-8:])!r}. Only the last reply is left out, all of it, "
            "and the model's cue stays."
        )
    print(f"my_prompt is right for {len(CONVERSATIONS)} conversations.")
