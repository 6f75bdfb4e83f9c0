"""Lists, arrays and tensors (on any device) become plain lists and arrays, without knowing torch."""

import numpy as np
from numpy.typing import ArrayLike


def as_list(values: ArrayLike) -> list:
    """A plain list of a list, tuple, numpy array or tensor.

    >>> as_list(np.array([3, 4]))
    [3, 4]
    """
    return values.tolist() if hasattr(values, "tolist") else list(values)


def as_pair(inputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets as two integer arrays (B, T); a single row (T,) counts as a batch of one.

    Raises ValueError when the two shapes differ or there are more than two dimensions.

    >>> as_pair([5, 6], [6, -1])[0].shape
    (1, 2)
    """
    one, other = (np.atleast_2d(np.asarray(as_list(values))) for values in (inputs, targets))
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(
            f"inputs and targets must both be (B, T), but they are {one.shape} and {other.shape}: "
            "pass the two arrays of one batch"
        )
    return one, other


def percent(part: int, whole: int) -> str:
    """`part` of `whole` as text, "0 %" of nothing.

    >>> percent(42, 97)
    '43 %'
    """
    share = part / whole if whole else 0.0
    return "<1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")
