"""Generated conversations, legal and broken, through rendering and all layouts; and rendering is linear.

What is expected is said here once more, from the words of render.py's docstring and not from its code.
"""

import json
import time
from collections import Counter

import pytest
import tiktoken
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanolab.batch import IGNORE_INDEX, Batch, lay_out
from nanolab.layout import BATCHINGS
from nanolab.render import RenderError, render_conversation, render_for_completion
from nanolab.tokenizer import LONGEST_SPACE, SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from tests.conftest import BYTES, random_model
from tests.strategies import conversations

STEPS, CONVERSATIONS_A_STEP = 2_000, 10
EVERY = 50  # one step in so many is also given to a model: its conversations of up to SHORT ids
SHORT = 150
BYTE_TOKENIZER = Tokenizer(BYTES)
OURS = settings(
    deadline=None, database=None, derandomize=True, print_blob=False, suppress_health_check=list(HealthCheck)
)

# --- legal conversations ---------------------------------------------------------------------------------------------


def expected_pieces(conversation):
    """(text or special token, mask, is it special) of a conversation, in order, adjacent texts joined."""
    messages, pieces = list(conversation["messages"]), [("<|bos|>", 0, True)]
    if messages[0]["role"] == "system":
        system, first = (flat(message["content"]) for message in messages[:2])
        messages = [{"role": "user", "content": f"{system}\n\n{first}"}, *messages[2:]]
    for message in messages:
        if message["role"] == "user":
            said = [(flat(message["content"]), 0, False)]
            pieces += [("<|user_start|>", 0, True), *said, ("<|user_end|>", 0, True)]
        else:
            said = [piece for part in parts_of(message["content"]) for piece in expected_part(part)]
            pieces += [("<|assistant_start|>", 0, True), *said, ("<|assistant_end|>", 1, True)]
    return joined(pieces)


def flat(content) -> str:
    return "".join(part["text"] for part in parts_of(content))


def parts_of(content) -> list:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def expected_part(part) -> list:
    if part["type"] == "text":
        return [(part["text"], 1, False)]
    name, mask = {"python": ("python", 1), "python_output": ("output", 0)}[part["type"]]
    return [(f"<|{name}_start|>", mask, True), (part["text"], mask, False), (f"<|{name}_end|>", mask, True)]


def joined(pieces) -> list:
    done = []
    for piece in pieces:
        if done and not done[-1][2] and not piece[2]:
            done[-1] = (done[-1][0] + piece[0], piece[1], False)
        else:
            done.append(piece)
    return [piece for piece in done if piece[0]]


def found_pieces(ids, mask, tokenizer) -> list:
    """The same of ids and mask: each run of ordinary ids of one mask becomes a text."""
    names = {number: name for name, number in tokenizer.special_ids.items()}
    pieces, run = [], []
    for token, bit in [*zip(ids, mask, strict=True), (None, None)]:
        if run and (token in names or token is None or bit != run[0][1]):
            pieces.append((tokenizer.decode([token for token, _ in run]), run[0][1], False))
            run = []
        if token in names:
            pieces.append((names[token], bit, True))
        elif token is not None:
            run.append((token, bit))
    return pieces


def check_rendered(conversation, ids, mask, tokenizer):
    expected = expected_pieces(conversation)
    assert found_pieces(ids, mask, tokenizer) == expected
    assert tokenizer.decode(ids) == "".join(text for text, _, _ in expected)
    ends = [bit for token, bit in zip(ids, mask, strict=True) if token == tokenizer.special("assistant_end")]
    assert ends == [1] * sum(message["role"] == "assistant" for message in conversation["messages"])


def documents(batches: list[Batch], bos: int, pad_id: int) -> Counter:
    """How often each (inputs, targets) of a conversation stands in the batches; padding must teach nothing."""
    found = Counter()
    for batch in batches:
        for inputs, targets in rows_of(batch):
            end = len(inputs)
            while end and inputs[end - 1] == pad_id:  # no conversation's inputs end so: the last id is only a target
                end -= 1
            assert set(targets[end:]) <= {IGNORE_INDEX}
            if end:
                assert inputs[0] == bos
                found[tuple(inputs[:end]), tuple(targets[:end])] += 1
    return found


def rows_of(batch: Batch):
    inputs, targets = batch.inputs.tolist(), batch.targets.tolist()
    if batch.borders is None:
        yield from zip(inputs, targets, strict=True)
        return
    borders = batch.borders.tolist()
    assert borders[0] == 0 and borders[-1] == len(inputs[0]) and borders == sorted(borders)
    for start, end in zip(borders, borders[1:], strict=False):
        yield inputs[0][start:end], targets[0][start:end]


