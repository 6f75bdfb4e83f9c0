import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab.batch import (
    IGNORE_INDEX,
    Batch,
    Step,
    StepDataset,
    border_table_size,
    fit,
    lay_out,
    pack_batch,
    pad_batch,
    positions_in_documents,
    sft_data_generator,
    shift,
)
from nanolab.layout import BATCHINGS, possible_shapes
from nanolab.render import render_conversation
from nanolab.stream import StreamDataset, TextIds
from nanolab.tokenizer import Tokenizer


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


def test_a_batch_of_a_static_shape_is_filled_up_with_padding():
    batch = pad_batch([([3, 4, 7], [0, 0, 1])], pad_id=9, height=2, width=4)
    assert batch.inputs.tolist() == [[3, 4, 9, 9], [9, 9, 9, 9]]
    assert batch.targets.tolist() == [[-1, 7, -1, -1], [-1, -1, -1, -1]]
    assert (batch.slots, batch.real_tokens, batch.num_tokens, batch.borders) == (8, 2, 1, None)


def test_a_packed_batch_is_one_row_of_documents_end_to_end():
    batch = pack_batch([([3, 4, 2, 7], [0, 0, 1, 1]), ([3, 7], [0, 1])], pad_id=9)
    assert batch.inputs.tolist() == [[3, 4, 2, 3]]
    assert batch.targets.tolist() == [[-1, 2, 7, 7]]  # the second document's first id is nobody's target
    assert batch.borders.tolist() == [0, 3, 4] and batch.borders.dtype == torch.int32
    assert batch.positions.tolist() == [[0, 1, 2, 0]]
    assert (batch.slots, batch.real_tokens, batch.num_tokens) == (4, 4, 3)


def test_padding_of_a_packed_batch_is_a_document_of_its_own_and_the_table_ends_on_empty_ones():
    batch = pack_batch([([3, 4, 2, 7], [0, 0, 1, 1]), ([3, 7], [0, 1])], pad_id=9, size=6, table_size=6)
    assert batch.inputs.tolist() == [[3, 4, 2, 3, 9, 9]]
    assert batch.targets.tolist() == [[-1, 2, 7, 7, -1, -1]]
    assert batch.borders.tolist() == [0, 3, 4, 6, 6, 6]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert (batch.slots, batch.real_tokens, batch.num_tokens) == (6, 4, 3)


def test_a_packed_batch_without_room_for_padding_has_no_padding_document():
    batch = pack_batch([([3, 4, 7], [0, 0, 1])], pad_id=9, size=2, table_size=4)
    assert batch.borders.tolist() == [0, 2, 2, 2]


def test_positions_of_padded_rows_are_those_of_the_row():
    assert pad_batch([([3, 4, 7], [0, 0, 1])] * 2, pad_id=9).positions.tolist() == [[0, 1]]


def test_positions_pass_over_empty_documents():
    borders = torch.tensor([0, 0, 2, 2, 5], dtype=torch.int32)
    positions = positions_in_documents(borders, 5)
    assert positions.tolist() == [[0, 1, 0, 1, 2]] and positions.dtype == torch.long


def test_rows_that_do_not_fit_are_refused():
    row = ([3, 4, 7], [0, 0, 1])
    with pytest.raises(ValueError, match=r"2 rows of up to 2 slots do not fit into a batch of \(1, 2\)"):
        pad_batch([row, row], pad_id=9, height=1)
    with pytest.raises(ValueError, match="2 documents of 4 slots together do not fit into a row of 3"):
        pack_batch([row, row], pad_id=9, size=3)
    with pytest.raises(ValueError, match="have 3 borders, more than table_size 2"):
        pack_batch([row, row], pad_id=9, table_size=2)


def test_a_static_table_depends_on_slots_and_conversations_a_step_unless_documents_are_tiny():
    assert border_table_size(2048, 1) == border_table_size(2048, 256) == 258
    assert border_table_size(2048, 257) == 516
    assert border_table_size(2048, 1, 32) == border_table_size(2048, 32, 32) == border_table_size(16_384, 9, 32) == 34
    assert border_table_size(64, 2, 32) == 10  # so few slots have no 32 conversations
    assert border_table_size(64, 9, 32) == 20


