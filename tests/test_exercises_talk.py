"""The checks of notebook 14 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import random

import pytest
import torch

from nanolab.engine import Engine, _Row, sample
from nanolab.exercises import talk
from nanolab.exercises.talk import (
    CALLS,
    REPLIES,
    check_forced,
    check_probabilities,
    check_results,
    check_say,
    forced,
    probabilities,
    results,
    say,
)


def say_by_counting(prompt, next_token, stops, max_tokens):
    said = []
    for _ in range(max_tokens):
        token = next_token([*prompt, *said])
        if token in stops:
            return said
        said.append(token)
    return said


def probabilities_by_hand(logits, temperature, top_k=None):
    kept = sorted(logits, reverse=True)[:top_k]
    powers = [2.718281828459045 ** (x / temperature) if x in kept else 0.0 for x in logits]
    return [power / sum(powers) for power in powers]


RIGHT = [
    (check_probabilities, probabilities),
    (check_probabilities, probabilities_by_hand),
    (check_say, say),
    (check_say, say_by_counting),
    (check_forced, forced),
    (check_results, results()),
]


def softmax(values):
    return torch.tensor(values, dtype=torch.float64).softmax(-1)


def times_temperature(logits, temperature, top_k):
    return probabilities(logits, 1 / temperature, top_k)


def temperature_after_softmax(logits, temperature, top_k):
    shares = softmax(logits) / temperature
    return (shares / shares.sum()).tolist()


def cut_after_softmax(logits, temperature, top_k):
    shares = softmax([x / temperature for x in logits])
    kept = shares.topk(min(top_k or 4, 4)).indices
    return [float(p) if k in kept else 0.0 for k, p in enumerate(shares)]


def without_top_k(logits, temperature, top_k):
    return probabilities(logits, temperature)


def with_its_stop(prompt, next_token, stops, max_tokens):
    said = say_by_counting(prompt, next_token, [], max_tokens)
    ends = [k for k, token in enumerate(said) if token in stops]
    return said[: ends[0] + 1] if ends else said


def with_the_prompt(prompt, next_token, stops, max_tokens):
    return [*prompt, *say(prompt, next_token, stops, max_tokens)]


def only_the_first_stop(prompt, next_token, stops, max_tokens):
    return say(prompt, next_token, stops[:1], max_tokens)


def prompt_counts(prompt, next_token, stops, max_tokens):
    return say(prompt, next_token, stops, max_tokens - len(prompt))


def asks_to_the_end(prompt, next_token, stops, max_tokens):
    said = [next_token([*prompt]) for _ in range(max_tokens)]
    return say(prompt, lambda ids: said[len(ids) - len(prompt)], stops, max_tokens)


def forgets_what_it_said(prompt, next_token, stops, max_tokens):
    return say(prompt, lambda ids: next_token(list(prompt)), stops, max_tokens)


def between_output_marks(tokens):
    inside, found = False, []
    for token in tokens:
        inside = inside or token == "<|output_start|>"
        found.append(inside)
        inside = inside and token != "<|output_end|>"
    return found


def the_result_only(tokens):
    marks = ("<|output_start|>", "<|output_end|>")
    return [one and token not in marks for one, token in zip(forced(tokens), tokens, strict=True)]


def the_call_too(tokens):
    return [one or token == "<|python_end|>" for one, token in zip(forced(tokens), tokens, strict=True)]


def python_says(call):
    return str(eval(call, {"max": max}))


WRONG = [
    (check_probabilities, times_temperature, "divides the logits"),
    (check_probabilities, temperature_after_softmax, "divides the logits"),
    (check_probabilities, cut_after_softmax, "sum to 1"),
    (check_probabilities, without_top_k, "2 tokens can be drawn, with yours 4"),
    (check_say, with_its_stop, "ends before the first of 1 and 2"),
    (check_say, with_the_prompt, "It has the new tokens only"),
    (check_say, only_the_first_stop, "ends before the first of 1 and 2"),
    (check_say, prompt_counts, "at most max_tokens"),
    (check_say, asks_to_the_end, "calls of next_token are enough"),
    (check_say, forgets_what_it_said, "must see all so far"),
    (check_forced, between_output_marks, "behind a call that its calculator answers"),
    (check_forced, the_result_only, r"the engine forces '<\|output_start\|>' \(token 4\), too"),
    (check_forced, the_call_too, r"the model says '<\|python_end\|>' \(token 3\) itself"),
    (check_results, {call: python_says(call) for call in CALLS}, "is not what is forced|is wrong"),
    (check_results, results() | {"12/4": "3.0"}, "'3.0' is not what is forced"),
    (check_results, results() | {"10/3": "3.3333333333333335"}, "is not what is forced"),
    (check_results, results() | {"2**10": "1024"}, "answered is wrong"),
    (check_results, results() | {"7//2": None}, "refused is wrong"),
    (check_results, results() | {"7//2": 3}, "the engine forces text"),
    (check_results, {"12/8": "1.5"}, "no prediction for '12/4'"),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_refused_prediction_does_not_give_the_answer_away(call):
    answer = results()[call]
    with pytest.raises(AssertionError) as refused:
        check_results(results() | {call: "0.123"})
    assert answer is None or repr(answer) not in str(refused.value)


def test_the_probabilities_are_those_that_the_engine_draws_with():
    logits, draws = torch.tensor([[2.0, 0.0, 1.0, -1.0]]), [(k + 0.5) / 2000 for k in range(2000)]
    for temperature, top_k in ((1.0, None), (0.5, 3), (2.0, 2)):
        drawn = sample(logits.expand(2000, 4), temperature, top_k, draws)
        shares = [float((drawn == id).sum()) / 2000 for id in range(4)]
        assert shares == pytest.approx(probabilities(logits[0].tolist(), temperature, top_k), abs=1e-3)


@pytest.mark.parametrize(("tokens", "places"), REPLIES)
def test_forced_are_those_that_the_engine_forces(tokens, places, byte_tokenizer):
    """The model says the tokens that nobody forces; what the engine then makes of them is the whole reply."""
    engine, row = Engine(None, byte_tokenizer), _Row(0, [1], random.Random(0))
    own = [id for k, token in enumerate(tokens) if k not in places for id in ids_of(token, byte_tokenizer)]
    said, was_forced = [], []
    while own or row.forced:
        was_forced.append(bool(row.forced))
        sampled = 0 if row.forced else own.pop(0)
        said.append(engine._advance(row, sampled))
    assert byte_tokenizer.decode(said) == "".join(tokens)
    pairs = zip(tokens, forced(tokens), strict=True)
    assert was_forced == [one for token, one in pairs for _ in ids_of(token, byte_tokenizer)]


def ids_of(token, tokenizer):
    special = tokenizer.special_ids.get(token)
    return tokenizer.encode(token) if special is None else [special]


def test_a_call_that_was_never_opened_forces_nothing():
    assert forced(["7", "<|python_end|>", "8"]) == [False, False, False]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(talk).failed == 0
