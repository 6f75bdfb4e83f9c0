"""The checks of notebook 15 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import math

import pytest

from nanolab.exercises import full_run
from nanolab.exercises.full_run import (
    check_cost,
    check_largest,
    check_telling,
    largest_micro_batch,
    run_cost,
    telling_seconds,
)
from nanolab.full_run import FullRun
from nanolab.settings import check_settings
from tests.exercises import folded_solutions

RIGHT = [(check_cost, run_cost), (check_largest, largest_micro_batch), (check_telling, telling_seconds)]


def rounded_up(weights, ratio, total, rate):
    steps = math.ceil(weights * ratio / total)
    return steps, steps * total, 6 * weights * steps * total / rate / 3600


def not_whole(weights, ratio, total, rate):
    return weights * ratio // total, weights * ratio, 6 * weights * weights * ratio / rate / 3600


def with_hours_times(factor):
    def wrong(*run):
        steps, tokens, hours = run_cost(*run)
        return steps, tokens, hours * factor

    return wrong


def most_rows_whether_they_divide_or_not(fits, total, length, ranks):
    share = total // length // ranks
    rows = max(rows for rows in range(1, share + 1) if fits(rows))
    return rows, math.ceil(share / rows)


def powers_of_two(fits, total, length, ranks):
    share, rows = total // length // ranks, 1
    while 2 * rows <= share and fits(2 * rows) and share % (2 * rows) == 0:
        rows *= 2
    return rows, share // rows


def of_all_ranks(fits, total, length, ranks):
    return largest_micro_batch(fits, total, length, 1)


WRONG = [
    (check_cost, rounded_up, "Only whole steps are made"),
    (check_cost, not_whole, "As many as its steps have"),
    (check_cost, with_hours_times(1 / 3), "twice that backward"),
    (check_cost, with_hours_times(3600), "An hour has 3600 seconds"),
    (check_cost, with_hours_times(1 / 8), "hours of a GPU"),
    (check_largest, most_rows_whether_they_divide_or_not, "all of one size"),
    (check_largest, powers_of_two, "micro-batches of 3 rows, 2 of them"),
    (check_largest, of_all_ranks, "Each rank has an equal share"),
    (check_largest, lambda fits, total, length, ranks: (total // length // ranks, 1), "which do not fit"),
    (check_telling, lambda weights, ranks, speed: 4 * weights / speed, "all but its own part twice"),
    (check_telling, lambda weights, ranks, speed: telling_seconds(weights, ranks, speed) / 2, "my_telling says"),
    (check_telling, lambda weights, ranks, speed: telling_seconds(weights, ranks, speed) / 4, "has four bytes"),
    (check_telling, lambda weights, ranks, speed: telling_seconds(weights, ranks, speed) * ranks, "my_telling says"),
]


def test_the_folded_solutions_are_right():
    found = folded_solutions("15_full_run")
    check_cost(found["my_cost"])
    check_largest(found["my_largest"])
    check_telling(found["my_telling"])


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_the_largest_micro_batch_is_one_that_a_run_takes(ranks):
    rows, number = largest_micro_batch(lambda rows: rows <= 5, 24_576, 256, ranks)
    full = FullRun(nproc=ranks, device_batch_size=rows, total_batch_size=24_576, max_seq_len=256)
    check_settings(full.config("base"))
    assert rows * number * ranks * 256 == 24_576


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(full_run).failed == 0
