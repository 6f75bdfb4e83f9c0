"""The checks of notebook 13 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
from math import ceil, comb

import pandas as pd
import pytest
import torch

from nanolab.evaluate import Evaluation, chat_core, wilson_interval
from nanolab.exercises import grade
from nanolab.exercises.grade import (
    check_mean_centered,
    check_pass_at,
    check_pick_letter,
    check_problems_needed,
    mean_centered,
    pass_at_k,
    pick_letter,
    problems_needed,
)


def by_bisection(half_width):
    low, high = 1, 1_000_000
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wilson_interval(0.5, middle)[1] - 0.5 <= half_width else (middle + 1, high)
    return low


def without_torch(logits, letter_ids):
    exps = [float(logits[id]) for id in letter_ids]
    return exps.index(max(exps)), 1 / sum(2.718281828**x / 2.718281828 ** max(exps) for x in exps)


RIGHT = [
    (check_pick_letter, pick_letter),
    (check_pick_letter, without_torch),
    (check_problems_needed, problems_needed),
    (check_problems_needed, by_bisection),
    (check_mean_centered, mean_centered),
    (check_pass_at, pass_at_k),
]


def best_of_all(logits, letter_ids):
    return int(logits.argmax()), float(logits.softmax(-1).max())


def its_id(logits, letter_ids):
    best, probability = pick_letter(logits, letter_ids)
    return letter_ids[best], probability


def share_of_all(logits, letter_ids):
    best = int(logits[letter_ids].argmax())
    return best, float(logits.softmax(-1)[letter_ids[best]])


def first_letter(logits, letter_ids):
    return 0, float(logits[letter_ids].softmax(-1)[0])


def gains_only(accuracies, chances):
    return sum(a - c for a, c in zip(accuracies, chances, strict=True)) / len(accuracies)


def centred_at_the_end(accuracies, chances):
    accuracy, chance = sum(accuracies) / len(accuracies), sum(chances) / len(chances)
    return (accuracy - chance) / (1 - chance)


def never_below_0(accuracies, chances):
    centered = [max(0.0, (a - c) / (1 - c)) for a, c in zip(accuracies, chances, strict=True)]
    return sum(centered) / len(centered)


WRONG = [
    (check_pick_letter, best_of_all, "has not the largest logit"),
    (check_pick_letter, its_id, "your letter 2 has not the largest logit"),
    (check_pick_letter, share_of_all, "no other token takes part"),
    (check_pick_letter, first_letter, "has not the largest logit"),
    (check_problems_needed, lambda half_width: ceil(10 / half_width), "too few|fewer than"),  # not squared
    (check_problems_needed, lambda half_width: ceil((1.96 / half_width) ** 2), "would do"),  # the deviation is 1/2
    (check_problems_needed, lambda half_width: ceil(0.25 / half_width**2), "too few"),  # one deviation, not 1.96
    (check_problems_needed, lambda half_width: problems_needed(2 * half_width), "too few"),  # width for half of it
    (check_mean_centered, lambda accuracies, chances: sum(accuracies) / len(accuracies), "guesses has 0"),
    (check_mean_centered, gains_only, "always right has 1"),
    (check_mean_centered, centred_at_the_end, "then averaged"),
    (check_mean_centered, never_below_0, "below 0"),
    (check_pass_at, lambda k, n, c: 1 - (1 - c / n) ** k, "not drawn twice"),
    (check_pass_at, lambda k, n, c: c / n, "ways to choose"),
    (check_pass_at, lambda k, n, c: min(1, k * c / n), "ways to choose"),
    (check_pass_at, lambda k, n, c: comb(c, k) / comb(n, k), "ways to choose"),  # all k are right
]


def test_the_centred_mean_is_chat_core():
    evaluations = [
        Evaluation("ARC-Easy", 3, 4, 0.25, pd.DataFrame({"correct": [True, True, True, False]})),
        Evaluation("GSM8K", 1, 2, 0.0, pd.DataFrame({"correct": [True, False]})),
    ]
    assert mean_centered([0.75, 0.5], [0.25, 0.0]) == pytest.approx(chat_core(evaluations))


def test_pass_at_is_that_of_an_evaluation():
    table = pd.DataFrame({"problem": [0, 0, 0, 1, 1, 1], "correct": [True, False, False, True, True, False]})
    for k in (1, 2, 3):
        expected = (pass_at_k(k, 3, 1) + pass_at_k(k, 3, 2)) / 2
        assert Evaluation("GSM8K", 3, 2, 0.0, table).pass_at(k) == pytest.approx(expected)


def test_the_picked_letter_is_that_of_hand_written_logits():
    assert pick_letter(torch.tensor([0.0, 0.0, 1.0, 0.0]), [3, 2]) == (1, pytest.approx(0.7310586))


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(grade).failed == 0