def test_static_packed_rows_of_one_size_have_tables_of_one_size():
    short, long = ([1] * 20, [1] * 20), ([1] * 60, [1] * 60)
    (few,) = lay_out([long] * 2, "packed", pad_id=0, device_batch_tokens=128, static_shapes=True)
    (many,) = lay_out([short] * 6, "packed", pad_id=0, device_batch_tokens=128, static_shapes=True)
    assert few.inputs.shape == many.inputs.shape == (1, 128)
    assert few.borders.tolist() == [0, 59, 118] + [128] * 15
    assert many.borders.tolist() == [0, 19, 38, 57, 76, 95, 114] + [128] * 11


def test_a_batch_moves_with_its_borders_and_its_counts():
    batch = pack_batch([([3, 4, 2, 7], [0, 0, 1, 1])], pad_id=9)
    moved = batch.to("meta")
    assert moved.inputs.device == moved.targets.device == moved.borders.device == torch.device("meta")
    assert (moved.real_tokens, moved.num_tokens) == (3, 2)  # nothing could be counted there
    assert pad_batch([([3, 7], [0, 1])], pad_id=9).to("meta").borders is None


def test_a_batch_can_be_made_of_three_things_and_counts_its_targets():
    batch = Batch(torch.tensor([[3, 4, 5]]), torch.tensor([[-1, 0, 2]]), 3)
    assert (batch.num_tokens, batch.borders) == (2, None)


def test_pinning_a_step_pins_all_its_tensors_and_keeps_the_rest(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0)  # real pinning needs an accelerator
    step = Step([pack_batch([([3, 4, 2, 7], [0, 0, 1, 1])], 9), pad_batch([([3, 7], [0, 1])], 9)], 2, ["row 5: cut"])
    pinned = step.pin_memory()
    assert (pinned.num_conversations, pinned.left_out, pinned.num_tokens) == (2, ["row 5: cut"], 3)
    for before, after in zip(step.batches, pinned.batches, strict=True):
        for name in ("inputs", "targets"):
            assert getattr(before, name) is not getattr(after, name)
            assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.equal(pinned.batches[0].borders, step.batches[0].borders)
    assert pinned.batches[0].borders is not step.batches[0].borders and pinned.batches[1].borders is None


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
    rows = [row for row in rows if len(row[0]) > 1]  # one id alone has nothing after it to be learned
    assert len(laid) == len(rows)
    for (ids, mask), (inputs, targets) in zip(rows, laid, strict=True):
        n = len(ids) - 1
        assert (inputs[:n], targets[:n]) == shift(ids, mask)
        assert set(inputs[n:]) <= {99} and set(targets[n:]) <= {IGNORE_INDEX}
    assert sum(b.num_tokens for b in batches) == sum(sum(mask[1:]) for _, mask in rows)
    assert sum(b.real_tokens for b in batches) == sum(len(ids) - 1 for ids, _ in rows)


def pairs_with_targets(batches: list[Batch]) -> Counter:
    """How often each (input, target) is learned."""
    return Counter(
        (token, target)
        for b in batches
        for token, target in zip(b.inputs.flatten().tolist(), b.targets.flatten().tolist(), strict=True)
        if target != IGNORE_INDEX
    )


@given(row_lists, st.integers(1, 5), st.integers(1, 40), st.booleans())
def test_all_layouts_learn_the_same_pairs_of_input_and_target(rows, size, tokens, static):
    rows = [tuple(map(list, zip(*row, strict=True))) for row in rows]
    shared = {"pad_id": 99, "device_batch_size": size, "device_batch_tokens": tokens, "static_shapes": static}
    layouts = [lay_out(rows, batching, **shared) for batching in BATCHINGS]
    expected = Counter(pair for row in rows for pair in zip(*shift(*row), strict=True) if pair[1] != IGNORE_INDEX)
    assert [pairs_with_targets(batches) for batches in layouts] == [expected] * 3
    assert {sum(b.real_tokens for b in batches) for batches in layouts} == {sum(len(ids) - 1 for ids, _ in rows)}
    assert {sum(b.num_tokens for b in batches) for batches in layouts} == {expected.total()}