def check_layouts(rows, tokenizer, options) -> dict[str, list[Batch]]:
    pad_id, bos = tokenizer.special("assistant_end"), tokenizer.special("bos")
    expected = Counter(
        (tuple(ids[:-1]), tuple(token if bit else IGNORE_INDEX for token, bit in zip(ids[1:], mask[1:], strict=True)))
        for ids, mask in rows
    )
    laid = {batching: lay_out(rows, batching, pad_id=pad_id, **options) for batching in BATCHINGS}
    for batches in laid.values():
        assert documents(batches, bos, pad_id) == expected
        assert sum(batch.num_tokens for batch in batches) == sum(sum(mask) for _, mask in rows)
        assert sum(batch.real_tokens for batch in batches) == sum(len(ids) - 1 for ids, _ in rows)
    return laid


@torch.no_grad()
def step_loss(model, batches: list[Batch]) -> float | None:
    """The step's loss a supervised token, or None if there are no such tokens."""
    sums = [model(b.inputs, b.targets, loss_reduction="sum", borders=b.borders).item() for b in batches]
    num_tokens = sum(batch.num_tokens for batch in batches)
    return sum(sums) / num_tokens if num_tokens else None


def check_losses(model, laid: dict[str, list[Batch]]):
    losses = {batching: step_loss(model, batches) for batching, batches in laid.items()}
    if any(batch.num_tokens for batch in laid["padded"]):
        assert torch.tensor(list(losses.values())).isfinite().all()
        assert list(losses.values()) == pytest.approx([losses["padded"]] * len(losses), rel=1e-5)
    else:
        assert set(losses.values()) == {None}


layouts = st.fixed_dictionaries(
    {
        "device_batch_size": st.integers(1, 12),
        "device_batch_tokens": st.sampled_from((1, 7, 64, 200, 512, 2048)),
        "static_shapes": st.booleans(),
    }
)


@pytest.mark.slow
def test_twenty_thousand_conversations_are_rendered_to_the_letter_and_laid_out_without_loss(small_tokenizer):
    tokenizers = (small_tokenizer, BYTE_TOKENIZER)
    model = random_model(small_tokenizer.vocab_size)
    seen = Counter()

    @settings(OURS, max_examples=STEPS)
    @given(st.lists(conversations(), min_size=CONVERSATIONS_A_STEP, max_size=CONVERSATIONS_A_STEP), layouts)
    def check(step, options):
        tokenizer = tokenizers[seen["steps"] % 2]
        rows = [render_conversation(conversation, tokenizer) for conversation in step]
        for conversation, (ids, mask) in zip(step, rows, strict=True):
            check_rendered(conversation, ids, mask, tokenizer)
        check_layouts(rows, tokenizer, options)
        if seen["steps"] % EVERY == 0:
            short = [(ids, mask) for ids, mask in rows if len(ids) <= SHORT]
            check_losses(model, check_layouts(short, tokenizer, options))
            seen["losses"] += 1
        seen["steps"] += 1
        seen["conversations"] += len(step)

    check()
    assert seen["conversations"] >= 20_000 and seen["losses"] >= STEPS // EVERY


def test_a_step_without_a_reply_has_no_loss_in_any_layout(small_tokenizer):
    row = render_conversation({"messages": [{"role": "user", "content": "Hi"}]}, small_tokenizer)
    laid = check_layouts([row] * 3, small_tokenizer, {"device_batch_size": 2})
    check_losses(random_model(small_tokenizer.vocab_size), laid)


@settings(OURS, max_examples=300)
@given(conversations())
def test_a_prompt_is_the_beginning_of_its_conversation_and_of_nothing_else(conversation):
    ids, _ = render_conversation(conversation, BYTE_TOKENIZER)
    prompt = render_for_completion(conversation, BYTE_TOKENIZER)
    assert prompt[-1] == BYTE_TOKENIZER.special("assistant_start")
    ends_on_user = conversation["messages"][-1]["role"] == "user"
    assert prompt[:-1] == ids if ends_on_user else prompt == ids[: len(prompt)]


# --- broken conversations --------------------------------------------------------------------------------------------

wild_texts = st.text(st.characters(), max_size=6)  # halves of surrogate pairs too
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | wild_texts | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wild_texts, inner, max_size=3),
    max_leaves=5,
)
roles = st.sampled_from(("system", "user", "assistant", "tool", "User", "", None)) | junk
broken_parts = st.dictionaries(
    st.sampled_from(("type", "text", "x")), wild_texts | st.sampled_from(("text", "python")) | junk
)
contents = junk | wild_texts | st.lists(broken_parts | junk, max_size=3)
broken_messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": roles, "content": contents, "extra": junk}) | junk, max_size=5
)
broken = junk | st.fixed_dictionaries({}, optional={"messages": broken_messages | junk, "where": junk})


