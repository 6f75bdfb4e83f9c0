import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab.batch import (
    IGNORE_INDEX,
    StepDataset,
    StreamDataset,
    fit,
    lay_out,
    pad_batch,
    sft_data_generator,
    shift,
)
from nanolab.render import render_conversation


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


# Lengths in tokens of the byte tokenizer: 6 special tokens' frame (bos, 2 + 2 turn marks) and the letters.
CHATS = [
    chat("a", "b"),
    chat("long question", "long answer"),
    chat("cd", "e"),
    chat("f", "ghi"),
    chat("j", ""),
]


def test_targets_are_the_next_token_where_the_mask_says_so():
    ids, mask = [3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1]
    assert shift(ids, mask) == ([3, 4, 1, 5, 6, 2], [-1, -1, -1, -1, 2, 7])


def test_a_batch_is_right_padded_and_padding_has_no_target():
    batch = pad_batch([([3, 4, 2, 7], [0, 0, 1, 1]), ([3, 7], [0, 1])], pad_id=7)
    assert batch.inputs.tolist() == [[3, 4, 2], [3, 7, 7]]
    assert batch.targets.tolist() == [[-1, 2, 7], [7, -1, -1]]
    assert (batch.slots, batch.real_tokens, batch.num_tokens) == (6, 4, 3)


def test_padded_layout_keeps_the_order_and_the_number_of_rows():
    rows = [([k] * (k + 2), [1] * (k + 2)) for k in range(7)]
    batches = lay_out(rows, "padded", pad_id=0, device_batch_size=3)
    assert [tuple(b.inputs.shape) for b in batches] == [(3, 3), (3, 6), (1, 7)]
    assert [row[0].item() for b in batches for row in b.inputs] == list(range(7))


def test_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="Unknown batching 'sorted'"):
        lay_out([], "sorted", pad_id=0)


row_lists = st.lists(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1)), min_size=1, max_size=20),
    min_size=1,
    max_size=9,
)


@given(row_lists, st.integers(1, 5))
def test_laying_out_loses_and_invents_nothing(rows, device_batch_size):
    rows = [tuple(map(list, zip(*row, strict=True))) for row in rows]
    batches = lay_out(rows, "padded", pad_id=99, device_batch_size=device_batch_size)
    laid = [pair for b in batches for pair in zip(b.inputs.tolist(), b.targets.tolist(), strict=True)]
    assert len(laid) == len(rows)
    for (ids, mask), (inputs, targets) in zip(rows, laid, strict=True):
        n = len(ids) - 1
        assert (inputs[:n], targets[:n]) == shift(ids, mask)
        assert set(inputs[n:]) <= {99} and set(targets[n:]) <= {IGNORE_INDEX}
    assert sum(b.num_tokens for b in batches) == sum(sum(mask[1:]) for _, mask in rows)
    assert sum(b.real_tokens for b in batches) == sum(len(ids) - 1 for ids, _ in rows)


def test_the_generator_gives_conversations_in_order_padded_with_assistant_end(byte_tokenizer):
    inputs, targets = next(sft_data_generator(CHATS, byte_tokenizer, batch_size=2))
    rows = [render_conversation(c, byte_tokenizer) for c in CHATS[:2]]
    width = max(len(ids) for ids, _ in rows) - 1
    assert inputs.shape == targets.shape == (2, width)
    n = len(rows[0][0]) - 1
    assert inputs[0].tolist() == rows[0][0][:-1] + [byte_tokenizer.special("assistant_end")] * (width - n)
    assert inputs[1].tolist() == rows[1][0][:-1]
    assert targets[0].tolist() == [-1] * (n - 2) + [ord("b"), byte_tokenizer.special("assistant_end")] + [-1] * (
        width - n
    )


def test_the_generator_is_endless_over_epochs_and_batches_reach_over_their_ends(byte_tokenizer):
    batches = list(itertools.islice(sft_data_generator(CHATS, byte_tokenizer, batch_size=2), 5))
    seen = [row for inputs, _ in batches for row in inputs.tolist()]
    expected = [render_conversation(c, byte_tokenizer)[0][:-1] for c in CHATS * 2]
    assert [row[: len(ids)] for row, ids in zip(seen, expected, strict=True)] == expected


