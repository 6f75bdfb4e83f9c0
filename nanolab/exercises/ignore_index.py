"""Checks of notebook 04: the summed loss, its gradient, which inputs it reaches, and one loss from many micro-batches.

`gradient_at_logits` and `reached` measure with autograd what the exercises ask for in closed form.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from nanolab.batch import IGNORE_INDEX
from nanolab.gpt import GPT, GPTConfig
from nanolab.loss import plain_cross_entropy

SOFTCAP = 5.0
TARGETS = ([[-1, 3, -1, 0, 7], [2, -1, -1, -1, -1]], [[1, 2, 3, 4, 5]] * 2, [[-1] * 5] * 2)  # (B, T) of vocabulary 8
ROWS = ([-1, -1, -1, -1, 2, 7], [0, -1, 3], [-1, -1, -1])  # (T,) of vocabulary 8
REACHED = (  # targets of a row, and whether each input's embedding gets a gradient: by hand
    ([-1, -1, 2, 7, -1, -1], [True, True, True, True, False, False]),
    ([-1, 4, -1, -1, 5, -1], [True, True, True, True, True, False]),
    ([3, -1, -1], [True, False, False]),
    ([-1, -1, -1], [False, False, False]),
)
STEPS = (  # each micro-batch's mean and count, and the loss of the step: by hand
    ([1.0, 2.0, 6.0], [1, 1, 2], 3.75),
    ([4.0, 1.0], [8, 4_665], 4_697 / 4_673),
    ([math.nan, 2.0, 3.0], [0, 3, 1], 2.25),
    ([math.nan, math.nan], [0, 0], None),
)
WEIGHT_STD = 0.1  # no weight is zero, so that a gradient is zero only where nothing flows


def gradient_at_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient (T, V) of the mean cross-entropy with respect to the logits; zeros if no position has a target.

    >>> gradient_at_logits(torch.zeros(2, 4), torch.tensor([-1, 3])).tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, -0.75]]
    """
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_(True)
        total = F.cross_entropy(leaf, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        loss = total / max(int((targets != IGNORE_INDEX).sum()), 1)
        return torch.autograd.grad(loss, leaf)[0]


def reached(targets: Sequence[int]) -> list[bool]:
    """For each input of a row, whether its embedding gets a gradient: measured on a small random model.

    >>> reached([-1, 2, -1])
    [True, True, False]
    """
    inputs = torch.arange(len(targets))[None]  # (1, T): all ids different, so row t of the embedding is input t's
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = GPT(GPTConfig.from_depth(1, vocab_size=32))
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=WEIGHT_STD)
        model(inputs, torch.tensor([list(targets)]), loss_reduction="sum").backward()
    gradient = model.transformer.wte.weight.grad[: len(targets)]  # (T, C)
    return (gradient != 0).any(dim=-1).tolist()


def step_loss(means: Sequence[float], counts: Sequence[int]) -> float | None:
    """Nats a supervised token over a whole step, from its micro-batches' means and supervised tokens; None without any.

    The mean of a micro-batch that has none is nan, and is left out.

    >>> step_loss([4.0, 1.0, math.nan], [1, 3, 0])
    1.75
    """
    total = sum(mean * count for mean, count in zip(means, counts, strict=True) if count)
    return total / sum(counts) if sum(counts) else None