@given(row_lists, st.integers(1, 40), st.booleans())
def test_borders_part_a_packed_row_into_its_documents_and_positions_restart_in_each(rows, tokens, static):
    rows = [tuple(map(list, zip(*row, strict=True))) for row in rows]
    found = Counter()
    for batch in lay_out(rows, "packed", pad_id=99, device_batch_tokens=tokens, static_shapes=static):
        borders = batch.borders.tolist()
        assert borders[0] == 0 and borders[-1] == batch.slots and borders == sorted(borders)
        for start, end in itertools.pairwise(borders):
            assert batch.positions[0, start:end].tolist() == list(range(end - start))
            if start < batch.real_tokens and start < end:
                inputs, targets = batch.inputs[0, start:end], batch.targets[0, start:end]
                found[tuple(inputs.tolist()), tuple(targets.tolist())] += 1
    expected = Counter(tuple(map(tuple, shift(*row))) for row in rows if len(row[0]) > 1)
    assert found == expected


def test_static_batches_have_the_announced_shapes():
    rows = [([1] * n, [1] * n) for n in (30, 400, 100, 20, 260)]
    for batching in BATCHINGS:
        batches = lay_out(rows, batching, pad_id=0, device_batch_tokens=256, static_shapes=True)
        assert {tuple(b.inputs.shape) for b in batches} <= set(possible_shapes(batching, 256, longest=399))


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


def test_a_step_is_laid_out_as_its_plan_says(byte_tokenizer):
    for batching in BATCHINGS:
        steps = StepDataset(CHATS, byte_tokenizer, 5, 2, batching=batching, device_batch_tokens=32, static_shapes=True)
        laid, step = steps.plan(3), steps[3]
        assert [m.shape for m in laid.micro_batches] == [tuple(b.inputs.shape) for b in step.batches]
        assert (laid.slots, laid.real_tokens, laid.num_rows) == (step.slots, step.real_tokens, 5)


def test_a_step_dataset_refuses_an_unknown_layout_at_once(byte_tokenizer):
    with pytest.raises(ValueError, match="There are: 'padded', 'bucketed', 'packed'."):
        StepDataset(CHATS, byte_tokenizer, num_examples=2, batching="sorted")


def test_workers_give_the_same_packed_steps(byte_tokenizer):
    steps = StepDataset(CHATS, byte_tokenizer, num_examples=3, batching="packed", device_batch_tokens=32)
    loader = torch.utils.data.DataLoader(steps, batch_size=None, sampler=range(1, 4), num_workers=1)
    for number, loaded in enumerate(loader, 1):
        for ours, theirs in zip(steps[number].batches, loaded.batches, strict=True):
            assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.borders, theirs.borders)


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


def streams_of(lengths: list[int], **options):
    """A function that makes the same stream again and again, of documents whose tokens are their numbers."""
    documents = [[k] * n for k, n in enumerate(lengths)]
    return lambda: StreamDataset(documents, list, max_seq_len=8, device_batch_size=2, total_batch_size=16, **options)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any), st.integers(0, 11), st.integers(0, 2))
def test_a_stream_goes_on_from_the_place_that_a_step_names(lengths, stopped, further):
    make = streams_of(lengths)
    whole, again = make(), make()
    steps = [whole[step] for step in range(stopped + further + 2)]
    document, position = steps[stopped].place
    assert position <= 16 * (stopped + 1) <= position + lengths[document]
    again[0]  # as a job does, for an estimate
    again.start_at(document, position)
    for step in (stopped + 1 + further, stopped + 1, 0, stopped + 1):  # also over a gap, back, and there again
        assert torch.equal(again[step].batches[0].inputs, whole[step].batches[0].inputs)
        assert again[step].place == whole[step].place


