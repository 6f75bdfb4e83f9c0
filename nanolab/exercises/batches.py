"""Checks of notebook 06: the share of padding, real lengths, a padded batch by hand, and which rows a step takes.

The functions on top are what the exercises ask for, and what their cells call as shipped.
"""

from collections.abc import Callable, Sequence

from nanolab.batch import IGNORE_INDEX, Row, lay_out, pad_batch

PAD = 7  # plays <|assistant_end|>, which is also what fills padding
ROWS: tuple[Row, ...] = (
    ([3, 4, 1, 5, 6, 2, PAD], [0, 0, 0, 0, 0, 1, 1]),
    ([3, 4, 1, 5, 6, 2, PAD, 4, 1, 1, 5, 6, 2, PAD], [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]),  # two turns
    ([3, 4, 1, 1, 5, 6, 2, PAD, 4, 1, 5], [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]),  # the last word is the user's
    ([3, 4, 5, 6, PAD], [0, 0, 0, 0, 1]),
)
LENGTHS = (5, 9, 3, 30, 12, 12, 7)
SIZES = (1, 2, 4, 8)
CLOSE = 1e-6
# step, num_examples, num_rows -> the rows
STEPS = {
    (0, 4, 10): [0, 1, 2, 3],
    (1, 4, 10): [4, 5, 6, 7],
    (2, 4, 10): [8, 9, 0, 1],  # around the end
    (3, 4, 10): [2, 3, 4, 5],  # and on from there: no row is left out
    (5, 2, 4): [2, 3],
    (1, 5, 3): [2, 0, 1, 2, 0],
}


def padding_share(lengths: Sequence[int], size: int) -> float:
    """Share of padding of conversations with these numbers of tokens, in order, `size` a batch.

    >>> padding_share([5, 9, 3], 2) == 1 - (4 + 8 + 2) / (8 + 8 + 2)
    True
    """
    batches = lay_out([([0] * n, [0] * n) for n in lengths], pad_id=0, device_batch_size=size)
    return 1 - sum(batch.real_tokens for batch in batches) / sum(batch.slots for batch in batches)


def padded_lists(rows: Sequence[Row], pad_id: int) -> tuple[list[list[int]], list[list[int]]]:
    """Inputs and targets of a padded batch, as lists of rows.

    >>> padded_lists([([3, 1, 7], [0, 1, 1]), ([3, 7], [0, 1])], pad_id=7)
    ([[3, 1], [3, 7]], [[1, 7], [7, -1]])
    """
    batch = pad_batch(rows, pad_id)
    return batch.inputs.tolist(), batch.targets.tolist()


def conversations_of(step: int, num_examples: int, num_rows: int) -> list[int]:
    """Which of `num_rows` conversations optimizer step `step` trains on, `num_examples` at a time, over and over.

    >>> conversations_of(2, num_examples=4, num_rows=10)
    [8, 9, 0, 1]
    """
    return [k % num_rows for k in range(step * num_examples, (step + 1) * num_examples)]


def check_padding_share(my_padding_share: Callable[[list[int], int], float], lengths: Sequence[int] = LENGTHS) -> None:
    """Check `my_padding_share(lengths, size)` on a case worked out by hand, and on `lengths` in batches of 1 to 8.

    Raises AssertionError with the lengths and what is wrong.

    >>> check_padding_share(padding_share)
    my_padding_share is right: 0 % of the slots in batches of 1, 30 % of 2, 52 % of 4, 65 % of 8.
    """
    got = my_padding_share([5, 9, 3], 2)
    assert abs(got - (1 - 14 / 18)) < CLOSE, (
        f"Conversations of 5, 9 and 3 tokens, two a batch: 4 + 8 + 2 positions are real, and the shapes are (2, 8) and "
        f"(1, 2), 18 slots together. my_padding_share says {got:.4f}."
    )
    shares = {}
    for size in SIZES:
        shares[size], got = padding_share(lengths, size), my_padding_share(list(lengths), size)
        assert abs(got - shares[size]) < CLOSE, (
            f"{len(lengths)} conversations, {size} a batch: {shares[size]:.4f} of all slots are padding, "
            f"my_padding_share says {got:.4f}. They stay in order, and the last batch has as many rows as are left."
        )
    listed = ", ".join(f"{100 * share:.0f} % of {size}" for size, share in list(shares.items())[1:])
    print(f"my_padding_share is right: {100 * shares[1]:.0f} % of the slots in batches of 1, {listed}.")


