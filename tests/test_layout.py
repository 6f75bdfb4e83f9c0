import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab.layout import BATCHINGS, MicroBatch, Plan, best_fit, plan, possible_shapes, static_sizes

FOUR = [5, 2, 3, 6]  # the conversations a b c d of layout.py's picture

some_lengths = st.lists(st.integers(0, 60), max_size=40)
budgets = st.integers(1, 80)
batchings = st.sampled_from(BATCHINGS)


def rows_and_shapes(laid: Plan) -> list:
    return [(micro_batch.rows, micro_batch.shape) for micro_batch in laid.micro_batches]


def test_padded_keeps_the_order_and_is_as_wide_as_the_longest_of_each_micro_batch():
    laid = plan(FOUR, "padded", device_batch_size=2)
    assert rows_and_shapes(laid) == [((0, 1), (2, 5)), ((2, 3), (2, 6))]
    assert (laid.slots, laid.real_tokens, laid.num_rows) == (22, 16, 4)


def test_bucketed_puts_neighbours_in_length_together_under_the_budget():
    laid = plan(FOUR, "bucketed", device_batch_tokens=8)
    assert rows_and_shapes(laid) == [((3,), (1, 6)), ((0,), (1, 5)), ((1, 2), (2, 3))]
    assert laid.slots == 17


def test_bucketed_wastes_fewer_slots_than_filling_rows_greedily_would():
    laid = plan([4, 4, 5, 5, 5], "bucketed", device_batch_tokens=15)  # greedily 4 4 5, then 5 5: 25 slots
    assert rows_and_shapes(laid) == [((2, 3, 4), (3, 5)), ((0, 1), (2, 4))]
    assert laid.padding == 0


def test_packed_fills_flat_rows_without_padding():
    laid = plan(FOUR, "packed", device_batch_tokens=8)
    assert rows_and_shapes(laid) == [((3, 1), (1, 8)), ((0, 2), (1, 8))]
    assert laid.padding == 0


def test_a_conversation_longer_than_the_budget_stands_alone():
    assert rows_and_shapes(plan([3, 20], "packed", device_batch_tokens=8)) == [((1,), (1, 20)), ((0,), (1, 3))]
    assert rows_and_shapes(plan([3, 20], "bucketed", device_batch_tokens=8)) == [((1,), (1, 20)), ((0,), (1, 3))]


def test_static_packed_rows_fill_up_what_a_long_conversation_leaves_free():
    laid = plan([3, 20, 9], "packed", device_batch_tokens=8, static_shapes=True)
    assert rows_and_shapes(laid) == [((1,), (1, 32)), ((2, 0), (1, 16))]  # 3 beside 9: the least room


def test_static_packed_rows_are_budgets_and_parts_of_one():
    laid = plan([300] * 4 + [100], "packed", device_batch_tokens=1024, static_shapes=True)
    assert rows_and_shapes(laid) == [((0, 1, 2, 4), (1, 1024)), ((3,), (1, 512))]  # not 1,024 for the last 300


def test_static_packed_rows_of_the_same_part_of_a_budget_become_one():
    laid = plan([1000, 500, 300], "packed", device_batch_tokens=1024, static_shapes=True)
    assert rows_and_shapes(laid) == [((0,), (1, 1024)), ((1, 2), (1, 1024))]  # not 512 twice


def test_static_bucketed_rows_have_a_width_of_a_few_and_the_rows_that_fit():
    laid = plan([130, 120, 500, 90], "bucketed", device_batch_tokens=1024, static_shapes=True)
    assert rows_and_shapes(laid) == [((2, 0), (2, 512)), ((1, 3), (8, 128))]


def test_static_padded_rows_have_a_fixed_number_of_rows():
    laid = plan([130, 120, 500], "padded", device_batch_size=2, device_batch_tokens=512, static_shapes=True)
    assert rows_and_shapes(laid) == [((0, 1), (2, 256)), ((2,), (2, 512))]


def test_sizes_are_halves_of_the_budget_and_doubles_of_it():
    assert static_sizes("packed", 2048, longest=5000) == [256, 512, 1024, 2048, 4096, 8192]
    assert static_sizes("bucketed", 2048, longest=5000) == [128, 256, 512, 1024, 2048, 4096, 8192]
    assert static_sizes("packed", 1000) == [125, 250, 500, 1000]
    assert static_sizes("packed", 1) == static_sizes("bucketed", 1) == [1]


def test_possible_shapes_stop_at_the_longest_conversation_where_rows_are_padded():
    assert possible_shapes("bucketed", 1024, longest=300) == [(8, 128), (4, 256), (2, 512)]
    assert possible_shapes("padded", 1024, longest=300, device_batch_size=4) == [(4, 128), (4, 256), (4, 512)]
    assert possible_shapes("packed", 1024, longest=300) == [(1, 128), (1, 256), (1, 512), (1, 1024)]


def test_conversations_with_nothing_to_feed_are_left_out():
    for batching in BATCHINGS:
        assert [m.rows for m in plan([0, 4, 0], batching).micro_batches] == [(1,)]
        assert plan([0, 0], batching, static_shapes=True).micro_batches == ()


def test_an_empty_step_has_no_micro_batches_and_no_padding():
    for batching in BATCHINGS:
        laid = plan([], batching)
        assert (laid.micro_batches, laid.slots, laid.padding, laid.shapes) == ((), 0, 0.0, {})
        assert str(laid) == f"{batching}: 0 micro-batches, 0 conversations, 0 real tokens in 0 slots, 0.0% padding"


