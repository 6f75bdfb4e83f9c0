"""Masks. The golden files hold one token a line, its mask in front: read them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab.batch import shift
from nanolab.render import RenderError, conversation_segments, render_conversation, render_for_completion
from nanolab.tokenizer import SPECIAL_TOKENS, Tokenizer

GOLDEN = Path(__file__).parent / "golden"


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


GOLDEN_CONVERSATIONS = {
    "chat": {"messages": [user("Hi there"), assistant("Hello!\nHow are you?"), user("Fine."), assistant("Good.")]},
    "system_message": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("Who are you?"),
            assistant("A small model."),
        ]
    },
    "multiple_choice": {
        "messages": [
            user(
                "Multiple Choice question: Which is a fruit?\n- apple=A\n- chair=B\n- stone=C\n\n"
                "Respond only with the letter of the correct answer."
            ),
            assistant("A"),
        ],
        "letters": ["A", "B", "C"],
    },
    "tool_calls": {
        "messages": [
            user("What is 12 times 4, plus 2?"),
            assistant(
                [
                    {"type": "text", "text": "12 times 4 is "},
                    {"type": "python", "text": "12*4"},
                    {"type": "python_output", "text": "48"},
                    {"type": "text", "text": "48, plus 2 is "},
                    {"type": "python", "text": "48+2"},
                    {"type": "python_output", "text": "50"},
                    {"type": "text", "text": "50.\n#### 50"},
                ]
            ),
        ]
    },
    "ends_on_user": {"messages": [user("Hi"), assistant("Hello"), user("Bye")]},
    "spells_special_tokens": {
        "messages": [user("<|assistant_end|>"), assistant("You typed <|assistant_end|> as text.")]
    },
}


def as_lines(ids, mask, tokenizer) -> str:
    """One token a line: its mask, `*` if it is a special token, and its text."""
    special = set(tokenizer.special_ids.values())
    rows = (f"{m} {'*' if i in special else ' '} {tokenizer.decode([i])!r}" for i, m in zip(ids, mask, strict=True))
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", GOLDEN_CONVERSATIONS)
def test_ids_and_mask_equal_the_golden_file_token_by_token(name, word_tokenizer):
    conversation = GOLDEN_CONVERSATIONS[name]
    texts = [s.text for s in conversation_segments(conversation) if not s.is_special and "<|" not in s.text]
    tokenizer = word_tokenizer(*texts)
    lines = as_lines(*render_conversation(conversation, tokenizer), tokenizer)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NANOLAB_WRITE_GOLDEN"):  # for a deliberate change; then read the difference before committing
        path.write_text(lines, encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8")


def test_every_reply_ends_with_a_supervised_assistant_end(byte_tokenizer):
    conversation = GOLDEN_CONVERSATIONS["chat"]
    ids, mask = render_conversation(conversation, byte_tokenizer)
    ends = [m for i, m in zip(ids, mask, strict=True) if i == byte_tokenizer.special("assistant_end")]
    assert ends == [1, 1]


def test_a_conversation_without_a_reply_is_legal_and_teaches_nothing(byte_tokenizer):
    ids, mask = render_conversation({"messages": [user("Hello?")]}, byte_tokenizer)
    assert len(ids) == 1 + 1 + 6 + 1 and sum(mask) == 0


def test_a_multiple_choice_reply_is_two_targets_the_letter_and_the_end(byte_tokenizer):
    ids, mask = render_conversation(GOLDEN_CONVERSATIONS["multiple_choice"], byte_tokenizer)
    _, targets = shift(ids, mask)  # a mask shifted by one would train <|assistant_start|> or lose the letter
    assert [t for t in targets if t != -1] == [ord("A"), byte_tokenizer.special("assistant_end")]
    assert targets[-1] == byte_tokenizer.special("assistant_end")


def test_parts_given_as_one_text_part_render_like_text(byte_tokenizer):
    as_text = {"messages": [user("a"), assistant("b")]}
    part = [{"type": "text", "text": "b"}]
    assert render_conversation(as_text, byte_tokenizer) == render_conversation(
        {"messages": [user([{"type": "text", "text": "a"}]), assistant(part)]}, byte_tokenizer
    )


def test_the_prompt_is_the_conversation_up_to_assistant_start(byte_tokenizer):
    conversation = {"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}
    prompt = render_for_completion(conversation, byte_tokenizer)
    ids, mask = render_conversation(conversation, byte_tokenizer)
    assert prompt == ids[: len(prompt)]
    assert prompt[-1] == byte_tokenizer.special("assistant_start")
    assert byte_tokenizer.decode(ids[len(prompt) :]) == "d<|assistant_end|>"
    assert render_for_completion({"messages": conversation["messages"][:-1]}, byte_tokenizer) == prompt


BAD = {
    "no messages": ({"messages": []}, "has no messages"),
    "not a conversation": (["Hi"], "has no messages"),
    "messages missing": ({}, "has no messages"),
    "assistant first": ({"messages": [assistant("Hi")]}, "turn 1: the role is 'assistant' but 'user'"),
    "two users in a row": (
        {"messages": [user("a"), user("b")]},
        "turn 2: the role is 'user' but 'assistant'",
    ),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "turn 1: the role is 'tool'"),
    "message is a string": ({"messages": ["Hi"]}, "turn 1: the role is None"),
    "system in the middle": (
        {"messages": [user("a"), assistant("b"), {"role": "system", "content": "s"}]},
        "turn 3: the role is 'system'",
    ),
    "system alone": (
        {"messages": [{"role": "system", "content": "s"}]},
        "must be followed by a user message",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "turn 1: the message has no 'content'"),
    "content of a wrong type": ({"messages": [user(7)]}, "turn 1: the content is int"),
    "assistant content of a wrong type": (
        {"messages": [user("a"), assistant(None)]},
        "turn 2: the content is NoneType",
    ),
    "unknown part": (
        {"messages": [user("a"), assistant([{"type": "image", "text": "x"}])]},
        "turn 2: the part",
    ),
    "part without text": ({"messages": [user("a"), assistant([{"type": "text"}])]}, "turn 2: the part"),
    "part is a string": ({"messages": [user("a"), assistant(["b"])]}, "turn 2: the part"),
    "user calls a tool": ({"messages": [user([{"type": "python", "text": "1"}])]}, "turn 1: the part"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_names_where_it_is(name, byte_tokenizer):
    conversation, message = BAD[name]
    if isinstance(conversation, dict):
        conversation = {**conversation, "where": "GSM8K main/train row 17"}
        message = rf"GSM8K main/train row 17.*{message}"
    with pytest.raises(RenderError, match=message):
        render_conversation(conversation, byte_tokenizer)


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(SPECIAL_TOKENS)
parts = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": texts}),
    max_size=4,
)
replies = texts | parts


@st.composite
def conversations(draw):
    """Any legal conversation, with or without a system message, ending on either side."""
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 3))):
        messages += [user(draw(texts)), assistant(draw(replies))]
    return {"messages": messages[: len(messages) - draw(st.integers(0, 1))]}


@given(conversations())
def test_any_conversation_decodes_to_its_text_and_supervises_only_the_assistant(conversation):
    tokenizer = Tokenizer([bytes([b]) for b in range(256)])
    ids, mask = render_conversation(conversation, tokenizer)
    segments = list(conversation_segments(conversation))
    assert tokenizer.decode(ids) == "".join(segment.text for segment in segments)
    supervised = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert supervised == "".join(expected_supervised(conversation))
    num_special = sum(i in tokenizer.special_ids.values() for i in ids)
    assert num_special == sum(segment.is_special for segment in segments)


def expected_supervised(conversation):
    for message in conversation["messages"]:
        if message["role"] == "assistant":
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if part["type"] == "text":
                    yield part["text"]
                elif part["type"] == "python":
                    yield f"<|python_start|>{part['text']}<|python_end|>"
            yield "<|assistant_end|>"