def check_real_lengths(my_real_lengths: Callable[[list[list[int]], list[list[int]], int], Sequence[int]]) -> None:
    """Check `my_real_lengths(inputs, targets, pad_id)`: how many positions of each row are not padding.

    Raises AssertionError with the row and what is wrong.

    >>> check_real_lengths(real_row_lengths)
    my_real_lengths is right for 4 rows of one batch, and for each of them alone.
    """
    for rows in (ROWS, *((row,) for row in ROWS)):
        inputs, targets = padded_lists(rows, PAD)
        got = [int(length) for length in my_real_lengths(inputs, targets, PAD)]
        assert len(got) == len(rows), f"The batch has {len(rows)} rows, my_real_lengths gives {len(got)} numbers."
        for row, (ids, _) in enumerate(rows):
            assert got[row] == len(ids) - 1, (
                f"The row of inputs {inputs[row]} and targets {targets[row]} (padding: {PAD}) has {len(ids) - 1} real "
                f"positions, my_real_lengths says {got[row]}. Padding is only the tail: {PAD} may also end a turn in "
                f"the middle, and real positions may have the target {IGNORE_INDEX}, even the last one."
            )
    print(f"my_real_lengths is right for {len(ROWS)} rows of one batch, and for each of them alone.")


def check_pad(my_pad: Callable[[list[Row], int], tuple[list[list[int]], list[list[int]]]]) -> None:
    """Check `my_pad(rows, pad_id)`: inputs and targets of a padded batch.

    Raises AssertionError with what is wrong: the shape, what fills the inputs, or what fills the targets.

    >>> check_pad(padded_lists)
    my_pad is right for 4 conversations, and for 1.
    """
    for rows in (ROWS, ROWS[:1]):
        inputs, targets = my_pad([(list(ids), list(mask)) for ids, mask in rows], PAD)
        expected_inputs, expected_targets = padded_lists(rows, PAD)
        shape, expected = (
            [[len(row) for row in side] for side in (inputs, targets)],
            [len(expected_inputs[0])] * len(rows),
        )
        assert shape == [expected, expected], (
            f"The longest of {len(rows)} conversations has {max(len(ids) for ids, _ in rows)} tokens, so inputs and "
            f"targets have {expected[0]} columns; in my_pad's, the rows have {shape[0]} inputs and {shape[1]} targets."
        )
        for row, (ids, mask) in enumerate(rows):
            case = f"ids {ids}, mask {mask}"
            assert list(inputs[row]) == expected_inputs[row], (
                f"{case}: the inputs should be {expected_inputs[row]}, my_pad's are {list(inputs[row])}. The "
                f"conversation comes first, and {PAD} fills the tail."
            )
            assert list(targets[row]) == expected_targets[row], (
                f"{case}: the targets should be {expected_targets[row]}, my_pad's are {list(targets[row])}. Nothing is "
                f"learned from padding: a target of {PAD} there would train the model to stop again and again."
            )
    print(f"my_pad is right for {len(ROWS)} conversations, and for 1.")


def check_conversations_of(my_conversations_of: Callable[[int, int, int], Sequence[int]]) -> None:
    """Check `my_conversations_of(step, num_examples, num_rows)`: which rows of the mixture a step trains on.

    Raises AssertionError with the step and the right rows.

    >>> check_conversations_of(conversations_of)
    my_conversations_of is right for 6 steps: the step number is all that a data loader has to remember.
    """
    for (step, num_examples, num_rows), expected in STEPS.items():
        got = [int(k) for k in my_conversations_of(step, num_examples, num_rows)]
        assert got == expected, (
            f"Step {step}, {num_examples} conversations a step, {num_rows} in the mixture: rows {expected}, "
            f"my_conversations_of says {got}. After the last row comes the first, also within a step."
        )
    print(
        f"my_conversations_of is right for {len(STEPS)} steps: the step number is all that a data loader has to "
        "remember."
    )
