"""Notebook 13: a letter is picked, a share is trusted, tasks are averaged, and several tries are worth something.

The functions on top are what the exercises ask for; `check_...` compares a learner's own with numbers worked out by
hand or by counting, so a check does not depend on them.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, count
from math import comb, inf, nextafter

import torch

from nanolab.evaluate import wilson_interval

CLOSE = 1e-6
# (V,) logits, the ids of the row's own letters, which of them it is, its probability among them
LETTERS = (
    ([0.0, 9.0, 2.0, 1.0, 1.0, 0.0], [2, 4, 3], 0, 0.576117),
    ([5.0, -2.0, -1.0, -3.0], [1, 2, 3], 1, 0.665241),
    ([0.0, 0.0, 1.0, 3.0], [0, 3], 1, 0.952574),
)
# accuracies, chances, ChatCORE
TASKS = (
    ([0.5, 0.3], [0.25, 0.0], (1 / 3 + 0.3) / 2),
    ([0.25, 1.0, 0.0], [0.25, 0.25, 0.0], 1 / 3),
    ([0.1], [0.25], -0.2),
)
# half of the interval, and the number of problems that is just enough
WIDTHS = ((0.2, 21), (0.1, 93), (0.05, 381), (0.025, 1_533))
TRIES = [(k, n, c) for n in (1, 4, 5) for k in range(1, n + 1) for c in range(n + 1)]


def pick_letter(logits: torch.Tensor, letter_ids: Sequence[int]) -> tuple[int, float]:
    """Which of the row's letters the logits (V,) behind its prompt prefer, and its probability among them.

    >>> pick_letter(torch.tensor([9.0, 0.0, 0.0]), [1, 2])
    (0, 0.5)
    """
    probabilities = logits[list(letter_ids)].softmax(-1)  # of the letters alone
    best = int(probabilities.argmax())
    return best, float(probabilities[best])


def problems_needed(half_width: float) -> int:
    """The least number of problems at which a share of one half is known to `half_width` on either side (95 %).

    >>> problems_needed(0.1)
    93
    """
    return next(number for number in count(1) if wilson_interval(0.5, number)[1] - 0.5 <= half_width)


def mean_centered(accuracies: Sequence[float], chances: Sequence[float]) -> float:
    """The mean over tasks of the accuracy on a scale on which guessing is 0 and everything right is 1.

    >>> mean_centered([1.0, 0.25], [0.25, 0.25])
    0.5
    """
    centered = [(a - chance) / (1 - chance) for a, chance in zip(accuracies, chances, strict=True)]
    return sum(centered) / len(centered)


def pass_at_k(k: int, n: int, c: int) -> float:
    """Chance that at least one of k replies is right, drawn without repetition from n of which c are right.

    Source: Evaluating Large Language Models Trained on Code, arXiv:2107.03374, section 2.1.

    >>> pass_at_k(2, 4, 1)
    0.5
    """
    return 1 - comb(n - c, k) / comb(n, k)


def check_pick_letter(mine: Callable[[torch.Tensor, Sequence[int]], tuple[int, float]]) -> None:
    """Refuse the best of all tokens, an id in place of the letter's number, and a share of all tokens.

    >>> check_pick_letter(pick_letter)
    Right: only the row's own letters are compared.
    """
    for logits, letter_ids, best, probability in LETTERS:
        got, sure = mine(torch.tensor(logits), letter_ids)
        about = f"Logits {logits}, letters at the ids {letter_ids}: "
        assert int(got) < len(letter_ids), f"{about}letters are counted from 0 to {len(letter_ids) - 1}, got {got}."
        assert int(got) == best, f"{about}your letter {int(got)} has not the largest logit of the row's letters."
        assert abs(float(sure) - probability) < 1e-4, (
            f"{about}the probability is {float(sure):.4f}, but those of all letters of the row should sum to 1: "
            "no other token takes part."
        )
    print("Right: only the row's own letters are compared.")


def check_problems_needed(mine: Callable[[float], int]) -> None:
    """Refuse numbers that are not enough, and those with which fewer problems would do.

    >>> check_problems_needed(problems_needed)
    Right: enough, and not one too many.
    """
    for half_width, enough in WIDTHS:
        got = mine(nextafter(half_width, inf))  # so that rounding decides nothing
        about = f"To know a share of one half to {half_width:.1%} on either side, "
        assert got >= enough, f"{about}{got:,} problems are too few: wilson_interval(0.5, {got}) is wider than that."
        assert got <= enough, f"{about}fewer than {got:,} problems would do: try wilson_interval(0.5, {got - 1:,})."
    print("Right: enough, and not one too many.")


def check_mean_centered(mine: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """Refuse plain means, gains over chance that are not scaled, centred means, and a floor at 0.

    >>> check_mean_centered(mean_centered)
    Right: every task on its own scale, then the mean.
    """
    guessing, perfect = mine([0.25, 0.5, 0.0], [0.25, 0.5, 0.0]), mine([1.0, 1.0, 1.0], [0.25, 0.5, 0.0])
    assert abs(guessing) < CLOSE, f"A model that guesses has 0, yours says {guessing:.4f}."
    assert abs(perfect - 1) < CLOSE, f"A model that is always right has 1, yours says {perfect:.4f}."
    for accuracies, chances, expected in TASKS:
        got = mine(accuracies, chances)
        hint = (
            "worse than guessing is below 0" if expected < 0 else "each task is put on the scale first, then averaged"
        )
        assert abs(got - expected) < CLOSE, f"Accuracies {accuracies}, chances {chances}: yours is {got:.4f}; {hint}."
    print("Right: every task on its own scale, then the mean.")


def check_pass_at(mine: Callable[[int, int, int], float]) -> None:
    """Compare with counting: of all ways to choose k of n replies, how many hold one that is right.

    >>> check_pass_at(pass_at_k)
    Right for all 52 cases, each counted.
    """
    for k, n, c in TRIES:
        right = [i < c for i in range(n)]
        chosen = list(combinations(right, k))
        expected = sum(map(any, chosen)) / len(chosen)
        got = mine(k, n, c)
        assert abs(got - expected) < CLOSE, (
            f"n = {n} replies, c = {c} of them right: {sum(map(any, chosen))} of the {len(chosen)} ways to choose "
            f"k = {k} hold a right one, yours says {got:.4f}. (A reply is not drawn twice.)"
        )
    print(f"Right for all {len(TRIES)} cases, each counted.")
