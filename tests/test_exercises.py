"""Every check with a list of right and of planted wrong answers accepts the ones and refuses the others, in words.

The lists stand in the file of each notebook, beside what only that notebook's checks need.
"""

import importlib
from collections import Counter

import pytest
import torch

NAMES = (
    "active_tokens",
    "base_and_mid",
    "batches",
    "full_run",
    "grade",
    "inputs_and_targets",
    "layouts",
    "mixtures",
    "sft",
    "talk",
)
FILES = [importlib.import_module(f"tests.test_exercises_{name}") for name in NAMES]
RIGHT = [pair for file in FILES for pair in file.RIGHT]
WRONG = [planted for file in FILES for planted in file.WRONG]


def named(value) -> str:
    return getattr(value, "__name__", "")


def rounded(value):
    """A result with its floats as a float32 tensor would give them."""
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float32).item()
    if isinstance(value, list | tuple):
        return type(value)(map(rounded, value))
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=named)
def test_a_right_answer_is_accepted_in_words(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("check", "answer"), [pair for pair in RIGHT if callable(pair[1])], ids=named)
def test_a_right_answer_computed_in_float32_is_right(check, answer):
    check(lambda *given, **named: rounded(answer(*given, **named)))


@pytest.mark.parametrize(("check", "answer", "sentence"), WRONG, ids=named)
def test_a_planted_wrong_answer_is_refused(check, answer, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(answer)


def test_each_check_refuses_at_least_two_planted_answers():
    planted = Counter(check for check, _, _ in WRONG)
    assert {named(check): planted[check] for check, _ in RIGHT if planted[check] < 2} == {}
