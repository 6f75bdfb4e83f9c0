"""Checks of notebook 12: a rule that never stops, where targets go, luck in pairs, order of sums, first difference."""

import math
from collections.abc import Callable, Sequence

import torch

from nanolab.batch import IGNORE_INDEX, Row
from nanolab.experiments import Rule, assistant_only, first_difference, paired_difference, share_of_assistant

CLOSE = 1e-6  # a float32 tensor is as good
LARGEST = 10
END = 7  # plays <|assistant_end|> in the rows below
ROWS: tuple[Row, ...] = (
    ([3, 4, 1, 5, 6, 2, END], [0, 0, 0, 0, 0, 1, 1]),
    ([3, 4, 1, 1, 5, 6, 2, END, 4, 1, 5, 6, 2, 2, END], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]),
    ([3, 4, END, 5, 6, 2, END], [0, 0, 0, 0, 0, 1, 1]),  # a user may say that id too: it is masked already
    ([3, 4, 1, 5], [0, 0, 0, 0]),
)
PAIRS = (([3.0, 5.0, 4.0], [2.0, 4.5, 4.0]), ([1.0, 1.0], [2.0, 2.0]), ([0.5, 9.0, 4.0, 2.0], [0.4, 9.0, 3.8, 2.1]))
RUNS = (
    ([6.9, 5.0, 4.0], [6.9, 5.0, 4.0]),
    ([6.9, 5.0, 4.0], [6.9, 5.0, math.nextafter(4.0, 5.0)]),
    ([6.9, 5.0, 4.0], [6.8, 5.0, 4.0]),
    ([6.9, 5.0, 4.0], [6.9, 5.1, 4.0]),
)


def check_without_end(my_rule: Callable[[Sequence[int], Sequence[int], int], list[int]]) -> None:
    """Check `my_rule(ids, mask, end)`: the targets of chat training, but never the id `end`.

    Raises AssertionError with the conversation, what was given and what was expected.

    >>> check_without_end(without_end)
    my_rule is right for 4 conversations: a model trained with it would never stop.
    """
    for ids, mask in ROWS:
        expected = without_end(ids, mask, END)
        got = list(my_rule(list(ids), list(mask), END))
        assert len(got) == len(ids) - 1, f"There must be one target an input, {len(ids) - 1}; my_rule gives {len(got)}."
        assert END not in got, f"{END} is still a target in {got}: the model would learn to stop."
        assert got == expected, f"Of ids {ids} and mask {mask} my_rule makes {got}, expected {expected}."
    print(f"my_rule is right for {len(ROWS)} conversations: a model trained with it would never stop.")


def without_end(ids: Sequence[int], mask: Sequence[int], end: int) -> list[int]:
    """The targets of chat training, but never the id `end`.

    >>> without_end([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1], end=7)
    [-1, -1, -1, -1, 2, -1]
    """
    return [IGNORE_INDEX if target == end else target for target in assistant_only(ids, mask)]


def as_rule(my_rule: Callable[[Sequence[int], Sequence[int], int], list[int]], end: int) -> Rule:
    """A rule of (ids, mask) from one of (ids, mask, end), to train with it.

    >>> as_rule(without_end, 7)([3, 6, 2, 7], [0, 0, 1, 1])
    [-1, 2, -1]
    """
    return lambda ids, mask: my_rule(ids, mask, end)


def check_share(my_share: Callable[[Sequence[Row]], float]) -> None:
    """Check `my_share(rows)`: of all next tokens of these conversations, the share that the assistant says.

    Raises AssertionError with the expected share.

    >>> check_share(share_of_assistant)
    my_share is right for 4 conversations.
    """
    for rows in (ROWS[:1], ROWS[:2], ROWS):
        expected, got = share_of_assistant(rows), float(my_share(rows))
        assert abs(got - expected) < CLOSE, (
            f"For {len(rows)} conversations my_share says {got:.4f}, expected {expected:.4f}. Count over all "
            "conversations first, then divide; and nobody has to say the first id."
        )
    print(f"my_share is right for {len(ROWS)} conversations.")


def check_paired(my_paired: Callable[[Sequence[float], Sequence[float]], tuple[float, float]]) -> None:
    """Check `my_paired(a, b)`: the mean of the pairs' differences a - b, and its standard error.

    Raises AssertionError with the pairs and what was expected.

    >>> check_paired(paired_difference)
    my_paired is right for 3 lists of pairs.
    """
    for a, b in PAIRS:
        expected, got = paired_difference(a, b), tuple(float(number) for number in my_paired(list(a), list(b)))
        assert len(got) == 2, f"my_paired must return a mean and a standard error, got {got}."
        assert abs(got[0] - expected[0]) < CLOSE, (
            f"The mean of a - b of {a} and {b} is {expected[0]:.4f}, not {got[0]:.4f}."
        )
        assert abs(got[1] - expected[1]) < CLOSE, (
            f"The standard error for {a} and {b} is {expected[1]:.4f}, not {got[1]:.4f}: take the differences of the "
            "pairs first, their standard deviation (dividing by n - 1), and divide by the root of n."
        )
    print(f"my_paired is right for {len(PAIRS)} lists of pairs.")


def check_order_matters(my_numbers: Sequence[float]) -> None:
    """Check that three numbers a, b, c, none above 10, have another float32 sum as (a + b) + c than as a + (b + c).

    Raises AssertionError with both sums.

    >>> check_order_matters((10.0, -10.0, 2.0**-24))
    (a + b) + c = 5.960464477539063e-08, a + (b + c) = 0.0
    """
    assert len(my_numbers) == 3, f"Three numbers are wanted, got {len(my_numbers)}."
    assert all(abs(number) <= LARGEST for number in my_numbers), f"None may be above {LARGEST}: {tuple(my_numbers)}."
    a, b, c = torch.tensor(my_numbers, dtype=torch.float32)
    left, right = ((a + b) + c).item(), (a + (b + c)).item()
    assert left != right, (
        f"Both sums are {left}. A float32 has 24 bits: when does a small number vanish in a large one?"
    )
    print(f"(a + b) + c = {left}, a + (b + c) = {right}")


def check_first_difference(my_first_difference: Callable[[Sequence[float], Sequence[float]], int | None]) -> None:
    """Check `my_first_difference(a, b)`: the first step whose losses are not the same number, None if all are.

    Raises AssertionError with the runs and the expected step.

    >>> check_first_difference(first_difference)
    my_first_difference is right for 4 pairs of runs.
    """
    for a, b in RUNS:
        expected, got = first_difference(a, b), my_first_difference(list(a), list(b))
        assert got == expected and (got is None) == (expected is None), (
            f"For {a} and {b} the answer is {expected}, not {got}. Equal to the bit means ==, without any tolerance; "
            "steps count from 0, runs that never differ give None."
        )
    print(f"my_first_difference is right for {len(RUNS)} pairs of runs.")
