"""The checks of notebook 01 accept right answers and refuse planted wrong ones, with a sentence that helps."""

import random

import numpy as np
import pytest

from nanolab.exercises.mixtures import (
    check_index_map,
    check_new_rows,
    check_rows_needed,
    check_target_shares,
    index_map,
    new_rows,
    rows_needed,
    target_shares,
)


def all_pairs(lengths):
    return [(task, row) for task, length in enumerate(lengths) for row in range(length)]


def shuffled(pairs, seed=42):
    random.Random(seed).shuffle(pairs)
    return pairs


def shuffled_task_by_task(lengths):
    return [pair for task in range(len(lengths)) for pair in shuffled([(task, row) for row in range(lengths[task])])]


def by_numpy(lengths):
    pairs = all_pairs(lengths)
    return [pairs[i] for i in np.random.default_rng(42).permutation(len(pairs))]


def of_a_dict(entries, stage):
    """Loses the first of two entries of the same name."""
    totals = {name: rows * (tokens if stage == "mid" else spoken) for name, rows, tokens, spoken in entries}
    return {name: total / sum(totals.values()) for name, total in totals.items()}


def without_repeats(mid, sft):
    seen = {}
    for name, rows in mid:
        seen[name] = seen.get(name, 0) + rows  # as if listing a task twice showed other rows
    return sum(max(rows - seen.get(name, 0), 0) for name, rows in sft)


RIGHT = [
    (check_index_map, lambda lengths: shuffled(all_pairs(lengths))),
    (check_index_map, index_map),
    (check_rows_needed, lambda others, share, per_row: others * share / (1 - share) / per_row),
    (check_rows_needed, lambda others, share, per_row: int(others * share / (1 - share) // per_row)),
    (check_rows_needed, rows_needed),
    (check_target_shares, target_shares),
    (check_new_rows, new_rows),
]

WRONG = [
    (check_index_map, all_pairs, "still in order"),
    (check_index_map, lambda lengths: shuffled(all_pairs(lengths), seed=0), "the order begins with"),
    (check_index_map, by_numpy, "the order begins with"),
    (check_index_map, shuffled_task_by_task, "the order begins with"),
    (check_index_map, lambda lengths: [(row, task) for task, row in index_map(lengths)], r"pairs \(task number, row\)"),
    (check_index_map, lambda lengths: [(t + 1, row + 1) for t, row in index_map(lengths)], "counted from 0"),
    (check_rows_needed, lambda others, share, per_row: others * share / per_row, "count in the total as well"),
    (check_rows_needed, lambda others, share, per_row: others * share / (1 - share), "was asked for"),
    (check_rows_needed, lambda others, share, per_row: others / 9 / 2, "was asked for"),
    (check_target_shares, lambda entries, stage: target_shares(entries, "sft"), "mid: the share of"),
    (check_target_shares, lambda entries, stage: target_shares(entries, "mid"), "sft: the share of"),
    (check_target_shares, of_a_dict, "may be listed twice"),
    (
        check_target_shares,
        lambda entries, stage: target_shares([(name, rows, 1, 1) for name, rows, _, _ in entries], stage),
        "mid: the share of",
    ),
    (
        check_target_shares,
        lambda entries, stage: {name: 100 * share for name, share in target_shares(entries, stage).items()},
        "together must be 1",
    ),
    (check_target_shares, lambda entries, stage: {"Identity": 1.0}, "The tasks are"),
    (check_new_rows, without_repeats, "shows the same rows twice"),
    (
        check_new_rows,
        lambda mid, sft: sum(rows for name, rows in sft if name not in dict(mid)),
        "first rows of its task",
    ),
    (check_new_rows, lambda mid, sft: sum(dict(sft).values()) - sum(dict(mid).values()), "my_new_rows says"),
]


def test_the_real_sft_run_begins_with_the_word_problem_3979():
    assert index_map([2251, 1119, 7473, 10_000, 996, 300, 300])[:2] == [(2, 3979), (3, 483)]


def test_rows_are_rounded_up_and_whole_numbers_stay():
    assert rows_needed(900, 0.1, 2) == 50
    assert rows_needed(901, 0.1, 2) == 51


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match='stage must be "mid" or "sft"'):
        target_shares([("Chat", 1, 2.0, 1.0)], "base")