def check_sum(my_sum: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    """Check `my_sum(hidden, head_weight, targets, softcap)`: the summed loss over the positions with a target.

    Raises AssertionError with the targets and both numbers.

    >>> check_sum(plain_cross_entropy)
    my_sum is right for 3 batches, also where nothing is learned.
    """
    for rows in TARGETS:
        hidden, head_weight, targets = 3 * _normal(2, 5, 4), _normal(8, 4, seed=1), torch.tensor(rows)
        expected = plain_cross_entropy(hidden, head_weight, targets, SOFTCAP).item()
        got = float(my_sum(hidden, head_weight, targets, SOFTCAP))
        assert math.isclose(got, expected, rel_tol=1e-4, abs_tol=1e-4), (
            f"For the targets {rows} the summed loss is {expected:.4f}, my_sum says {got:.4f}. {_hint(got, expected)}"
        )
    print(f"my_sum is right for {len(TARGETS)} batches, also where nothing is learned.")


def check_gradient(my_gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Check `my_gradient(logits, targets)`: the gradient (T, V) of the mean over the positions that count.

    Raises AssertionError with the position and what is wrong there.

    >>> check_gradient(gradient_at_logits)
    my_gradient is right for 3 rows of targets.
    """
    for row in ROWS:
        logits, targets = _normal(len(row), 8), torch.tensor(row)
        expected, got = gradient_at_logits(logits, targets), my_gradient(logits, targets)
        assert got.shape == expected.shape, f"The gradient has the logits' shape (T, V), not {tuple(got.shape)}."
        for t, target in enumerate(row):
            if target == IGNORE_INDEX:
                assert (got[t] == 0).all(), f"Position {t} of {row} has no target: its gradient is exactly 0."
            worst = int((got[t] - expected[t]).abs().argmax())
            assert torch.allclose(got[t], expected[t], atol=1e-5), (
                f"At position {t} of {row}, target {target}, the entry of id {worst} should be "
                f"{expected[t, worst]:.4f}, yours is {got[t, worst]:.4f}. Less of everything, more of the target, "
                "divided by how many positions count."
            )
    print(f"my_gradient is right for {len(ROWS)} rows of targets.")


def check_reached(my_reached: Callable[[Sequence[int]], Sequence[bool]]) -> None:
    """Check `my_reached(targets)`: for each input of a row, whether its embedding gets a gradient.

    Raises AssertionError with the targets and the first position that is wrong.

    >>> check_reached(reached)
    my_reached is right for 4 rows.
    """
    for targets, expected in REACHED:
        got = [bool(one) for one in my_reached(list(targets))]
        assert len(got) == len(targets), f"{len(targets)} inputs need {len(targets)} answers, yours are {len(got)}."
        wrong = next((t for t, one in enumerate(got) if one != expected[t]), None)
        assert wrong is None, (
            f"With the targets {targets} input {wrong} gets {'a' if expected[wrong] else 'no'} gradient, my_reached "
            f"says {got[wrong]}. Which positions with a target have looked at it?"
        )
    print(f"my_reached is right for {len(REACHED)} rows.")


def check_step_loss(my_step_loss: Callable[[Sequence[float], Sequence[int]], float | None]) -> None:
    """Check `my_step_loss(means, counts)`: one loss of a step from its micro-batches' means and supervised tokens.

    Raises AssertionError with the micro-batches, and says when nan got in or nothing was there to divide by.

    >>> check_step_loss(step_loss)
    my_step_loss is right for 4 steps.
    """
    for means, counts, expected in STEPS:
        what = f"micro-batches with means {means} and {counts} supervised tokens"
        try:
            got = my_step_loss(list(means), list(counts))
        except ZeroDivisionError:
            raise AssertionError(f"For {what} you divide by 0: where nothing is learned the answer is None.") from None
        if expected is None:
            assert got is None, f"In {what} there is nothing to learn: the answer is None, yours is {got}."
            continue
        assert got is not None, f"In {what} there is something to learn, yours says None."
        assert not math.isnan(got), f"For {what} you get nan: 0 * nan is nan too, so leave such a micro-batch out."
        assert math.isclose(got, expected, rel_tol=1e-6), (
            f"The loss a supervised token of {what} is {expected:.4f}, yours {got:.4f}. Every token weighs the same."
        )
    print(f"my_step_loss is right for {len(STEPS)} steps.")


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers that are the same every time, whatever was drawn before."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _hint(got: float, expected: float) -> str:
    """What a wrong sum most likely is."""
    if math.isnan(got):
        return "It divides 0 by 0: a sum needs no division."
    if expected == 0:
        return "Nothing is learned there: the sum of nothing is 0."
    return "It is a sum, not a mean, of the soft-capped logits' loss, and an ignored position adds 0 to it."
