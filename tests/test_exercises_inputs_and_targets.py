"""The checks of notebook 05 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest

import pytest

from nanolab.batch import IGNORE_INDEX, shift
from nanolab.exercises import inputs_and_targets
from nanolab.exercises.inputs_and_targets import (
    END,
    check_last_target,
    check_lost_and_added,
    check_mask_of,
    check_shift,
    last_target,
    lost_and_added,
    mask_of,
)
from tests.exercises import folded_solutions

RIGHT = [
    (check_shift, shift),
    (check_mask_of, mask_of),
    (check_lost_and_added, lost_and_added),
    (check_last_target, last_target),
]


def keeps_the_last_input(ids, mask):
    return ids, [i if bit else IGNORE_INDEX for i, bit in zip(ids[1:], mask[1:], strict=True)] + [IGNORE_INDEX]


def with_the_inputs_bits(ids, mask):
    return ids[:-1], [i if bit else IGNORE_INDEX for i, bit in zip(ids[1:], mask[:-1], strict=True)]


def without_a_shift(ids, mask):
    return ids[:-1], [i if bit else IGNORE_INDEX for i, bit in zip(ids[:-1], mask[:-1], strict=True)]


def counts_every_target(ids, mask):
    return ids[:-1], ids[1:]


def one_target_too_many(ids, mask):
    return ids[:-1], [*shift(ids, mask)[1], IGNORE_INDEX]


def changes(mask):
    """Positions where the bit differs from the one before: those of the targets, not of the inputs."""
    pairs = list(enumerate(zip(mask[:-1], mask[1:], strict=True), 1))
    return [t for t, (a, b) in pairs if b > a], [t for t, (a, b) in pairs if b < a]


def last_id_if_supervised(ids, mask, limit):
    return ids[-1] if mask[-1] else IGNORE_INDEX


def first_that_was_cut_off(ids, mask, limit):
    end = min(limit, len(ids) - 1)
    return ids[end] if mask[end] else IGNORE_INDEX


WRONG = [
    (check_shift, keeps_the_last_input, "Which of the ids is never a question"),
    (check_shift, with_the_inputs_bits, "that id's own mask bit"),
    (check_shift, without_a_shift, "The target is the next id"),
    (check_shift, counts_every_target, "my_shift's target is 4, expected -1"),
    (check_shift, one_target_too_many, "7 targets for 6 inputs"),
    (check_mask_of, lambda targets: [int(t != IGNORE_INDEX) for t in targets], "one token more than they are, 7"),
    (check_mask_of, lambda targets: [int(t != IGNORE_INDEX) for t in targets] + [0], "where its token stood"),
    (check_mask_of, lambda targets: [0] + [int(t > 0) for t in targets], "0 is an id like others"),
    (check_mask_of, lambda targets: [0] + [int(bool(t)) for t in targets], "Only -1 means masked"),
    (check_lost_and_added, lambda mask: lost_and_added(mask)[::-1], "the wrong way round"),
    (check_lost_and_added, changes, "Positions are those of the inputs, 0 to 5"),
    (check_lost_and_added, lambda mask: (lost_and_added(mask)[0], []), "compare at each of them"),
    (check_last_target, last_id_if_supervised, "limit 2: my_last_target gives 7"),
    (check_last_target, first_that_was_cut_off, "limit 5: my_last_target gives 2"),
    (check_last_target, lambda ids, mask, limit: ids[min(limit, len(ids)) - 1], "not one that the model is trained"),
    (check_last_target, lambda ids, mask, limit: IGNORE_INDEX, "The last token that is left is the last target"),
    (check_last_target, lambda ids, mask, limit: END, "limit 2: my_last_target gives 7"),
]


def test_the_folded_solutions_are_right():
    found = folded_solutions("05_inputs_and_targets", IGNORE_INDEX=IGNORE_INDEX)
    for check, _ in RIGHT:
        check(found[check.__name__.replace("check", "my")])


def test_a_shift_that_is_wrong_only_on_the_rows_given_is_refused():
    def forgets_long_ones(ids, mask):
        return shift(ids, mask) if len(ids) < 20 else with_the_inputs_bits(ids, mask)

    check_shift(forgets_long_ones)
    with pytest.raises(AssertionError, match="that id's own mask bit"):
        check_shift(forgets_long_ones, [(list(range(30)), [0] * 20 + [1] * 10)])


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(inputs_and_targets).failed == 0