def test_a_plan_prints_its_shapes_and_what_each_wastes():
    laid = plan([1000, 500, 300], "packed", device_batch_tokens=1024, static_shapes=True)
    assert str(laid).splitlines() == [
        "packed: 2 micro-batches, 3 conversations, 1,800 real tokens in 2,048 slots, 12.1% padding",
        "       B x T  micro-batches  conversations  padding",
        "   1 x 1,024              2              3    12.1%",
    ]


def test_a_long_printed_plan_is_cut():
    laid = plan(range(1, 30), "padded", device_batch_size=1)
    assert len(str(laid).splitlines()) == 2 + 12 + 1
    assert str(laid).endswith("17 more shapes")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="Unknown batching 'sorted'. There are: 'padded', 'bucketed', 'packed'."):
        plan([1], "sorted")
    with pytest.raises(ValueError, match="device_batch_size must be 1 or more, got 0"):
        plan([1], device_batch_size=0)
    with pytest.raises(ValueError, match="device_batch_tokens must be 1 or more, got 0"):
        possible_shapes("packed", 0, longest=5)


def test_best_fit_prefers_the_bin_with_the_least_room():
    assert best_fit([4], [0], budget=9, room=[9, 5, 7]) == [[], [0], []]
    assert best_fit([5, 2, 2], [0, 1, 2], budget=9, room=[9, 5]) == [[1, 2], [0]]


@given(some_lengths, batchings, budgets, st.integers(1, 5), st.booleans())
def test_every_conversation_with_something_to_feed_appears_once_and_fits(lengths, batching, tokens, size, static):
    laid = plan(lengths, batching, device_batch_size=size, device_batch_tokens=tokens, static_shapes=static)
    rows = [i for micro_batch in laid.micro_batches for i in micro_batch.rows]
    assert sorted(rows) == [i for i, length in enumerate(lengths) if length > 0]
    for micro_batch in laid.micro_batches:
        of_rows, (height, width) = [lengths[i] for i in micro_batch.rows], micro_batch.shape
        if batching == "packed":
            assert height == 1 and sum(of_rows) <= width
        else:
            assert len(of_rows) <= height and max(of_rows) <= width
        assert micro_batch.real_tokens == sum(of_rows)
    assert laid.num_rows == len(rows) and laid.real_tokens == sum(lengths)


@given(some_lengths, st.sampled_from(["bucketed", "packed"]), budgets, st.booleans())
def test_no_micro_batch_exceeds_the_budget_unless_a_single_conversation_does(lengths, batching, tokens, static):
    for micro_batch in plan(lengths, batching, device_batch_tokens=tokens, static_shapes=static).micro_batches:
        longest = max(lengths[i] for i in micro_batch.rows)
        assert micro_batch.slots <= tokens or longest > tokens
        if longest > tokens and not static:
            assert len(micro_batch.rows) == 1 and micro_batch.shape == (1, longest)


@given(some_lengths, batchings, budgets, st.integers(1, 5), st.integers(0, 200))
def test_static_shapes_are_those_that_were_announced(lengths, batching, tokens, size, beyond):
    laid = plan(lengths, batching, device_batch_size=size, device_batch_tokens=tokens, static_shapes=True)
    longest = max(lengths, default=0) + beyond  # of the whole data set, of which the step is a part
    assert set(laid.shapes) <= set(possible_shapes(batching, tokens, longest, size))


@given(some_lengths, budgets)
def test_eager_packed_rows_have_no_padding(lengths, tokens):
    assert plan(lengths, "packed", device_batch_tokens=tokens).padding == 0


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 20))
def test_bucketed_has_the_fewest_micro_batches_and_then_the_fewest_slots_of_all_divisions(lengths, tokens):
    laid = plan(lengths, "bucketed", device_batch_tokens=tokens)
    assert (len(laid.micro_batches), laid.slots) == best_of_all_divisions(sorted(lengths), tokens)


def best_of_all_divisions(lengths: list[int], tokens: int) -> tuple[float, float]:
    """(micro-batches, slots), by trying every first group."""
    if not lengths:
        return 0, 0
    best = (math.inf, math.inf)
    for rows in range(1, len(lengths) + 1):
        slots = rows * lengths[rows - 1]
        if rows == 1 or slots <= tokens:
            more, of_rest = best_of_all_divisions(lengths[rows:], tokens)
            best = min(best, (1 + more, slots + of_rest))
    return best


@given(some_lengths, batchings, budgets, st.booleans())
def test_the_same_lengths_give_the_same_plan_whatever_sequence_they_come_in(lengths, batching, tokens, static):
    settings_of_plan = {"device_batch_tokens": tokens, "static_shapes": static}
    assert plan(lengths, batching, **settings_of_plan) == plan(tuple(lengths), batching, **settings_of_plan)


def test_equal_lengths_are_taken_in_order():
    assert [m.rows for m in plan([5] * 4, "packed", device_batch_tokens=10).micro_batches] == [(0, 1), (2, 3)]
    assert [m.rows for m in plan([5] * 4, "bucketed", device_batch_tokens=10).micro_batches] == [(2, 3), (0, 1)]


def test_a_micro_batch_knows_its_slots():
    assert MicroBatch(rows=(0, 1), shape=(2, 5), real_tokens=7).slots == 10
