"""Checks of notebook 08: bytes of weights, bytes of logits, and a cut that still teaches where to stop."""

from collections.abc import Callable

from nanolab.gpt import GPTConfig
from nanolab.memory import Load, naive_logits_bytes, weight_sizes

MODELS = ((1, 512), (2, 1_024), (4, 65_536), (20, 65_536))  # depth, vocabulary
SHAPES = ((1, 1, 8), (4, 100, 1_024), (1, 2_048, 65_536))  # B, T, V
END = 7  # plays <|assistant_end|> in the row below
ROW = ([3, 4, 1, 5, 6, 2, END, 4, END, 5, 6, 2, 2, END], [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1])
WHOLE_TURNS = (7, 14)  # tokens up to the end of each of its turns of the assistant


def check_weight_bytes(my_weight_bytes: Callable[[GPTConfig], int]) -> None:
    """Check `my_weight_bytes(config)`: bytes of all weights in float32.

    Raises AssertionError with the model and the right number.

    >>> check_weight_bytes(lambda config: sum(weight_sizes(config)))
    my_weight_bytes is right for 4 models.
    """
    for depth, vocab_size in MODELS:
        config = GPTConfig.from_depth(depth, vocab_size)
        expected, got = sum(weight_sizes(config)), my_weight_bytes(config)
        assert got == expected, (
            f"A d{depth} with {vocab_size:,} tokens has {expected:,} bytes of weights, my_weight_bytes says {got:,}. "
            "Embedding and head are two matrices, and a float32 has 4 bytes."
        )
    print(f"my_weight_bytes is right for {len(MODELS)} models.")


def check_logits_bytes(my_logits_bytes: Callable[[int, int, int], int]) -> None:
    """Check `my_logits_bytes(B, T, V)`: bytes of float32 logits of all slots, kept twice.

    Raises AssertionError with the shape and the right number.

    >>> check_logits_bytes(lambda B, T, V: 8 * B * T * V)
    my_logits_bytes is right for 3 shapes.
    """
    for B, T, V in SHAPES:
        expected = naive_logits_bytes(GPTConfig.from_depth(1, V), [Load(B, T, B * T)])
        got = my_logits_bytes(B, T, V)
        assert got == expected, (
            f"({B}, {T}, {V:,}) logits kept twice are {expected:,} bytes, my_logits_bytes says {got:,}."
        )
    print(f"my_logits_bytes is right for {len(SHAPES)} shapes.")


def check_too_long(my_cut: Callable[[list[int], list[int], int, int], tuple[list[int], list[int]] | None]) -> None:
    """Check `my_cut(ids, mask, limit, assistant_end)`: as many whole turns of the assistant as fit, or None.

    Raises AssertionError with the limit, what was given and what was expected.

    >>> check_too_long(lambda ids, mask, limit, end: None)      # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    AssertionError: With a limit of 7 ...
    """
    ids, mask = ROW
    for limit in range(1, len(ids) + 3):
        end = max((end for end in WHOLE_TURNS if end <= limit), default=None)
        expected = None if end is None else (ids[:end], mask[:end])
        got = my_cut(list(ids), list(mask), limit, END)
        got = None if got is None else (list(got[0]), list(got[1]))
        assert got == expected, (
            f"With a limit of {limit} tokens, my_cut makes {got} of the {len(ids)} ids {ids}, expected {expected}. "
            f"A user may say {END} as well: there its mask is 0, and no turn of the assistant ends."
        )
    print(f"my_cut is right for {len(ids) + 2} limits.")
