"""Checks of notebook 07: packing, buckets, positions that start again, and who may see whom in a packed row.

The functions on top are what the exercises ask for, and what their cells call as shipped.
"""

from collections.abc import Callable, Sequence

import torch

from nanolab.batch import positions_in_documents
from nanolab.layout import best_fit, plan

LENGTHS = (40, 3, 17, 9, 38, 5, 21, 4, 12, 30, 6, 19)  # input slots of conversations
BORDERS = ((0, 5, 7, 10), (0, 4), (0, 1, 2, 6), (0, 3, 8, 8, 8))  # the last two of the last row are empty documents


def packed(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which conversations go into which flat row of `budget` slots, by best fit decreasing.

    >>> packed([5, 2, 3, 6], budget=8)
    [[3, 1], [0, 2]]
    """
    return best_fit(lengths, list(range(len(lengths))), budget)


def buckets(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which conversations share a padded micro-batch of rows * width <= budget: neighbours in length.

    >>> buckets([5, 2, 3, 6], budget=8)
    [[3], [0], [1, 2]]
    """
    laid = plan(lengths, "bucketed", device_batch_tokens=budget)
    return [list(micro_batch.rows) for micro_batch in laid.micro_batches]


def positions(borders: Sequence[int]) -> list[int]:
    """The position of each slot of a flat row in its own document.

    >>> positions([0, 5, 7, 10])
    [0, 1, 2, 3, 4, 0, 1, 0, 1, 2]
    """
    return positions_in_documents(torch.tensor(borders), borders[-1])[0].tolist()


def may_see(borders: Sequence[int]) -> list[list[bool]]:
    """(T, T): whether output t (down) may depend on input s (across) of a flat row.

    >>> may_see([0, 2, 3])
    [[True, False, False], [True, True, False], [False, False, True]]
    """
    document = [sum(start <= slot for start in borders) for slot in range(borders[-1])]
    return [[s <= t and document[s] == document[t] for s in range(borders[-1])] for t in range(borders[-1])]


def check_pack(my_pack: Callable[[list[int], int], Sequence[Sequence[int]]], lengths: Sequence[int] = LENGTHS) -> None:
    """Check `my_pack(lengths, budget)`: every conversation once, no row too full, no two rows that could be one.

    Raises AssertionError with the budget and what is wrong; prints how many rows were needed.

    >>> check_pack(packed)
    rows of    40 slots: 6; nobody can do with less than 6
    rows of    80 slots: 3; nobody can do with less than 3
    rows of   204 slots: 1; nobody can do with less than 1
    """
    for budget in (max(lengths), 2 * max(lengths), sum(lengths)):
        groups = [list(group) for group in my_pack(list(lengths), budget)]
        _check_once(groups, lengths, f"rows of {budget} slots: ")
        fills = sorted(sum(lengths[i] for i in group) for group in groups)
        assert fills[-1] <= budget, (
            f"A row of my_pack's holds {fills[-1]} slots of conversations, {budget} is the most."
        )
        assert len(fills) == 1 or fills[0] + fills[1] > budget, (
            f"Rows of {budget} slots: two rows hold {fills[0]} and {fills[1]}, and these could be one row. A "
            "conversation opens a new row only if no row has room for it."
        )
        print(f"rows of {budget:5,} slots: {len(groups)}; nobody can do with less than {-(-sum(lengths) // budget)}")


def check_buckets(
    my_buckets: Callable[[list[int], int], Sequence[Sequence[int]]], lengths: Sequence[int] = LENGTHS
) -> None:
    """Check `my_buckets(lengths, budget)`: padded micro-batches of rows * width <= budget, and no more than needed.

    A conversation of more than `budget` slots is alone. Raises AssertionError with the budget and what is wrong.

    >>> check_buckets(buckets)
    my_buckets is right for 4 budgets, with 12, 7, 3 and 1 micro-batches.
    """
    numbers = []
    for budget in (1, max(lengths), 3 * max(lengths), len(lengths) * max(lengths)):
        groups = [list(group) for group in my_buckets(list(lengths), budget)]
        _check_once(groups, lengths, f"a budget of {budget} slots: ")
        for group in groups:
            width = max(lengths[i] for i in group)
            assert len(group) == 1 or len(group) * width <= budget, (
                f"A budget of {budget} slots: my_buckets puts conversations of {[lengths[i] for i in group]} slots "
                f"together, {len(group)} rows x {width} = {len(group) * width} slots. Padding counts."
            )
        fewest = len(buckets(lengths, budget))
        assert len(groups) <= fewest, (
            f"A budget of {budget} slots: my_buckets makes {len(groups)} micro-batches, {fewest} are enough. Those of "
            "similar length belong together, and a micro-batch takes as many as fit."
        )
        numbers.append(str(len(groups)))
    listed = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    print(f"my_buckets is right for {len(numbers)} budgets, with {listed} micro-batches.")


def check_positions(my_positions: Callable[[list[int]], Sequence[int]]) -> None:
    """Check `my_positions(borders)`: they start again in each document of the flat row.

    Raises AssertionError with the borders and the right positions.

    >>> check_positions(positions)
    my_positions is right for 4 flat rows.
    """
    for borders in BORDERS:
        got, expected = [int(position) for position in my_positions(list(borders))], positions(borders)
        assert got == expected, (
            f"borders {list(borders)}: my_positions gives {got}, expected {expected}. A document's first slot has "
            "position 0, wherever it stands in the row."
        )
    print(f"my_positions is right for {len(BORDERS)} flat rows.")


def check_may_see(my_may_see: Callable[[list[int]], Sequence[Sequence[bool]]]) -> None:
    """Check `my_may_see(borders)`: (T, T), whether output t may depend on input s.

    Raises AssertionError with the first output and input that are wrong, and the reason.

    >>> check_may_see(may_see)
    my_may_see is right for 4 flat rows.
    """
    for borders in BORDERS:
        got, expected = [[bool(bit) for bit in row] for row in my_may_see(list(borders))], may_see(borders)
        T = borders[-1]
        assert [len(row) for row in got] == [T] * T, f"borders {list(borders)}: the table should have {T} rows of {T}."
        for t in range(T):
            for s in range(T):
                reason = (
                    "s comes later" if s > t else "they are of " + ("one" if expected[t][s] else "two") + " documents"
                )
                assert got[t][s] == expected[t][s], (
                    f"borders {list(borders)}: may output {t} see input {s}? {'Yes' if expected[t][s] else 'No'}: "
                    f"{reason}. my_may_see says {got[t][s]}."
                )
    print(f"my_may_see is right for {len(BORDERS)} flat rows.")


def _check_once(groups: list[list[int]], lengths: Sequence[int], case: str):
    taken = sorted(i for group in groups for i in group)
    assert all(groups), f"{case}one of the lists is empty."
    missing, twice = set(range(len(lengths))) - set(taken), {i for i in taken if taken.count(i) > 1}
    assert not missing, f"{case}the conversations {sorted(missing)} are missing. Every one must be laid out."
    assert not twice, f"{case}the conversations {sorted(twice)} are there more than once."
    assert len(taken) == len(lengths), f"{case}there are only the conversations 0 to {len(lengths) - 1}, got {taken}."
