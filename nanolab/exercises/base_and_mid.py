"""Checks of notebook 09: rows cut from a stream, the two schedules of base and mid, and bits a byte.

The functions on top are what the exercises ask for, and what their cells call as shipped; those of the schedules are
in optim.py.
"""

import math
from collections.abc import Callable, Sequence

STREAM = [3, 11, 12, 13, 3, 21, 22, 3, 31, 32, 33, 34, 35, 3, 41, 42, 43, 3, 51, 52, 53, 54, 55, 56, 57, 58]
# step, total_batch_size, max_seq_len -> inputs, targets
CUT = {
    (0, 8, 4): ([[3, 11, 12, 13], [3, 21, 22, 3]], [[11, 12, 13, 3], [21, 22, 3, 31]]),
    (1, 8, 4): ([[31, 32, 33, 34], [35, 3, 41, 42]], [[32, 33, 34, 35], [3, 41, 42, 43]]),
    (2, 8, 8): ([[43, 3, 51, 52, 53, 54, 55, 56]], [[3, 51, 52, 53, 54, 55, 56, 57]]),
}
# step, num_iterations -> multiplier
MULTIPLIERS = {(0, 10): 1, (7, 10): 1, (8, 10): 1, (9, 10): 1 / 2}
MULTIPLIERS |= {(0, 150): 1, (60, 150): 1, (120, 150): 1, (135, 150): 1 / 2, (149, 150): 1 / 30}
MOMENTA = {0: 0.85, 75: 0.875, 150: 0.9, 299: 0.85 + 0.1 * 299 / 300, 300: 0.95, 301: 0.95, 5000: 0.95}
CLOSE = 1e-6  # a float32 tensor is as good
BIT = math.log(2)  # nats
# nats of each target, bytes behind it -> bits a byte
TEXTS = (
    ([4 * BIT, 2 * BIT], [1, 4], 6 / 5),
    ([BIT] * 6, [1] * 6, 1.0),
    ([3 * BIT, 0.5 * BIT, 9 * BIT, 2.5 * BIT], [5, 2, 0, 1], 6 / 8),  # the third is a special token
)


def stream_rows(
    stream: Sequence[int], step: int, total_batch_size: int, max_seq_len: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Inputs and targets, lists of rows, that base and mid training cut from a stream of ids for one step.

    >>> stream_rows(range(10, 30), step=1, total_batch_size=4, max_seq_len=2)
    ([[14, 15], [16, 17]], [[15, 16], [17, 18]])
    """
    start = step * total_batch_size
    starts = range(start, start + total_batch_size, max_seq_len)
    inputs = [list(stream[first : first + max_seq_len]) for first in starts]
    return inputs, [list(stream[first + 1 : first + 1 + max_seq_len]) for first in starts]


def bits_a_byte(nats: Sequence[float], num_bytes: Sequence[int]) -> float:
    """Bits a byte of text, from the loss of each target in nats and the bytes behind it; special tokens have 0.

    >>> bits_a_byte([math.log(2), math.log(4), 7.0], [1, 2, 0])
    1.0
    """
    of_text = sum(loss for loss, size in zip(nats, num_bytes, strict=True) if size > 0)
    return of_text / math.log(2) / sum(num_bytes)


def check_stream_rows(
    my_stream_rows: Callable[[list[int], int, int, int], tuple[list[list[int]], list[list[int]]]],
) -> None:
    """Check `my_stream_rows(stream, step, total_batch_size, max_seq_len)`: inputs and targets of a step.

    Raises AssertionError with the step and what is wrong.

    >>> check_stream_rows(stream_rows)
    my_stream_rows is right for 3 steps.
    """
    for (step, total_batch_size, max_seq_len), (inputs, targets) in CUT.items():
        got = my_stream_rows(list(STREAM), step, total_batch_size, max_seq_len)
        got_inputs, got_targets = ([list(row) for row in side] for side in got)
        case = f"Step {step}, {total_batch_size} tokens a step, {max_seq_len} a row, of the stream {STREAM}: "
        assert got_inputs == inputs, f"{case}the inputs are {inputs}, my_stream_rows gives {got_inputs}."
        assert got_targets == targets, (
            f"{case}the targets of {inputs} are {targets}, my_stream_rows gives {got_targets}. The stream goes on "
            "behind each row, so its last position has something to predict, too."
        )
    print(f"my_stream_rows is right for {len(CUT)} steps.")


def check_multiplier(my_multiplier: Callable[[int, int], float]) -> None:
    """Check `my_multiplier(step, num_iterations)`: base's and mid's factor of all learning rates.

    Raises AssertionError with the step and what is wrong.

    >>> check_multiplier(lambda step, num_iterations: min(1.0, 5 * (1 - step / num_iterations)))
    my_multiplier is right for 9 steps of two runs.
    """
    for (step, num_iterations), expected in MULTIPLIERS.items():
        got = my_multiplier(step, num_iterations)
        hint = (
            "It is 1 up to and with the step that has four fifths of the steps before it."
            if expected == 1
            else "It falls in a straight line that would be 0 at the step after the last: the last step still trains."
        )
        assert abs(got - expected) < CLOSE, (
            f"Step {step} of {num_iterations}: the multiplier is {expected:.4f}, my_multiplier says {got:.4f}. {hint}"
        )
    print(f"my_multiplier is right for {len(MULTIPLIERS)} steps of two runs.")


def check_momentum(my_momentum: Callable[[int], float]) -> None:
    """Check `my_momentum(step)`: Muon's momentum in base and mid training.

    Raises AssertionError with the step and what is wrong.

    >>> check_momentum(lambda step: 0.85 + 0.1 * min(step, 300) / 300)
    my_momentum is right for 7 steps.
    """
    for step, expected in MOMENTA.items():
        got = my_momentum(step)
        assert abs(got - expected) < CLOSE, (
            f"Step {step}: Muon's momentum is {expected:.4f}, my_momentum says {got:.4f}. It rises by the same amount "
            "at each of the first 300 steps, however long the run is, and stays where it is then."
        )
    print(f"my_momentum is right for {len(MOMENTA)} steps.")


def check_bits_a_byte(my_bits_a_byte: Callable[[list[float], list[int]], float]) -> None:
    """Check `my_bits_a_byte(nats, num_bytes)`: from the loss of each target and the bytes of text behind it.

    Raises AssertionError with the numbers and what is wrong.

    >>> check_bits_a_byte(bits_a_byte)
    my_bits_a_byte is right for 3 texts.
    """
    for nats, num_bytes, expected in TEXTS:
        got = my_bits_a_byte(list(nats), list(num_bytes))
        in_bits = [round(loss / BIT, 2) for loss in nats]
        assert abs(got - expected) < CLOSE, (
            f"Targets with losses of {[round(loss, 3) for loss in nats]} nats, which are {in_bits} bits, and "
            f"{num_bytes} bytes: {expected:.4f} bits a byte, my_bits_a_byte says {got:.4f}. All bits of text are "
            "divided by all bytes of text; a special token (0 bytes) is no text."
        )
    print(f"my_bits_a_byte is right for {len(TEXTS)} texts.")
