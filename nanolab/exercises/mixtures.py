"""Checks of notebook 01: the order of a mixture, what its tasks weigh, and which rows are new to SFT.

The functions on top are what the exercises ask for; `check_...` compares a learner's own with numbers worked out by
hand, but for the order of a long mixture, which is TaskMixture's.
"""

import math
from collections.abc import Callable, Sequence

from nanolab.tasks import TaskMixture

STAGES = ("mid", "sft")
LENGTHS = ((5,), (2, 3), (2251, 1119, 7473, 10_000, 996, 300, 300))  # the last is nanochat's SFT
NEEDED = (  # supervised tokens of all others, share, supervised tokens a row, rows
    (900, 0.1, 2, 50),
    (8_000, 0.5, 2, 4_000),
    (6_000, 0.25, 100, 20),
)
# Name, rows, tokens a row, supervised tokens a row. Two of the entries are one task.
ENTRIES = (
    ("Identity", 10, 20.0, 12.0),
    ("MMLU", 20, 50.0, 2.0),
    ("Identity", 10, 20.0, 12.0),
    ("GSM8K", 8, 75.0, 65.0),
)
SHARES = {
    "mid": {"Identity": 0.2, "MMLU": 0.5, "GSM8K": 0.3},
    "sft": {"Identity": 0.3, "MMLU": 0.05, "GSM8K": 0.65},
}
OLD_AND_NEW = (  # mid, SFT, rows that SFT is the first to show
    ([("Chat", 100), ("Maths", 50)], [("Chat", 10), ("Maths", 50)], 0),
    ([("Chat", 100), ("Choice", 80)], [("Science", 30), ("Chat", 40)], 30),
    ([("Chat", 100), ("Identity", 20), ("Identity", 20)], [("Chat", 130), ("Identity", 35)], 45),
)
CLOSE = 1e-6  # a float32 tensor is as good


