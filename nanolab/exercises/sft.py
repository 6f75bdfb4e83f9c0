"""Checks of notebook 10: steps of a run, one denominator over micro-batches, and how far the learning rates reach.

The functions on top are what the exercises ask for, and what their cells call as shipped.
"""

import math
from collections.abc import Callable, Sequence

import torch

from nanolab.batch import Batch, Row, pad_batch
from nanolab.gpt import GPT, GPTConfig
from nanolab.optim import REFERENCE_WIDTH, linear_to_zero

# num_rows, num_epochs, target_examples_per_step, device_batch_size -> steps, micro-batches of a padded step
RUNS = {
    (8_400, 1, 32, 8): (262, 4),
    (8_400, 2, 32, 8): (524, 4),  # each epoch leaves out the 16 rows that make no whole step
    (22_439, 1, 32, 4): (701, 8),
    (100, 3, 8, 3): (36, 3),  # the last micro-batch has 2 rows
}
# step, num_iterations, n_embd, embedding_lr, init_lr_frac -> the embedding's learning rate
RATES = {
    (0, 100, 768, 0.2, 1.0): 0.2,
    (50, 100, 768, 0.2, 1.0): 0.1,
    (0, 100, 768, 0.2, 0.02): 0.004,
    (0, 100, 192, 0.2, 1.0): 0.4,  # a quarter of the width: twice the rate
    (75, 100, 3072, 0.2, 0.02): 0.0005,
}
CLOSE = 1e-6  # relative; a float32 tensor is as good
VOCAB_SIZE, END = 16, 7  # of the model that the gradients are taken of
LIVELY = 0.3  # standard deviation of weights that make a random model's gradients differ from token to token
STEP: tuple[Row, ...] = (
    ([3, 4, 1, 1, 5, 6, 2, END], [0, 0, 0, 0, 0, 0, 1, 1]),
    ([3, 4, 1, 5, 6, 8, END], [0, 0, 0, 0, 0, 1, 1]),
    ([3, 4, 5, 6, 9, 8, 9, 10, 11, 12, 9, 13, 9, END], [0] * 4 + [1] * 10),
    ([3, 4, 1, 2, 1, 5], [0] * 6),  # nobody answers: its micro-batch teaches nothing
)


def steps_and_micro_batches(
    num_rows: int, num_epochs: int, target_examples_per_step: int, device_batch_size: int
) -> tuple[int, int]:
    """Optimizer steps of an SFT run, and padded micro-batches in each of them.

    >>> steps_and_micro_batches(100, 1, 8, 3)
    (12, 3)
    """
    steps = num_epochs * (num_rows // target_examples_per_step)
    return steps, math.ceil(target_examples_per_step / device_batch_size)


def embedding_rate(
    step: int, num_iterations: int, n_embd: int, embedding_lr: float = 0.2, init_lr_frac: float = 0.02
) -> float:
    """The learning rate that AdamW has for the embedding at an SFT step.

    >>> round(embedding_rate(0, 262, n_embd=256), 4), round(embedding_rate(131, 262, n_embd=256), 4)
    (0.0069, 0.0035)
    """
    width = (n_embd / REFERENCE_WIDTH) ** -0.5
    return embedding_lr * width * init_lr_frac * linear_to_zero(step, num_iterations)


def check_steps(my_steps: Callable[[int, int, int, int], tuple[int, int]]) -> None:
    """Check `my_steps(num_rows, num_epochs, target_examples_per_step, device_batch_size)`.

    Raises AssertionError with the run and what is wrong.

    >>> check_steps(steps_and_micro_batches)
    my_steps is right for 4 runs.
    """
    for run, (steps, micro_batches) in RUNS.items():
        got_steps, got_micro_batches = my_steps(*run)
        num_rows, num_epochs, size, device_batch_size = run
        assert got_steps == steps, (
            f"{num_rows:,} rows, {num_epochs} epochs, {size} conversations a step: {steps} steps, my_steps says "
            f"{got_steps}. An epoch is as many whole steps as its rows make."
        )
        assert got_micro_batches == micro_batches, (
            f"{size} conversations a step, {device_batch_size} a micro-batch: {micro_batches} micro-batches a step, "
            f"my_steps says {got_micro_batches}. The last one may have fewer rows."
        )
    print(f"my_steps is right for {len(RUNS)} runs.")


def check_backward(my_backward: Callable[[GPT, list[Batch]], object]) -> None:
    """Check that `my_backward(model, batches)` adds the gradient of the step's loss to the weights.

    However the step's conversations are cut into micro-batches, the gradient must be that of one batch of all of them.
    Raises AssertionError with the cut and in which way the gradient differs.

    >>> check_backward(backward)                                               # doctest: +SKIP
    my_backward gives one gradient for micro-batches of 1, 2, 3 and 4 conversations.
    """
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_depth(1, VOCAB_SIZE))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=LIVELY)
    whole = pad_batch(STEP, pad_id=END)
    model(whole.inputs, whole.targets).backward()  # the mean over the supervised tokens of the whole step
    expected = _taken_gradient(model)
    for size in (1, 2, 3, 4):
        batches = [pad_batch(STEP[first : first + size], pad_id=END) for first in range(0, len(STEP), size)]
        my_backward(model, batches)
        _compare(_taken_gradient(model), expected, [batch.num_tokens for batch in batches])
    print("my_backward gives one gradient for micro-batches of 1, 2, 3 and 4 conversations.")


