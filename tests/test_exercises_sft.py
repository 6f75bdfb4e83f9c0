"""The checks of notebook 10 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import math

import pytest

from nanolab.batch import StepDataset
from nanolab.exercises import sft
from nanolab.exercises.sft import (
    check_backward,
    check_embedding_rate,
    check_full_steps,
    check_steps,
    embedding_rate,
    steps_and_micro_batches,
)
from nanolab.optim import constant_then_linear, linear_to_zero, make_optimizers, set_rates
from nanolab.train import backward
from tests.exercises import folded_solutions

RIGHT = [
    (check_steps, steps_and_micro_batches),
    (check_backward, backward),
    (check_embedding_rate, embedding_rate),
]


def one_epoch_of_all(rows, epochs, size, device):
    return rows * epochs // size, math.ceil(size / device)


def rounded_up(rows, epochs, size, device):
    return epochs * math.ceil(rows / size), math.ceil(size / device)


def divided_by(divisor):
    """A wrong backward: each micro-batch's summed loss, divided by divisor(batch, batches)."""

    def wrong(model, batches):
        for batch in batches:
            (model(batch.inputs, batch.targets, loss_reduction="sum") / divisor(batch, batches)).backward()

    return wrong


def of_step(batches):
    return sum(batch.num_tokens for batch in batches)


def gradient_of_the_last(model, batches):
    for batch in batches:
        model.zero_grad()
        (model(batch.inputs, batch.targets, loss_reduction="sum") / of_step(batches)).backward()


def nothing(model, batches):
    return None


def rate(step, num_iterations, n_embd, embedding_lr, init_lr_frac):
    return embedding_lr * init_lr_frac * (1 - step / num_iterations)


WRONG = [
    (check_steps, one_epoch_of_all, "524 steps, my_steps says 525"),
    (check_steps, rounded_up, "262 steps, my_steps says 263"),
    (check_steps, lambda rows, epochs, size, device: (epochs * (rows // size), size // device), "may have fewer rows"),
    (check_steps, lambda rows, epochs, size, device: (epochs * (rows // size), device), "4 micro-batches a step"),
    (check_steps, lambda rows, epochs, size, device: (rows // size, math.ceil(size / device)), "524 steps"),
    (check_backward, lambda m, batches: backward(m, batches, "micro_batch"), "points elsewhere"),
    (check_backward, divided_by(lambda batch, batches: max(1, batch.num_tokens)), "Every token weighs the same"),
    (check_backward, divided_by(lambda batch, batches: batch.slots), "points elsewhere"),
    (check_backward, divided_by(lambda batch, batches: 1), "the gradient is 14 times as long"),
    (check_backward, divided_by(lambda batch, batches: of_step(batches) * len(batches)), "0.25 times as long"),
    (check_backward, gradient_of_the_last, "points elsewhere"),
    (check_backward, nothing, "Is loss.backward\\(\\) called"),
    (check_embedding_rate, lambda *case: rate(*case), "a narrower model has a larger rate"),
    (
        check_embedding_rate,
        lambda s, n, c, lr, frac: rate(s, n, c, lr, frac) * (c / 768) ** 0.5,
        "0.4, my_rate says 0.1",
    ),
    (check_embedding_rate, lambda s, n, c, lr, frac: embedding_rate(0, n, c, lr, frac), "straight line"),
    (check_embedding_rate, lambda s, n, c, lr, frac: embedding_rate(s, n, c, lr, 1.0), "Three factors: the fraction"),
    (check_embedding_rate, lambda s, n, c, lr, frac: embedding_rate(s, n, c, lr, frac) * n / (n - 1), "the rate is"),
]


@pytest.mark.parametrize("num_iterations", [1, 3, 262, 701])
def test_the_sum_of_the_multipliers_is_accepted_and_what_is_near_it_refused(num_iterations, capsys):
    right = sum(linear_to_zero(step, num_iterations) for step in range(num_iterations))
    check_full_steps(right, num_iterations)
    assert capsys.readouterr().out.startswith("Right")
    with pytest.raises(AssertionError, match="The last step's multiplier is not 0"):
        check_full_steps(num_iterations / 2, num_iterations)
    with pytest.raises(AssertionError, match="is not it. The multipliers fall in a straight line"):
        check_full_steps(2 * num_iterations, num_iterations)


def test_a_predicted_number_of_another_schedule_is_refused_without_giving_the_right_one_away():
    with pytest.raises(AssertionError) as refused:
        check_full_steps(sum(constant_then_linear(step, 262) for step in range(262)), 262)
    assert "131" not in str(refused.value)


def test_the_folded_solutions_are_right():
    found = folded_solutions("10_sft")
    check_steps(found["my_steps"])
    check_backward(found["my_backward"])
    check_embedding_rate(found["my_rate"])


def test_the_sizes_of_a_run_are_those_of_the_data_loader(small_tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    mixture = [{"messages": turns}] * 100
    steps = StepDataset(mixture, small_tokenizer, num_examples=8, device_batch_size=3)
    assert steps_and_micro_batches(100, 1, 8, 3) == (len(steps), len(steps[0].batches))


def test_the_embeddings_rate_is_the_one_that_the_optimizer_gets(tiny_model):
    optimizers = make_optimizers(tiny_model, 0.004, embedding_lr=0.2, matrix_lr=0.02, init_lr_frac=0.02)
    set_rates(optimizers, linear_to_zero(30, 120), momentum=None)
    (of_embedding,) = (
        group for group in optimizers[0].param_groups if group["params"][0] is tiny_model.transformer.wte.weight
    )
    assert of_embedding["lr"] == pytest.approx(embedding_rate(30, 120, tiny_model.config.n_embd, 0.2, 0.02), rel=1e-9)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(sft).failed == 0
