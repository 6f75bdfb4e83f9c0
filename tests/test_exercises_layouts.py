"""The checks of notebook 07 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import random

import pytest
import torch

from nanolab.batch import pack_batch
from nanolab.exercises import layouts
from nanolab.exercises.layouts import (
    buckets,
    check_buckets,
    check_may_see,
    check_pack,
    check_positions,
    may_see,
    packed,
    positions,
)
from tests.conftest import random_model
from tests.exercises import folded_solutions

RIGHT = [(check_pack, packed), (check_buckets, buckets), (check_positions, positions), (check_may_see, may_see)]


def alone(lengths, budget):
    return [[i] for i in range(len(lengths))]


def next_fit_without_looking(lengths, budget):
    """Opens a new row as soon as one is full, after it has put the conversation in."""
    rows = [[]]
    for i in range(len(lengths)):
        rows[-1].append(i)
        if sum(lengths[k] for k in rows[-1]) >= budget:
            rows.append([])
    return [row for row in rows if row]


def skips_what_does_not_fit(lengths, budget):
    row, room = [], budget
    for i, length in enumerate(lengths):
        if length <= room:
            row.append(i)
            room -= length
    return [row]


def in_order(lengths, budget):
    """Rows * width under the budget, but strangers side by side."""
    rows = [[]]
    for i in range(len(lengths)):
        if rows[-1] and (len(rows[-1]) + 1) * max(lengths[k] for k in [*rows[-1], i]) > budget:
            rows.append([])
        rows[-1].append(i)
    return rows


def running_on(borders):
    return list(range(borders[-1]))


def table(borders, may):
    document = [sum(start <= slot for start in borders) for slot in range(borders[-1])]
    return [[may(t, s, document) for s in range(borders[-1])] for t in range(borders[-1])]


WRONG = [
    (check_pack, alone, "these could be one row"),
    (check_pack, next_fit_without_looking, "40 is the most"),
    (check_pack, skips_what_does_not_fit, "are missing. Every one must be laid out"),
    (check_pack, lambda lengths, budget: [list(range(len(lengths)))], "204 slots of conversations"),
    (check_pack, lambda lengths, budget: packed(lengths, budget) + [[0]], "\\[0\\] are there more than once"),
    (check_pack, lambda lengths, budget: packed(lengths, budget) + [[]], "one of the lists is empty"),
    (check_buckets, packed, "Padding counts"),
    (check_buckets, in_order, "similar length belong together"),
    (check_buckets, alone, "12 micro-batches, 7 are enough"),
    (check_buckets, lambda lengths, budget: buckets(lengths, budget)[1:], "are missing"),
    (check_buckets, lambda lengths, budget: buckets(lengths, budget) + [[12]], "only the conversations 0 to 11"),
    (check_positions, running_on, "A document's first slot has position 0"),
    (check_positions, lambda borders: [p + 1 for p in positions(borders)], "expected \\[0, 1, 2, 3, 4, 0, 1, 0"),
    (check_positions, lambda borders: positions(borders)[:-1], "my_positions gives"),
    (check_may_see, lambda borders: table(borders, lambda t, s, d: s <= t), "they are of two documents"),
    (check_may_see, lambda borders: table(borders, lambda t, s, d: d[s] == d[t]), "No: s comes later"),
    (check_may_see, lambda borders: table(borders, lambda t, s, d: d[s] == d[t] and s < t), "output 0 see input 0"),
    (check_may_see, lambda borders: [list(row) for row in zip(*may_see(borders), strict=True)], "No: s comes later"),
    (check_may_see, lambda borders: [[True]], "should have 10 rows of 10"),
]


@pytest.mark.parametrize("longest", [50, 1500])
def test_the_folded_solutions_are_right_whatever_the_lengths(longest):
    found, draw = folded_solutions("07_layouts"), random.Random(longest)
    for _ in range(20):
        lengths = [draw.randint(1, longest) for _ in range(draw.randint(1, 40))]
        check_pack(found["my_pack"], lengths)
        check_buckets(found["my_buckets"], lengths)
    check_positions(found["my_positions"])
    check_may_see(found["my_may_see"])


def test_the_model_sees_what_the_exercise_says_that_it_may():
    model = random_model(vocab_size=32)
    row = pack_batch([([3, 4, 5, 6, 7], [0] * 5), ([8, 9, 10], [0] * 3), ([11, 12, 13, 14], [0] * 4)], pad_id=0)
    seen = []
    with torch.no_grad():
        before = model.hidden(row.inputs, borders=row.borders)[0]  # (T, C)
        for s in range(row.slots):
            inputs = row.inputs.clone()
            inputs[0, s] = 20
            after = model.hidden(inputs, borders=row.borders)[0]
            seen.append((after != before).any(dim=-1))  # (T,)
    assert torch.stack(seen, dim=1).tolist() == may_see(row.borders.tolist())


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(layouts).failed == 0
