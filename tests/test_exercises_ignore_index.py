"""The checks of notebook 04 accept right answers and refuse planted wrong ones, with a sentence that helps."""

import math

import pytest
import torch
import torch.nn.functional as F

from nanolab.batch import IGNORE_INDEX
from nanolab.exercises.ignore_index import (
    REACHED,
    check_gradient,
    check_reached,
    check_step_loss,
    check_sum,
    gradient_at_logits,
    reached,
    step_loss,
)
from nanolab.loss import plain_cross_entropy, supervised_cross_entropy

# The sum


def summed(hidden, head_weight, targets, softcap, capped=True, ignored=0.0, mean=False):
    logits = hidden @ head_weight.T
    logits = softcap * torch.tanh(logits / softcap) if capped else logits
    looked_up = logits.log_softmax(dim=-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    learned = targets != IGNORE_INDEX
    total = -(looked_up * torch.where(learned, 1.0, ignored)).sum()
    return total / learned.sum() if mean else total


def test_a_sum_by_multiplying_with_zero_is_accepted(capsys):
    for answer in (supervised_cross_entropy, plain_cross_entropy, summed):
        check_sum(answer)
    assert capsys.readouterr().out == "my_sum is right for 3 batches, also where nothing is learned.\n" * 3


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"ignored": 1.0}, "an ignored position adds 0"),  # id 0 is learned where nothing should be
        ({"capped": False}, "soft-capped"),
        ({"mean": True}, "a sum, not a mean"),
    ],
)
def test_sums_with_a_usual_mistake_are_refused(mistake, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_sum(lambda *arguments: summed(*arguments, **mistake))


def test_a_sum_that_looks_up_the_last_id_for_minus_one_is_refused():
    def wraps_around(hidden, head_weight, targets, softcap):
        log_probs = (softcap * torch.tanh(hidden @ head_weight.T / softcap)).log_softmax(-1).flatten(0, 1)
        return -sum(log_probs[t, target] for t, target in enumerate(targets.flatten().tolist()))

    with pytest.raises(AssertionError, match="the summed loss is"):
        check_sum(wraps_around)


def test_a_mean_times_a_count_of_nothing_is_refused():
    def by_the_mean(hidden, head_weight, targets, softcap):
        count = (targets != IGNORE_INDEX).sum()
        return plain_cross_entropy(hidden, head_weight, targets, softcap) / count * count

    with pytest.raises(AssertionError, match="a sum needs no division"):
        check_sum(by_the_mean)


# The gradient


def in_closed_form(logits, targets, divisor=None, masked=True, sign=1):
    learned = targets != IGNORE_INDEX
    onehot = F.one_hot(targets.clamp(min=0), logits.size(-1))
    gradient = sign * (logits.softmax(dim=-1) - onehot) / (divisor or learned.sum().clamp(min=1))
    return gradient * learned[:, None] if masked else gradient


def test_the_closed_form_and_autograd_agree(capsys):
    check_gradient(gradient_at_logits)
    check_gradient(in_closed_form)
    assert capsys.readouterr().out == "my_gradient is right for 3 rows of targets.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda logits, targets: in_closed_form(logits, targets, masked=False), "its gradient is exactly 0"),
        (lambda logits, targets: in_closed_form(logits, targets, divisor=len(targets)), "how many positions count"),
        (lambda logits, targets: in_closed_form(logits, targets, divisor=1), "how many positions count"),
        (lambda logits, targets: in_closed_form(logits, targets, sign=-1), "more of the target"),
        (lambda logits, targets: in_closed_form(logits, targets)[targets != IGNORE_INDEX], "the logits' shape"),
        (
            lambda logits, targets: in_closed_form(logits, targets) / (targets != IGNORE_INDEX).any(),
            "its gradient is exactly 0",  # 0 / 0 where nothing counts
        ),
    ],
)
def test_gradients_with_a_usual_mistake_are_refused(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_gradient(wrong)


# Which inputs a gradient reaches


def up_to_the_last_target(targets):
    return [any(target != IGNORE_INDEX for target in targets[t:]) for t in range(len(targets))]


@pytest.mark.parametrize(("targets", "expected"), REACHED)
def test_the_expected_answers_are_what_a_model_does(targets, expected):
    assert reached(targets) == expected


def test_everything_up_to_the_last_target_is_accepted(capsys):
    check_reached(reached)
    check_reached(up_to_the_last_target)
    assert capsys.readouterr().out == "my_reached is right for 4 rows.\n" * 2


def test_measuring_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    reached([-1, 2])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda targets: [target != IGNORE_INDEX for target in targets],  # only those with a target
        lambda targets: [True] * len(targets),
        lambda targets: [False, *up_to_the_last_target(targets)[:-1]],
        lambda targets: [*up_to_the_last_target(targets)[1:], False],  # everything before the last target
        lambda targets: [
            any(t != IGNORE_INDEX for t in targets[: k + 1]) for k in range(len(targets))
        ],  # from there on
    ],
)
def test_other_ways_of_a_gradient_are_refused(wrong):
    with pytest.raises(AssertionError, match="Which positions with a target have looked at it"):
        check_reached(wrong)


def test_an_answer_too_few_is_refused():
    with pytest.raises(AssertionError, match="6 inputs need 6 answers, yours are 5"):
        check_reached(lambda targets: up_to_the_last_target(targets)[1:])


# One loss of a step


def weighted(means, counts):
    return sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)


def zero_for_nothing(means, counts):
    return weighted([mean if count else 0.0 for mean, count in zip(means, counts, strict=True)], counts)


def test_a_step_loss_with_one_denominator_is_accepted(capsys):
    check_step_loss(step_loss)
    check_step_loss(lambda means, counts: zero_for_nothing(means, counts) if sum(counts) else None)
    assert capsys.readouterr().out == "my_step_loss is right for 4 steps.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda means, counts: sum(means) / len(means), "Every token weighs the same"),
        (weighted, "0 \\* nan is nan too"),
        (zero_for_nothing, "you divide by 0"),
        (lambda means, counts: sum(zero_for_nothing([m], [c]) for m, c in zip(means, counts, strict=True)), "3.7500"),
        (lambda means, counts: step_loss(means, counts) or 0.0, "the answer is None, yours is 0.0"),
        (
            lambda means, counts: None if 0 in counts else step_loss(means, counts),
            "something to learn, yours says None",
        ),
        (
            lambda means, counts: step_loss(means, counts) if sum(counts) else math.nan,
            "the answer is None, yours is nan",
        ),
    ],
)
def test_step_losses_with_a_usual_mistake_are_refused(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_step_loss(wrong)