def check_embedding_rate(my_rate: Callable[[int, int, int, float, float], float]) -> None:
    """Check `my_rate(step, num_iterations, n_embd, embedding_lr, init_lr_frac)`: the embedding's learning rate.

    Raises AssertionError with the numbers and what may be missing.

    >>> check_embedding_rate(embedding_rate)
    my_rate is right for 5 cases.
    """
    for case, expected in RATES.items():
        got, (step, num_iterations, n_embd, embedding_lr, init_lr_frac) = my_rate(*case), case
        assert abs(got - expected) <= CLOSE * expected, (
            f"embedding_lr {embedding_lr} at step {step} of {num_iterations}, with n_embd {n_embd} and init_lr_frac "
            f"{init_lr_frac}: the rate is {expected:.6g}, my_rate says {got:.6g}. Three factors: the fraction, the "
            "width (a narrower model has a larger rate), and what is left of the straight line."
        )
    print(f"my_rate is right for {len(RATES)} cases.")


def check_full_steps(my_full_steps: float, num_iterations: int) -> None:
    """Check a predicted number: the sum of SFT's multipliers over all steps of a run.

    Raises AssertionError that says what to think of, without the number.

    >>> check_full_steps(2.5, num_iterations=4)
    Right: 4 steps whose learning rates fall to nothing move about as far as 2.5 at the full rate.
    """
    expected, got = math.fsum(linear_to_zero(step, num_iterations) for step in range(num_iterations)), my_full_steps
    off = abs(got - expected)
    assert off < 1, (
        f"{got:g} is not it. The multipliers fall in a straight line from 1 to nearly 0. What is their mean, and how "
        f"many of them are there in {num_iterations:,} steps?"
    )
    assert off < 1e-6 * num_iterations, (
        f"{got:g} is nearly right. The last step's multiplier is not 0: what is it, and so what is the mean exactly?"
    )
    print(
        f"Right: {num_iterations:,} steps whose learning rates fall to nothing move about as far as {got:g} at the "
        "full rate."
    )


def _taken_gradient(model: GPT) -> torch.Tensor:
    """All weights' gradients as one vector; afterwards there are none."""
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not missing, f"my_backward left {missing[0]} without a gradient. Is loss.backward() called?"
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad(set_to_none=True)
    return gradient


def _compare(got: torch.Tensor, expected: torch.Tensor, counts: Sequence[int]):
    case = f"Micro-batches with {counts} supervised tokens, {sum(counts)} together: "
    assert torch.isfinite(got).all(), (
        f"{case}the gradient is not finite. What is divided by the tokens of an empty one?"
    )
    longer = (got.norm() / expected.norm()).item()
    angle = torch.cosine_similarity(got, expected, dim=0).item()
    assert angle > 1 - 1e-4, (
        f"{case}the gradient points elsewhere than that of the step's loss (cosine {angle:.3f}). Every token weighs "
        "the same, in whichever micro-batch it is."
    )
    assert abs(longer - 1) < 1e-3, (
        f"{case}the direction is right, but the gradient is {longer:.4g} times as long. By what is the sum of all "
        "losses divided, and is it divided once?"
    )
