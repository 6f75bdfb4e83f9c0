"""Checks of notebook 15: what a run costs, the largest micro-batch that fits, and what the ranks tell each other.

The functions on top are what the exercises ask for, and what their cells call as shipped.
"""

from collections.abc import Callable

BYTES = 4  # of a float32
HOUR = 3600  # seconds
# weights, tokens a weight, tokens a step, operations a second of a GPU -> steps, tokens, GPU hours
COSTS = {
    (561_000_000, 20, 524_288, 400e12): (21_400, 11_219_763_200, 26.225),
    (1_900_000_000, 20, 524_288, 400e12): (72_479, 37_999_869_952, 300.832),
    (36_000_000, 20, 8_192, 50e9): (87_890, 719_994_880, 863.994),
    (1_000, 1, 64, 1e6): (15, 960, 0.0016),
}
# rows that fit, tokens a step, tokens a row, ranks -> rows a micro-batch, micro-batches a step of each rank
LARGEST = {
    (25, 524_288, 2_048, 8): (16, 2),
    (33, 524_288, 2_048, 8): (32, 1),
    (100, 524_288, 2_048, 8): (32, 1),
    (25, 524_288, 2_048, 1): (16, 16),
    (5, 24_576, 2_048, 2): (3, 2),
    (1, 16_384, 2_048, 8): (1, 1),
}
# weights, ranks, bytes a second that a rank can send -> seconds
TOLD = {
    (561_000_000, 8, 450e9): 0.0087267,
    (561_000_000, 2, 1.25e9): 1.7952,
    (561_000_000, 64, 1.25e9): 3.5343,
    (1_000, 1, 1e9): 0.0,
}
CLOSE = 1e-3  # relative


def run_cost(
    num_weights: int, tokens_a_weight: int, total_batch_size: int, operations_a_second: float
) -> tuple[int, int, float]:
    """Whole steps of a run, its tokens, and the hours of one GPU: 6 operations a weight and token.

    >>> run_cost(1_000, 1, 64, 1e6 / 3600)
    (15, 960, 5.76)
    """
    steps = num_weights * tokens_a_weight // total_batch_size
    tokens = steps * total_batch_size
    return steps, tokens, 6 * num_weights * tokens / operations_a_second / HOUR


def largest_micro_batch(
    fits: Callable[[int], bool], total_batch_size: int, max_seq_len: int, ranks: int
) -> tuple[int, int]:
    """Rows of the largest micro-batch that fits and divides a rank's share of a step, and how many it needs then.

    >>> largest_micro_batch(lambda rows: rows <= 25, 524_288, 2_048, ranks=8)
    (16, 2)
    """
    share = total_batch_size // max_seq_len // ranks
    rows = max(rows for rows in range(1, share + 1) if share % rows == 0 and fits(rows))
    return rows, share // rows


def telling_seconds(num_weights: int, ranks: int, bytes_a_second: float) -> float:
    """Seconds in which a ring of ranks adds up its float32 gradients: each sends 2 (N - 1) / N of them.

    >>> telling_seconds(1_000_000, ranks=4, bytes_a_second=1e6)
    6.0
    """
    return 2 * (ranks - 1) / ranks * BYTES * num_weights / bytes_a_second


def check_cost(my_cost: Callable[[int, int, int, float], tuple[int, int, float]]) -> None:
    """Check `my_cost(num_weights, tokens_a_weight, total_batch_size, operations_a_second)`: steps, tokens, GPU hours.

    Raises AssertionError with the run and what is wrong.

    >>> check_cost(run_cost)
    my_cost is right for 4 runs.
    """
    for run, (steps, tokens, hours) in COSTS.items():
        got_steps, got_tokens, got_hours = my_cost(*run)
        case = f"{run[0]:,} weights, {run[1]} tokens each, {run[2]:,} tokens a step: "
        assert got_steps == steps, f"{case}{steps:,} steps, my_cost says {got_steps}. Only whole steps are made."
        assert got_tokens == tokens, f"{case}{tokens:,} tokens, my_cost says {got_tokens}. As many as its steps have."
        assert abs(got_hours - hours) <= CLOSE * hours, (
            f"{case}{hours:g} hours of a GPU with {run[3]:g} operations a second, my_cost says {got_hours:g}. Two a "
            "weight and token forward, and twice that backward. An hour has 3600 seconds."
        )
    print(f"my_cost is right for {len(COSTS)} runs.")


def check_largest(my_largest: Callable[[Callable[[int], bool], int, int, int], tuple[int, int]]) -> None:
    """Check `my_largest(fits, total_batch_size, max_seq_len, ranks)`: rows a micro-batch, micro-batches a rank.

    Raises AssertionError with the machine and what is wrong.

    >>> check_largest(largest_micro_batch)
    my_largest is right for 6 machines.
    """
    for (most, total, T, ranks), (rows, number) in LARGEST.items():
        got_rows, got_number = my_largest(lambda rows, most=most: rows <= most, total, T, ranks)
        case = f"{total:,} tokens a step in rows of {T:,}, {ranks} ranks, up to {most} rows fit: "
        assert got_rows <= most, f"{case}my_largest says {got_rows} rows, which do not fit."
        assert (got_rows, got_number) == (rows, number), (
            f"{case}micro-batches of {rows} rows, {number} of them, my_largest says {got_rows} and {got_number}. Each "
            "rank has an equal share of the step's rows, and its micro-batches are all of one size."
        )
    print(f"my_largest is right for {len(LARGEST)} machines.")


def check_telling(my_telling: Callable[[int, int, float], float]) -> None:
    """Check `my_telling(num_weights, ranks, bytes_a_second)`: seconds of adding up all ranks' gradients in a ring.

    Raises AssertionError with the machine and what is wrong.

    >>> check_telling(telling_seconds)
    my_telling is right for 4 machines.
    """
    for machine, seconds in TOLD.items():
        got = my_telling(*machine)
        assert abs(got - seconds) <= CLOSE * seconds, (
            f"{machine[0]:,} weights, {machine[1]} ranks, {machine[2]:g} bytes a second: {seconds:g} seconds, "
            f"my_telling says {got:g}. A float32 has four bytes, and every rank sends all but its own part twice: once "
            "while the parts are added up, once while the sums go round."
        )
    print(f"my_telling is right for {len(TOLD)} machines.")
