"""Checks of notebook 05: the shift, the mask it came from, the slip by one, and the last target of a row that was cut.

The functions on top are what the exercises ask for, and what their cells call as shipped.
"""

from collections.abc import Callable, Sequence

from nanolab.batch import IGNORE_INDEX, Row, fit, shift

END = 7  # plays <|assistant_end|> in the rows below; id 0 is an ordinary token
ROWS: tuple[Row, ...] = (
    ([3, 4, 1, 5, 6, 2, END], [0, 0, 0, 0, 0, 1, 1]),
    ([3, 4, 1, 5, 6, 0, END, 4, 1, 5, 6, 2, 2, END], [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]),
    ([3, 4, 5, 6, 8, 1, 9, 10, 2, 11, 2, END], [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]),  # a call, its output, the rest
    ([3, 4, 1, 5], [0, 0, 0, 0]),
    ([3, END], [0, 1]),
)


def mask_of(targets: Sequence[int]) -> list[int]:
    """The mask of the conversation that `shift` has made these targets of; one longer than they are.

    >>> mask_of([-1, -1, -1, -1, 2, 7])
    [0, 0, 0, 0, 0, 1, 1]
    """
    return [0] + [int(target != IGNORE_INDEX) for target in targets]


def lost_and_added(mask: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions of the inputs whose target is lost, and added, if the inputs' mask bits are used for the targets.

    >>> lost_and_added([0, 0, 1, 1, 0, 1])
    ([1, 4], [3])
    """
    pairs = list(zip(mask[:-1], mask[1:], strict=True))  # (bit of the input, bit of its target)
    lost = [position for position, (asks, answers) in enumerate(pairs) if answers and not asks]
    return lost, [position for position, (asks, answers) in enumerate(pairs) if asks and not answers]


def last_target(ids: Sequence[int], mask: Sequence[int], limit: int) -> int:
    """The last target of a conversation that is cut after `limit` tokens.

    >>> last_target([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1], limit=6)
    2
    """
    return shift(*fit((ids, mask), limit, "truncate"))[1][-1]


def check_shift(
    my_shift: Callable[[list[int], list[int]], tuple[list[int], list[int]]], rows: Sequence[Row] = ()
) -> None:
    """Check `my_shift(ids, mask)`, (inputs, targets), on small made-up conversations and on `rows`.

    Raises AssertionError with the conversation, and with what is wrong.

    >>> check_shift(shift)
    my_shift is right for 5 conversations.
    """
    rows = (*ROWS, *rows)
    for ids, mask in rows:
        inputs, targets = (list(side) for side in my_shift(list(ids), list(mask)))
        expected_inputs, expected_targets = shift(ids, mask)
        case = f"ids {_short(ids)}, mask {_short(mask)}"
        assert inputs == expected_inputs, (
            f"{case}: my_shift's inputs are {_short(inputs)}, {len(inputs)} of {len(ids)}. Which of the ids is never a "
            "question?"
        )
        assert len(targets) == len(inputs), (
            f"{case}: {len(targets)} targets for {len(inputs)} inputs. Each input has exactly one target."
        )
        wrong = [t for t in range(len(inputs)) if targets[t] != expected_targets[t]]
        assert not wrong, (
            f"{case}: at position {wrong[0]}, after the input {inputs[wrong[0]]}, my_shift's target is "
            f"{targets[wrong[0]]}, expected {expected_targets[wrong[0]]}. The target is the next id, and it is that "
            "id's own mask bit that says whether it counts."
        )
    print(f"my_shift is right for {len(rows)} conversations.")


def check_mask_of(my_mask_of: Callable[[list[int]], list[int]]) -> None:
    """Check `my_mask_of(targets)`: the mask of the conversation that the targets are from.

    Raises AssertionError with the targets and what is wrong.

    >>> check_mask_of(mask_of)
    my_mask_of is right for 5 lists of targets.
    """
    for ids, mask in ROWS:
        targets = shift(ids, mask)[1]
        got = [int(bit) for bit in my_mask_of(list(targets))]
        assert len(got) == len(mask), (
            f"The conversation of the targets {targets} has one token more than they are, {len(mask)}; my_mask_of "
            f"gives {len(got)} bits."
        )
        assert got == mask, (
            f"targets {targets}: my_mask_of gives {got}. Shift ids with that mask, and they are not these targets. "
            f"Only {IGNORE_INDEX} means masked (0 is an id like others), and a bit stands where its token stood."
        )
    print(f"my_mask_of is right for {len(ROWS)} lists of targets.")


def check_lost_and_added(my_lost_and_added: Callable[[list[int]], tuple[list[int], list[int]]]) -> None:
    """Check `my_lost_and_added(mask)`: the positions whose target the slip by one loses, and those it adds.

    Raises AssertionError with the mask and what is wrong.

    >>> check_lost_and_added(lost_and_added)
    my_lost_and_added is right for 5 masks.
    """
    for _, mask in ROWS:
        got = tuple(sorted(int(position) for position in side) for side in my_lost_and_added(list(mask)))
        lost, added = lost_and_added(mask)
        assert got != (added, lost) or lost == added, (
            f"mask {mask}: my_lost_and_added gives {got}, which is the wrong way round. A target is lost where its "
            "own bit is 1 and its input's bit is 0."
        )
        assert got == (lost, added), (
            f"mask {mask}: my_lost_and_added gives {got}. Positions are those of the inputs, 0 to {len(mask) - 2}: "
            "compare at each of them the bit of the input with the bit of its target."
        )
    print(f"my_lost_and_added is right for {len(ROWS)} masks.")


def check_last_target(my_last_target: Callable[[list[int], list[int], int], int]) -> None:
    """Check `my_last_target(ids, mask, limit)`: the last target of a row cut after `limit` tokens, for every limit.

    Raises AssertionError with the row, the limit and what is wrong.

    >>> check_last_target(last_target)
    my_last_target is right for 44 cuts.
    """
    cuts = 0
    for ids, mask in ROWS:
        for limit in range(2, len(ids) + 3):
            got, expected = my_last_target(list(ids), list(mask), limit), last_target(ids, mask, limit)
            if limit >= len(ids):
                hint = "Nothing is cut there: the row is not longer than the limit."
            elif expected == IGNORE_INDEX:
                hint = "The last token that is left is not one that the model is trained to say."
            else:
                hint = "The last token that is left is the last target. What was cut off is in neither list."
            assert got == expected, f"ids {ids}, mask {mask}, limit {limit}: my_last_target gives {got}. {hint}"
            cuts += 1
    print(f"my_last_target is right for {cuts} cuts.")


def _short(numbers: Sequence[int]) -> str:
    """A list, cut in the middle if it is long."""
    numbers = list(numbers)
    return str(numbers) if len(numbers) <= 16 else f"[{', '.join(map(str, numbers[:12]))}, ... {numbers[-1]}]"
