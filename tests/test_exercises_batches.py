"""The checks of notebook 06 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import math

import pytest

from nanolab.batch import IGNORE_INDEX, StepDataset, shift
from nanolab.exercises import batches
from nanolab.exercises.batches import (
    LENGTHS,
    check_conversations_of,
    check_pad,
    check_padding_share,
    check_real_lengths,
    conversations_of,
    padded_lists,
    padding_share,
)
from nanolab.show import real_row_lengths
from tests.exercises import folded_solutions

RIGHT = [
    (check_padding_share, padding_share),
    (check_real_lengths, real_row_lengths),
    (check_pad, padded_lists),
    (check_conversations_of, conversations_of),
]


def groups(lengths, size):
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


def without_the_shift(lengths, size):
    return 1 - sum(lengths) / sum(len(group) * max(group) for group in groups(lengths, size))


def mean_of_the_batches(lengths, size):
    shares = [1 - sum(n - 1 for n in group) / (len(group) * (max(group) - 1)) for group in groups(lengths, size)]
    return sum(shares) / len(shares)


def last_batch_filled_up(lengths, size):
    return 1 - sum(n - 1 for n in lengths) / sum(size * (max(group) - 1) for group in groups(lengths, size))


def one_width_for_all(lengths, size):
    return 1 - sum(n - 1 for n in lengths) / (len(lengths) * (max(lengths) - 1))


def pad_with(rows, width, fill_input, fill_target, left=False):
    inputs, targets = [], []
    for row, wanted in (shift(ids, mask) for ids, mask in rows):
        tails = [fill_input] * (width - len(row)), [fill_target] * (width - len(row))
        inputs.append(tails[0] + row if left else row + tails[0])
        targets.append(tails[1] + wanted if left else wanted + tails[1])
    return inputs, targets


def widest(rows):
    return max(len(ids) for ids, _ in rows)


WRONG = [
    (check_padding_share, without_the_shift, "4 \\+ 8 \\+ 2 positions are real"),
    (check_padding_share, mean_of_the_batches, "18 slots together"),
    (check_padding_share, last_batch_filled_up, "\\(2, 8\\) and \\(1, 2\\)"),
    (check_padding_share, one_width_for_all, "18 slots together"),
    (check_padding_share, lambda lengths, size: 1 - padding_share(lengths, size), "my_padding_share says 0.7778"),
    (check_padding_share, lambda lengths, size: padding_share(sorted(lengths), size), "4 \\+ 8 \\+ 2 positions"),
    (check_real_lengths, lambda i, t, pad: [sum(x != pad for x in row) for row in i], "may also end a turn"),
    (
        check_real_lengths,
        lambda i, t, pad: [sum(x != IGNORE_INDEX for x in row) for row in t],
        "my_real_lengths says 2",
    ),
    (check_real_lengths, lambda i, t, pad: [len(row) for row in i], "Padding is only the tail"),
    (check_real_lengths, lambda i, t, pad: [row.index(pad) if pad in row else len(row) for row in i], "end a turn in"),
    (
        check_real_lengths,
        lambda i, t, pad: [max(k for k, x in enumerate(row) if x != IGNORE_INDEX) + 1 for row in t],
        "even the last one",
    ),
    (check_real_lengths, lambda i, t, pad: [len(i[0])], "has 4 rows, my_real_lengths gives 1 numbers"),
    (check_pad, lambda rows, pad: pad_with(rows, widest(rows), pad, IGNORE_INDEX), "have 13 columns"),
    (check_pad, lambda rows, pad: pad_with(rows, widest(rows) - 1, pad, pad), "to stop again and again"),
    (check_pad, lambda rows, pad: pad_with(rows, widest(rows) - 1, IGNORE_INDEX, IGNORE_INDEX), "7 fills the tail"),
    (check_pad, lambda rows, pad: pad_with(rows, widest(rows) - 1, pad, IGNORE_INDEX, left=True), "comes first"),
    (check_conversations_of, lambda s, n, rows: list(range(s * n, (s + 1) * n)), "After the last row comes the first"),
    (check_conversations_of, lambda s, n, rows: list(range(s * n, min((s + 1) * n, rows))), "rows \\[8, 9, 0, 1\\]"),
    (
        check_conversations_of,
        lambda s, n, rows: [s % math.ceil(rows / n) * n + k for k in range(n)],
        "After the last row comes the first",
    ),
    (check_conversations_of, lambda s, n, rows: [(s + k) % rows for k in range(n)], "rows \\[4, 5, 6, 7\\]"),
]


def test_a_share_that_is_right_only_in_the_case_by_hand_is_refused_on_the_lengths_given():
    with pytest.raises(AssertionError, match="7 conversations, 1 a batch: 0.0000 of all slots are padding"):
        check_padding_share(lambda lengths, size: 1 - 14 / 18, LENGTHS)


def test_the_folded_solutions_are_right():
    found = folded_solutions("06_batches", IGNORE_INDEX=IGNORE_INDEX, shift=shift)
    for check, _ in RIGHT:
        check(found[check.__name__.replace("check", "my")])


def test_the_data_loader_takes_the_rows_that_the_exercise_names(small_tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    mixture = [{"where": f"row {k}", "messages": turns} for k in range(10)]
    steps = StepDataset(mixture, small_tokenizer, num_examples=4)
    for step in range(6):
        assert steps[step].rows == [f"row {k}" for k in conversations_of(step, 4, len(mixture))]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(batches, extraglobs={"real_row_lengths": real_row_lengths}).failed == 0
