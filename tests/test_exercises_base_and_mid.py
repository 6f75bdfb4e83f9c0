"""The checks of notebook 09 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import doctest
import math

import pytest
import torch
import torch.nn.functional as F

from nanolab.batch import IGNORE_INDEX, Batch
from nanolab.evaluate import bits_per_byte
from nanolab.exercises import base_and_mid
from nanolab.exercises.base_and_mid import (
    STREAM,
    bits_a_byte,
    check_bits_a_byte,
    check_momentum,
    check_multiplier,
    check_stream_rows,
    stream_rows,
)
from nanolab.optim import constant_then_linear, linear_to_zero, muon_momentum
from nanolab.stream import StreamDataset
from tests.conftest import random_model
from tests.exercises import folded_solutions

RIGHT = [
    (check_stream_rows, stream_rows),
    (check_multiplier, constant_then_linear),
    (check_momentum, muon_momentum),
    (check_bits_a_byte, bits_a_byte),
]


def ends_each_row(stream, step, total, width):
    inputs, _ = stream_rows(stream, step, total, width)
    return inputs, [[*row[1:], IGNORE_INDEX] for row in inputs]


def steps_of_one_token_more(stream, step, total, width):
    return stream_rows(stream[step:], step, total, width)


def every_step_the_first(stream, step, total, width):
    return stream_rows(stream, 0, total, width)


def zero_at_the_last_step(step, num_iterations):
    return min(1.0, 5 * (1 - (step + 1) / num_iterations))


def last_fifth_of_the_height(step, num_iterations):
    return 1.0 if step / num_iterations <= 0.8 else 1 - step / num_iterations


def mean_over_tokens(nats, num_bytes):
    ratios = [loss / math.log(2) / size for loss, size in zip(nats, num_bytes, strict=True) if size]
    return sum(ratios) / len(ratios)


WRONG = [
    (check_stream_rows, ends_each_row, "its last position has something to predict"),
    (check_stream_rows, lambda *a: (stream_rows(*a)[0], stream_rows(*a)[0]), "The stream goes on behind each row"),
    (check_stream_rows, steps_of_one_token_more, "Step 1, 8 tokens a step.* the inputs are"),
    (check_stream_rows, every_step_the_first, "Step 1, 8 tokens a step.* the inputs are"),
    (check_multiplier, linear_to_zero, "Step 7 of 10: the multiplier is 1.0000, my_multiplier says 0.3000"),
    (check_multiplier, zero_at_the_last_step, "four fifths of the steps before it"),
    (check_multiplier, last_fifth_of_the_height, "falls in a straight line that would be 0"),
    (check_multiplier, lambda step, num_iterations: 1.0, "the last step still trains"),
    (check_momentum, lambda step: 0.95, "Step 0: Muon's momentum is 0.8500, my_momentum says 0.9500"),
    (check_momentum, lambda step: 0.85 + 0.1 * step / 300, "Step 301.* stays where it is then"),
    (check_momentum, lambda step: 0.95 - 0.1 * min(step, 300) / 300, "Step 0"),
    (check_momentum, lambda step: 0.85 + 0.1 * min(step, 150) / 150, "Step 75.* my_momentum says 0.9000"),
    (check_bits_a_byte, mean_over_tokens, "All bits of text are divided by all bytes of text"),
    (check_bits_a_byte, lambda nats, num_bytes: sum(nats) / sum(num_bytes), "1.2000 bits a byte, .* says 0.8318"),
    (check_bits_a_byte, lambda nats, num_bytes: sum(nats) / math.log(2) / len(nats), "says 3.0000"),
    (check_bits_a_byte, lambda nats, num_bytes: sum(nats) / math.log(2) / sum(num_bytes), "is no text"),
]


def test_the_folded_solutions_are_right():
    found = folded_solutions("09_base_and_mid", math=math)
    for check, _ in RIGHT:
        check(found[check.__name__.replace("check", "my")])


def test_base_training_cuts_the_rows_that_the_exercise_cuts():
    steps = StreamDataset([STREAM], lambda document: document, 4, device_batch_size=1, total_batch_size=8)
    for step in range(3):
        inputs, targets = stream_rows(STREAM, step, 8, 4)
        assert [batch.inputs.tolist()[0] for batch in steps[step].batches] == inputs
        assert [batch.targets.tolist()[0] for batch in steps[step].batches] == targets


def test_bits_a_byte_are_those_of_the_packages_evaluation():
    model, num_bytes = random_model(vocab_size=8), torch.tensor([0, 1, 2, 3, 1, 0, 5, 4])
    inputs, targets = torch.tensor([[1, 2, 5, 4, 6]]), torch.tensor([[2, 5, 4, 6, IGNORE_INDEX]])
    with torch.no_grad():
        nats = F.cross_entropy(model(inputs)[0, :4], targets[0, :4], reduction="none").tolist()
    ours = bits_a_byte(nats, num_bytes[targets[0, :4]].tolist())
    assert ours == pytest.approx(bits_per_byte(model, [Batch(inputs, targets, 5)], num_bytes), rel=1e-5)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(base_and_mid).failed == 0