@st.composite
def damaged(draw):
    """A legal conversation with one thing changed: a key or an item lost, replaced, doubled or swapped."""
    conversation = json.loads(json.dumps(draw(conversations())))
    holder = draw(st.sampled_from(list(holders(conversation))))
    key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    how = draw(st.sampled_from(("lose", "replace", "double")))
    if how == "lose":
        del holder[key]
    elif how == "replace":
        holder[key] = draw(roles if key == "role" else junk)
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder["extra"] = holder[key]
    return conversation


def holders(value):
    """Every dict and list in a value that is not empty."""
    if value and isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from holders(inner)


@settings(OURS, max_examples=3_000)
@given(broken | damaged())
def test_any_broken_conversation_is_rendered_or_refused_with_what_and_where(conversation):
    for render in (render_conversation, render_for_completion):
        try:
            rendered = render(conversation, BYTE_TOKENIZER)
        except RenderError as error:
            check_refusal(error, conversation)
            continue
        if render is render_conversation:
            check_rendered(conversation, *rendered, BYTE_TOKENIZER)


def check_refusal(error, conversation):
    """It begins with the row, names the turn where there is one, and is short."""
    where = conversation.get("where") if isinstance(conversation, dict) else None
    text = str(error).removeprefix(where if isinstance(where, str) else "conversation")
    assert text.startswith((", turn ", ": has no messages"))
    assert len(text) < 400


def deep(levels: int) -> list:
    value = []
    for _ in range(levels):
        value = [value]
    return value


USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
BROKEN = {
    "None": (None, "conversation: has no messages"),
    "bytes": (b"\xff\x00", "conversation: has no messages"),
    "text": ('{"messages": []}', "conversation: has no messages"),
    "messages as a tuple": ({"messages": (USER, REPLY)}, "conversation: has no messages"),
    "messages as an object": ({"messages": {"0": USER}}, "conversation: has no messages"),
    "messages as bytes": ({"messages": b"[]"}, "conversation: has no messages"),
    "a message of bytes": ({"messages": [b"a"]}, "turn 1: the role is None"),
    "a role of bytes": ({"messages": [{"role": b"user", "content": "a"}]}, "turn 1: the role is b'user'"),
    "a role of a megabyte": ({"messages": [{"role": "u" * 2**20, "content": "a"}]}, "turn 1: the role is 'uuu"),
    "a deep role": ({"messages": [{"role": deep(9_000), "content": "a"}]}, "turn 1: the role is [["),
    "content of bytes": ({"messages": [USER, {"role": "assistant", "content": b"b"}]}, "turn 2: the content is bytes"),
    "content of a number": ({"messages": [{"role": "user", "content": 1.5}]}, "turn 1: the content is float"),
    "content as an object": ({"messages": [{"role": "user", "content": {"text": "a"}}]}, "turn 1: the content is dict"),
    "deep content": ({"messages": [{"role": "user", "content": deep(9_000)}]}, "turn 1: the part [["),
    "a large part": ({"messages": [{"role": "user", "content": ["x" * 2**20]}]}, "turn 1: the part 'xxx"),
    "half of a pair": ({"messages": [{"role": "user", "content": "a\ud800"}]}, "turn 1: The text holds '\\ud800'"),
    "half of a pair in a system message": (
        {"messages": [{"role": "system", "content": "\udfff"}, USER, REPLY]},
        "turn 1: The text holds '\\udfff' at character 0",
    ),
    "half of a pair in a reply": (
        {"messages": [USER, {"role": "assistant", "content": [{"type": "python", "text": "12\ude00"}]}]},
        "turn 2: The text holds '\\ude00' at character 2",
    ),
    "halves that would be a pair": ({"messages": [{"role": "user", "content": "\ud83d\ude00"}]}, "turn 1: The text"),
    "two users": ({"messages": [USER, USER]}, "turn 2: the role is 'user'"),
    "two systems": ({"messages": [{"role": "system", "content": "s"}] * 2 + [USER]}, "turn 2: a system message"),
    "a broken turn after 99,999": ({"messages": [USER, REPLY] * 50_000 + [REPLY]}, "turn 100001: the role"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_conversation_says_what_and_where(name, byte_tokenizer):
    conversation, message = BROKEN[name]
    with pytest.raises(RenderError) as caught:
        render_conversation(conversation, byte_tokenizer)
    assert message in str(caught.value)
    check_refusal(caught.value, conversation)


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}], [{"type": "python", "text": ""}]])
def test_an_empty_reply_teaches_to_stop(content, byte_tokenizer):
    conversation = {"messages": [USER, {"role": "assistant", "content": content}]}
    ids, mask = render_conversation(conversation, byte_tokenizer)
    assert (ids[-1], mask[-1]) == (byte_tokenizer.special("assistant_end"), 1)
    check_rendered(conversation, ids, mask, byte_tokenizer)


