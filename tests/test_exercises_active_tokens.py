"""The checks of notebook 11 accept what is right and refuse planted wrong answers, with a sentence that helps."""

import pandas as pd
import pytest

from nanolab.exercises.active_tokens import (
    check_deal,
    check_rank_divisors,
    check_share_explained,
    check_token_weights,
    deal,
    rank_divisors,
    share_explained,
    slowest_over_mean,
    token_weights,
)
from nanolab.show.counts import count_strips, loss_by_tokens, share_bars, task_curves

NAMES = ["check_token_weights", "check_deal", "check_rank_divisors", "check_share_explained"]
RIGHT = [
    (check_token_weights, token_weights),
    (check_deal, deal),
    (check_rank_divisors, rank_divisors),
    (check_share_explained, share_explained),
]


def blocks(step, num_ranks):
    size = len(step) // num_ranks
    return [step[rank * size : (rank + 1) * size] for rank in range(num_ranks)]


def correlation(values, predicted):
    mean_v, mean_p = sum(values) / len(values), sum(predicted) / len(predicted)
    both = sum((v - mean_v) * (p - mean_p) for v, p in zip(values, predicted, strict=True))
    sizes = sum((v - mean_v) ** 2 for v in values) * sum((p - mean_p) ** 2 for p in predicted)
    return both / sizes**0.5 if sizes else 0.0


WRONG = [
    (check_token_weights, lambda counts, average: [1 / sum(counts)] * len(counts), "62.5 times"),
    (check_token_weights, lambda counts, average: [1 / (len(counts) * c) for c in counts], "weighs the same"),
    (check_token_weights, lambda counts, average: [1 / count for count in counts], "together must weigh 1"),
    (check_deal, blocks, "takes every 8th conversation"),
    (check_deal, lambda step, num_ranks: [step[r::num_ranks] for r in range(num_ranks - 1)], "There are 8 ranks"),
    (check_deal, lambda step, num_ranks: [step] * num_ranks, "goes to one of 8 ranks once"),
    (check_deal, lambda step, num_ranks: [deal(step, num_ranks)[-r] for r in range(num_ranks)], "begins with"),
    (check_rank_divisors, lambda counts: counts, "should be"),
    (check_rank_divisors, lambda counts: [sum(counts)] * len(counts), "should be"),
    (check_rank_divisors, lambda counts: [sum(counts)], "need 2 divisors"),
    (check_share_explained, lambda values, predicted: 1.0, "explains nothing"),
    (check_share_explained, correlation, "a quarter of the variance is left"),
    (check_share_explained, lambda values, predicted: 1 - share_explained(values, predicted), "perfect prediction"),
]


def test_a_rank_with_nothing_to_learn_may_not_divide_by_zero():
    with pytest.raises(AssertionError, match="must not divide by 0"):
        check_rank_divisors(lambda counts: [sum(counts) / len(counts) if count else 0 for count in counts])


def test_a_token_of_an_empty_micro_batch_weighs_nothing():
    assert token_weights([0, 4], "micro_batch") == [0.0, 0.125]
    assert token_weights([0, 4], "step") == [0.0, 0.25]


def test_an_unknown_average_is_refused():
    with pytest.raises(ValueError, match='must be "step" or "micro_batch"'):
        token_weights([1, 2], "batch")


def test_ranks_that_are_all_alike_wait_for_nobody():
    assert slowest_over_mean([7, 7, 7, 7]) == 1.0
    assert slowest_over_mean([1, 1, 1, 5]) == 2.5


def test_the_strips_of_counts_name_extremes_and_those_without_any():
    strips = count_strips({"rank": [0, 8, 80], "step": [500, 1000]}).axes
    assert [strip.texts[0].get_text() for strip in strips] == [
        "8 to 80\n10.0 times\nand 1 of none",
        "500 to 1,000\n2.0 times",
    ]


def test_bars_of_shares_are_scaled_to_one():
    bars = share_bars(pd.DataFrame({"ARC": [1, 1], "GSM8K": [1, 3]}, index=["a", "b"])).axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.5, 0.25, 0.5, 0.75]


def test_a_frame_without_tasks_is_refused_by_name():
    with pytest.raises(KeyError, match=r"lacks \['task'\]"):
        loss_by_tokens(pd.DataFrame({"num_tokens": [8], "loss": [0.7]}))


def test_curves_have_a_panel_for_each_task_and_a_line_for_each_run():
    frame = pd.DataFrame({"step": [0, 10], "ARC": [1.0, 0.5], "GSM8K": [2.0, 1.5]})
    panels = task_curves({"one": frame, "other": frame + 0.1}, ["ARC", "GSM8K"]).axes
    assert [(ax.get_title(loc="left"), len(ax.lines)) for ax in panels] == [("ARC", 2), ("GSM8K", 2)]