def index_map(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The (task number, row) of each row of a mixture of tasks of these lengths, in the mixture's order.

    >>> index_map([2, 3])
    [(1, 1), (0, 1), (1, 0), (1, 2), (0, 0)]
    """
    return TaskMixture([range(length) for length in lengths]).index_map


def rows_needed(others: int, share: float, per_row: float) -> int:
    """How many rows give a task that share of all supervised tokens, its own included; rounded up.

    `others`: supervised tokens of all other tasks. `per_row`: supervised tokens of one of its rows.

    >>> rows_needed(900, 0.1, 2)
    50
    """
    return math.ceil(others * share / (1 - share) / per_row - CLOSE)


def target_shares(entries: Sequence[tuple[str, int, float, float]], stage: str) -> dict[str, float]:
    """Each task's share of the targets of a stage: of all tokens in "mid", of the supervised ones in "sft".

    An entry is (name, rows, tokens a row, supervised tokens a row); a task that is listed twice counts twice.
    Raises ValueError for another stage.

    >>> target_shares([("Chat", 1, 30.0, 9.0), ("Choice", 2, 35.0, 0.5)], "sft")
    {'Chat': 0.9, 'Choice': 0.1}
    """
    if stage not in STAGES:
        raise ValueError(f'stage must be "mid" or "sft", got {stage!r}.')
    totals: dict[str, float] = {}
    for name, rows, tokens, supervised in entries:
        totals[name] = totals.get(name, 0.0) + rows * (tokens if stage == "mid" else supervised)
    return {name: total / sum(totals.values()) for name, total in totals.items()}


def new_rows(mid: Sequence[tuple[str, int]], sft: Sequence[tuple[str, int]]) -> int:
    """How many of SFT's rows mid training has not shown; an entry (name, n) takes the first n rows of that task.

    >>> new_rows([("Chat", 100)], [("Chat", 120), ("ARC", 7)])
    27
    """
    seen: dict[str, int] = {}
    for name, rows in mid:
        seen[name] = max(rows, seen.get(name, 0))
    return sum(max(rows - seen.get(name, 0), 0) for name, rows in sft)


def check_index_map(my_index_map: Callable[[Sequence[int]], Sequence[tuple[int, int]]]) -> None:
    """Check `my_index_map(lengths)`: all pairs (task number, row), in the order of a TaskMixture.

    Raises AssertionError that tells missing pairs, no shuffle and another shuffle apart.

    >>> check_index_map(index_map)
    my_index_map is right for 3 mixtures.
    """
    for lengths in LENGTHS:
        got, expected = [tuple(pair) for pair in my_index_map(list(lengths))], index_map(lengths)
        assert sorted(got) == sorted(expected), (
            f"Tasks of {lengths} rows make {len(expected):,} pairs (task number, row), each once and counted from 0; "
            f"yours are {len(got):,} and begin with {got[:3]}."
        )
        assert got != sorted(got), f"The pairs of {lengths} are still in order: {got[:4]} ..."
        assert got == expected, (
            f"For {lengths} the order begins with {expected[:4]}, yours with {got[:4]}. Write down all pairs, task "
            "after task, then shuffle them once, together, with random.Random(42)."
        )
    print(f"my_index_map is right for {len(LENGTHS)} mixtures.")


def check_rows_needed(my_rows_needed: Callable[[int, float, float], float]) -> None:
    """Check `my_rows_needed(others, share, per_row)`: rows for a share of all supervised tokens, to within a row.

    Raises AssertionError with the share that the answer leads to.

    >>> check_rows_needed(rows_needed)
    my_rows_needed is right for 3 mixtures.
    """
    for others, share, per_row, expected in NEEDED:
        got = my_rows_needed(others, share, per_row)
        own = got * per_row  # supervised tokens
        assert abs(got - expected) < 1 + CLOSE, (
            f"{got:,.1f} rows of {per_row} supervised tokens beside {others:,} others are "
            f"{own / (own + others):.1%} of all, {share:.0%} was asked for. The rows that are added count in "
            "the total as well."
        )
    print(f"my_rows_needed is right for {len(NEEDED)} mixtures.")


def check_target_shares(
    my_target_shares: Callable[[Sequence[tuple[str, int, float, float]], str], dict[str, float]],
) -> None:
    """Check `my_target_shares(entries, stage)`: each task's share of what is learned in "mid" and in "sft".

    Raises AssertionError with the stage and the task.

    >>> check_target_shares(target_shares)
    my_target_shares is right in mid and in sft.
    """
    for stage, expected in SHARES.items():
        got = dict(my_target_shares(list(ENTRIES), stage))
        assert set(got) == set(expected), f"The tasks are {sorted(expected)}, yours {sorted(got)}."
        total = sum(got.values())
        assert abs(total - 1) < CLOSE, f"{stage}: all shares together must be 1, yours are {total:.4g}."
        for name, share in expected.items():
            assert abs(got[name] - share) < CLOSE, (
                f"{stage}: the share of {name} should be {share:.4f}, yours is {got[name]:.4f}. A task's targets are "
                "rows times tokens a row, in mid all tokens, in sft the supervised ones; a task may be listed twice."
            )
    print("my_target_shares is right in mid and in sft.")


def check_new_rows(my_new_rows: Callable[[Sequence[tuple[str, int]], Sequence[tuple[str, int]]], int]) -> None:
    """Check `my_new_rows(mid, sft)`: how many of SFT's rows mid training has not shown.

    Raises AssertionError with the two lists and the right number.

    >>> check_new_rows(new_rows)
    my_new_rows is right for 3 pairs of mixtures.
    """
    for mid, sft, expected in OLD_AND_NEW:
        got = my_new_rows(list(mid), list(sft))
        assert got == expected, (
            f"Of {sft} there are {expected} rows that were not in {mid}; my_new_rows says {got}. An entry takes the "
            "first rows of its task, and listing it twice shows the same rows twice."
        )
    print(f"my_new_rows is right for {len(OLD_AND_NEW)} pairs of mixtures.")
