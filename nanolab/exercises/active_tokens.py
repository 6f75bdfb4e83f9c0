"""Notebook 09: what a token weighs, how a step is dealt to ranks, and what makes the loss jump.

The functions on top are what the exercises ask for; `check_...` compares a learner's own with a number worked out by
hand, so a check does not depend on the package's answer.
"""

from collections.abc import Callable, Sequence

import numpy as np

LOSS_AVERAGES = ("step", "micro_batch")
CLOSE = 1e-6  # relative; a float32 tensor is as good


def token_weights(counts: Sequence[int], loss_average: str = "step") -> list[float]:
    """What one supervised token of each micro-batch weighs in the step's loss; `counts` are their supervised tokens.

    "step": every token weighs 1 / (tokens of the step). "micro_batch": 1 / (micro-batches * tokens of its own one).
    A micro-batch without any has no token, and its weight is 0. Raises ValueError for another `loss_average`.

    >>> token_weights([2, 8]), token_weights([2, 8], "micro_batch")
    ([0.1, 0.1], [0.25, 0.0625])
    """
    if loss_average not in LOSS_AVERAGES:
        raise ValueError(f'loss_average must be "step" or "micro_batch", got {loss_average!r}.')
    shared = loss_average == "step"
    return [1 / (sum(counts) if shared else len(counts) * count) if count else 0.0 for count in counts]


def deal(step: Sequence, num_ranks: int) -> list[list]:
    """A step's conversations, shared out as nanochat deals them: rank r takes every num_ranks-th, from the r-th on.

    Source: karpathy/nanochat, scripts/chat_sft.py (November 2025), `range(ddp_rank, len(dataset), ddp_world_size)`.

    >>> deal("abcdef", 2)
    [['a', 'c', 'e'], ['b', 'd', 'f']]
    """
    return [list(step[rank::num_ranks]) for rank in range(num_ranks)]


def slowest_over_mean(counts: Sequence[int]) -> float:
    """How much more than the average the fullest rank has, 1 = all alike; `counts` are the ranks' tokens.

    >>> slowest_over_mean([10, 30])
    1.5
    """
    return max(counts) / (sum(counts) / len(counts))


def rank_divisors(counts: Sequence[int]) -> list[float]:
    """What each rank divides its summed loss by, so that the *mean* of the ranks' gradients is the step's gradient.

    DDP averages gradients over ranks, so the one denominator, the step's supervised tokens, is divided by their number.

    >>> rank_divisors([8, 500])
    [254.0, 254.0]
    """
    return [sum(counts) / len(counts)] * len(counts)


def share_explained(values: Sequence[float], predicted: Sequence[float]) -> float:
    """Share of the variance of `values` that is gone when `predicted` is subtracted: 1 = all, 0 = none (R squared).

    >>> share_explained([1.0, 3.0], [1.0, 3.0])
    1.0
    """
    values, predicted = np.asarray(values, dtype=float), np.asarray(predicted, dtype=float)
    return float(1 - np.var(values - predicted) / np.var(values))


def check_token_weights(mine: Callable[[Sequence[int], str], Sequence[float]]) -> None:
    """Refuse weights that do not sum to 1 over all tokens, or are not those of the asked average."""
    for counts in ([8, 500], [1, 2, 3], [7]):
        for average in LOSS_AVERAGES:
            total = sum(count * weight for count, weight in zip(counts, mine(counts, average), strict=True))
            assert _near(total, 1), (
                f"{counts}, {average!r}: all {sum(counts)} tokens together must weigh 1, yours weigh {total:.6g}."
            )
    one, other = mine([8, 500], "step")
    assert _near(one, other), f'"step": every token weighs the same, yours differ: {one:.6g} and {other:.6g}.'
    one, other = mine([8, 500], "micro_batch")
    assert _near(one, 62.5 * other), (
        f'"micro_batch": a token among 8 weighs 500 / 8 = 62.5 times one among 500, yours {one / other:.4g} times.'
    )
    print("Right: 1/508 each, or 1/16 and 1/1,000.")


def check_deal(mine: Callable[[Sequence, int], Sequence[Sequence]]) -> None:
    """Refuse blocks of neighbours, lost or doubled conversations, and a wrong number of ranks."""
    for number, num_ranks in ((32, 8), (12, 3), (5, 1)):
        ranks = [list(rank) for rank in mine(list(range(number)), num_ranks)]
        assert len(ranks) == num_ranks, f"There are {num_ranks} ranks, yours are {len(ranks)}."
        dealt = sorted(one for rank in ranks for one in rank)
        assert dealt == list(range(number)), (
            f"Each of {number} conversations goes to one of {num_ranks} ranks once, yours are {dealt}."
        )
        expected = list(range(0, number, num_ranks))
        assert ranks[0] == expected, (
            f"Rank 0 of {num_ranks} takes every {num_ranks}th conversation, {expected}, yours {ranks[0]}."
        )
        assert all(rank[0] == r for r, rank in enumerate(ranks)), "Rank r begins with conversation r."
    print("Right: like playing cards, one after another.")


def check_rank_divisors(mine: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Refuse divisors whose mean over ranks is not sum / (tokens of the step)."""
    for counts, loss_sums in (([8, 500], [32.0, 250.0]), ([1, 2, 5], [4.0, 1.0, 1.0]), ([0, 6], [0.0, 3.0])):
        divisors = list(mine(counts))
        assert len(divisors) == len(counts), f"{len(counts)} ranks need {len(counts)} divisors, not {len(divisors)}."
        assert all(divisor > 0 for divisor in divisors), (
            f"{counts}: a rank with nothing to learn must not divide by 0; yours are {divisors}."
        )
        mean = sum(total / divisor for total, divisor in zip(loss_sums, divisors, strict=True)) / len(counts)
        right = sum(loss_sums) / sum(counts)
        assert _near(mean, right), (
            f"Ranks with {counts} tokens and summed losses {loss_sums}: the mean over ranks should be "
            f"{right:.6g}, the loss a token of the step; with your divisors it is {mean:.6g}."
        )
    print("Right: the mean over ranks is the loss a token of the whole step.")


def check_share_explained(mine: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """Refuse shares that are not 1 for a perfect prediction, 0 for a constant, and 3/4 for half the deviations."""
    values = [1.0, 2.0, 3.0, 6.0]
    perfect, none = mine(values, values), mine(values, [3.0] * 4)
    assert _near(perfect, 1), f"A perfect prediction explains everything, 1; yours says {perfect:.6g}."
    assert abs(none) < CLOSE, f"The same prediction for every step explains nothing, 0; yours says {none:.6g}."
    half = mine(values, [2.0, 2.5, 3.0, 4.5])  # each halfway between the mean, 3, and the value
    assert _near(half, 0.75), (
        f"With half of each deviation predicted, a quarter of the variance is left: 0.75; yours says {half:.6g}."
    )
    print("Right: 1 minus the variance that is left.")


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(abs(one), abs(other))