def test_the_generator_passes_over_longer_conversations(byte_tokenizer):
    batches = itertools.islice(sft_data_generator(CHATS, byte_tokenizer, batch_size=4, max_data_tokens=10), 3)
    questions = [byte_tokenizer.decode(row.tolist()) for inputs, _ in batches for row in inputs]
    assert not any("long question" in question for question in questions)


def test_the_generator_raises_instead_of_searching_for_ever(byte_tokenizer):
    with pytest.raises(ValueError, match="None of the 5 conversations fits into max_data_tokens=3"):
        next(sft_data_generator(CHATS, byte_tokenizer, batch_size=2, max_data_tokens=3))
    with pytest.raises(ValueError, match="None of the 0 conversations"):
        next(sft_data_generator([], byte_tokenizer, batch_size=2))


def test_policies_for_overlong_conversations():
    row = ([1, 2, 3, 4], [0, 1, 1, 1])
    assert fit(row, None, "skip") == fit(row, -1, "skip") == fit(row, 4, "error") == row
    assert fit(row, 3, "skip") is None
    assert fit(row, 3, "truncate") == ([1, 2, 3], [0, 1, 1])
    with pytest.raises(ValueError, match="GSM8K row 3: 4 tokens are more than max_data_tokens 3"):
        fit(row, 3, "error", "GSM8K row 3")


def test_step_s_is_conversations_sN_to_sN_plus_N_whatever_was_read_before(byte_tokenizer):
    steps = StepDataset(CHATS, byte_tokenizer, num_examples=2, device_batch_size=1)
    assert len(steps) == 2
    third = steps[2]  # conversations 4 and, around the end, 0
    rows = [batch.inputs[0].tolist() for batch in third.batches]
    assert rows == [render_conversation(CHATS[k], byte_tokenizer)[0][:-1] for k in (4, 0)]
    steps[0]
    assert [batch.inputs[0].tolist() for batch in steps[2].batches] == rows


def test_a_step_says_what_it_left_out(byte_tokenizer):
    conversations = [{**c, "where": f"toy row {k}"} for k, c in enumerate(CHATS)]
    step = StepDataset(conversations, byte_tokenizer, num_examples=3, max_data_tokens=10)[0]
    assert step.num_conversations == 2
    assert step.left_out == ["toy row 1: skipped, 29 tokens are more than 10"]


def test_a_step_says_what_it_cut(byte_tokenizer):
    step = StepDataset(CHATS, byte_tokenizer, num_examples=2, max_data_tokens=10, overlong="truncate")[0]
    assert step.num_conversations == 2 and step.slots == 2 * 9
    assert step.left_out == ["conversation 1: cut, 29 tokens are more than 10"]


def test_a_batch_size_of_zero_is_refused(byte_tokenizer):
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        next(sft_data_generator(CHATS, byte_tokenizer, batch_size=0))


def test_a_step_of_only_overlong_conversations_is_empty(byte_tokenizer):
    step = StepDataset(CHATS, byte_tokenizer, num_examples=3, max_data_tokens=2)[0]
    assert step.batches == [] and len(step.left_out) == 3


def test_stream_rows_are_the_documents_end_to_end_and_targets_one_later():
    documents = [[k] * 5 for k in range(4)]
    stream = StreamDataset(documents, encode=list, max_seq_len=4, device_batch_size=1, total_batch_size=8)
    flat = [token for _ in range(3) for document in documents for token in document]
    for step in (0, 1, 4, 2, 0):  # forwards, over the end, and back
        batches = stream[step].batches
        assert torch.cat([b.inputs for b in batches]).flatten().tolist() == flat[8 * step : 8 * step + 8]
        assert torch.cat([b.targets for b in batches]).flatten().tolist() == flat[8 * step + 1 : 8 * step + 9]
        assert [tuple(b.inputs.shape) for b in batches] == [(1, 4), (1, 4)]
    assert stream.count_tokens() == 20


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=300),
    st.lists(st.integers(0, 60), min_size=1, max_size=8),
)
def test_stream_steps_do_not_depend_on_what_was_read_before(lengths, steps):
    documents = [[k] * n for k, n in enumerate(lengths)]
    stream = StreamDataset(documents, list, max_seq_len=8, device_batch_size=2, total_batch_size=16)
    for step in steps:
        fresh = StreamDataset(documents, list, max_seq_len=8, device_batch_size=2, total_batch_size=16)
        assert torch.equal(stream[step].batches[0].inputs, fresh[step].batches[0].inputs)