def test_a_stream_that_goes_on_reads_no_document_before_its_place():
    read = []

    class Documents(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    documents = Documents([k] * 7 for k in range(40))
    stream = StreamDataset(documents, list, 4, 1, total_batch_size=20)
    assert stream[9].place == (28, 196)  # token 200 is in document 28, whose first is token 196
    again = StreamDataset(documents, list, 4, 1, total_batch_size=20)
    again.start_at(28, 196)
    read.clear()
    assert torch.equal(again[10].batches[0].inputs, stream[10].batches[0].inputs)
    assert set(read) == set(range(28, 32))


@settings(max_examples=60)
@given(
    st.lists(st.text() | st.sampled_from(["\udc80 half", "a" * 300]), min_size=1, max_size=150),
    st.integers(1, 3),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
)
def test_documents_encoded_together_in_threads_give_the_steps_of_one_at_a_time(texts, num_threads, steps):
    """With texts that cannot be encoded among them: skipped and told, or an error in the step that needs them."""
    tokenizer, rows = Tokenizer([bytes([b]) for b in range(256)]), [{"text": text} for text in texts]
    together = TextIds(tokenizer, num_threads)

    def stream(encode, on_bad_row):
        return StreamDataset(rows, encode, 8, 1, 32, on_bad_row)

    for on_bad_row in ("skip", "error"):
        one, many = stream(lambda row: together(row), on_bad_row), stream(together, on_bad_row)
        for step in steps:
            found = []
            for each in (one, many):
                try:
                    taken = each[step]
                    found.append(([b.inputs.tolist() for b in taken.batches], taken.left_out, taken.place))
                except ValueError as error:
                    found.append(str(error))
            assert found[0] == found[1]


class SomeBad:
    """Six conversations; 1 cannot be rendered, and 4 cannot even be read."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 4:
            raise ValueError("row 4: the answer 'E' is not among the letters A, B.")
        reply = {"role": "robot" if i == 1 else "assistant", "content": "yes"}
        return {"messages": [{"role": "user", "content": f"question {i}"}, reply], "where": f"row {i}"}


def test_rows_that_cannot_be_read_stop_training_or_are_skipped_and_told(byte_tokenizer):
    with pytest.raises(ValueError, match="row 1, turn 2: .*robot"):
        StepDataset(SomeBad(), byte_tokenizer, num_examples=3)[0]
    steps = StepDataset(SomeBad(), byte_tokenizer, num_examples=3, on_bad_row="skip")
    assert [steps[k].num_conversations for k in (0, 1, 2)] == [2, 2, 2]
    assert (steps[0].rows, steps[1].rows) == (["row 0", "row 2"], ["row 3", "row 5"])
    assert steps[0].left_out[0].startswith("row 1, turn 2:") and steps[0].left_out[0].endswith("Skipped.")
    assert steps[1].left_out == ["row 4: the answer 'E' is not among the letters A, B. Skipped."]
    with pytest.raises(ValueError, match="Unknown on_bad_row 'ignore'. There are: error, skip."):
        StepDataset(SomeBad(), byte_tokenizer, num_examples=3, on_bad_row="ignore")


def test_a_stream_skips_bad_documents_and_says_so_once_each_time_it_meets_them(byte_tokenizer):
    def encode(conversation):
        return render_conversation(conversation, byte_tokenizer)[0]

    with pytest.raises(ValueError, match="robot"):
        StreamDataset(SomeBad(), encode, 8, 1, 32)[1]
    stream = StreamDataset(SomeBad(), encode, 8, 1, 32, on_bad_row="skip")
    good = [encode(SomeBad()[k]) for k in (0, 2, 3, 5)]
    assert stream.tokens(0, 60) == (sum(good, []) * 3)[:60]
    assert stream.count_tokens() == sum(map(len, good))
    fresh = StreamDataset(SomeBad(), encode, 8, 1, 32, on_bad_row="skip")
    told = [line for k in range(3) for line in fresh[k].left_out]
    assert [line[:5] for line in told[:2]] == ["row 1", "row 4"]
    again = StreamDataset(SomeBad(), encode, 8, 1, 32, on_bad_row="skip")
    again.count_tokens()  # these look ahead, and must not swallow what training is to tell
    assert again[2].left_out == fresh[2].left_out
    assert [line for k in range(3) for line in again[k].left_out] == told


def test_a_stream_of_nothing_but_bad_or_empty_documents_ends_in_words():
    def refuse(document):
        raise ValueError(f"{document} is not text.")

    with pytest.raises(ValueError, match="None of the 2 documents can be read, the first: 7 is not text."):
        StreamDataset([7, 8], refuse, 8, 1, 32, on_bad_row="skip")[0]
    with pytest.raises(ValueError, match="All of the 2 documents are empty"):
        StreamDataset(["", ""], lambda document: [], 8, 1, 32)[0]