def test_more_keys_than_expected_change_nothing(byte_tokenizer):
    more = [{**USER, "name": "x"}, {"role": "assistant", "content": [{"type": "text", "text": "b", "id": 3}]}]
    plain = render_conversation({"messages": [USER, REPLY]}, byte_tokenizer)
    assert render_conversation({"messages": more, "id": 7}, byte_tokenizer) == plain


def test_half_of_a_surrogate_pair_is_refused_by_the_tokenizer_itself(byte_tokenizer):
    for text in ("a\ud800", "\udfff", "\ud83d\ude00"):
        for asked in (text, ["fine", text]):
            with pytest.raises(ValueError, match="half of a surrogate pair"):
                byte_tokenizer.encode(asked)


# --- long ones -------------------------------------------------------------------------------------------------------


class Counting:
    """A tokenizer that counts what it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls, self.characters = tokenizer, 0, 0

    def special(self, name):
        return self.tokenizer.special(name)

    def encode(self, text):
        self.calls += 1
        self.characters += len(text)
        return self.tokenizer.encode(text)


@pytest.mark.parametrize("turns", [50_000, 100_000])
def test_a_hundred_thousand_turns_are_each_encoded_once(turns, byte_tokenizer):
    counting = Counting(byte_tokenizer)
    ids, mask = render_conversation({"messages": [USER, REPLY] * (turns // 2)}, counting)
    assert (counting.calls, counting.characters) == (turns, turns)
    assert (len(ids), sum(mask)) == (1 + 3 * turns, turns)


@pytest.mark.parametrize("parts", [10_000, 20_000])
def test_a_reply_of_many_parts_is_encoded_part_by_part(parts, byte_tokenizer):
    counting = Counting(byte_tokenizer)
    content = [{"type": "text", "text": "b"}] * parts
    ids, _ = render_conversation({"messages": [USER, {"role": "assistant", "content": content}]}, counting)
    assert (counting.calls, counting.characters, len(ids)) == (parts + 1, parts + 1, parts + 6)


@pytest.mark.parametrize(
    "piece", ["hello world ", "a", " ", "\n", "<|bos|>", "\u3000", "\U0001f600", "\u0301", " \n", "\0"]
)
def test_a_message_of_five_megabytes_is_rendered_whole(piece, small_tokenizer):
    text = piece * (5_000_000 // len(piece.encode()))
    ids, mask = render_conversation({"messages": [{"role": "user", "content": text}, REPLY]}, small_tokenizer)
    assert small_tokenizer.decode(ids[2 : ids.index(small_tokenizer.special("user_end"))]) == text
    assert sum(mask) == 2


@pytest.mark.parametrize("piece", ["a", " ", "!", "\u200b", "\u3000", "\u00e9"])
def test_a_run_of_one_character_takes_time_in_proportion_to_its_length(piece, small_tokenizer):
    short, long = (processor_seconds(small_tokenizer, piece * n) for n in (250_000, 1_000_000))
    assert long < 12 * short + 0.5  # quadratic: 16 times


def processor_seconds(tokenizer, text) -> float:
    taken = []
    for _ in range(3):
        start = time.process_time()
        tokenizer.encode(text)
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.parametrize("piece", [" ", "\t", "\u3000", " \u00a0"])
@pytest.mark.parametrize("end", ["", "x", "\n", "\nx", "  x"])
def test_white_space_longer_than_the_engine_can_take_at_once_is_encoded_and_learned(piece, end, byte_tokenizer):
    text = piece * (1_200_000 // len(piece)) + end
    assert byte_tokenizer.decode(byte_tokenizer.encode(text)) == text
    assert Tokenizer.train([text, "low lower " * 9], vocab_size=266).vocab_size == 266


def test_shorter_white_space_is_cut_as_the_plain_pattern_cuts_it(small_tokenizer):
    ranks = {token: rank for rank, token in enumerate(small_tokenizer.token_bytes)}
    plain = tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for length in (1, 2, 3, 500, 5_000, LONGEST_SPACE - 1, LONGEST_SPACE, LONGEST_SPACE + 1):
        for end in ("", "x", "\nx", "1", "\r\n ", "'s"):
            text = "the" + " " * length + end
            assert small_tokenizer.encode(text) == plain.encode_ordinary(text)


def test_special_tokens_spelled_out_never_become_special_however_often(small_tokenizer):
    ids = small_tokenizer.encode("".join(SPECIAL_TOKENS) * 10_000)
    assert not set(ids) & set(small_tokenizer.special_ids.values())
