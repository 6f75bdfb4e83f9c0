"""A metric of several runs over each other."""

from textwrap import wrap

import numpy as np
import pandas as pd

from nanolab.show.curves import STYLES, smooth
from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import SERIES

MOST_POINTS = 1_600  # of a line in a picture of 810 pixels: two a pixel
FEW_POINTS = 40  # up to here, every value is a point
OFTEN = 0.5  # a metric of more than half of a run's steps is smoothed
MOST_PALE = 3  # runs whose single steps are drawn too: more of them make one cloud
MARKERS = "osD^vPX*"
LABEL_WIDTH = 100  # letters of a line in the legend
HEIGHT, LEGEND_LINE = 3.7, 0.19  # inches: of a picture without its legend, of a line in that


def run_curves(frames: dict[str, pd.DataFrame], metric: str = "loss", title: str | None = None) -> Picture:
    """Draw a metric of several runs: label -> a frame with the columns "step" and `metric`, NaN where not measured.

    Measured at most steps, it is smoothed (see `smooth`), with up to three runs over a pale line of all values; else
    drawn as measured. More than 1,600 values are thinned to the lowest and the highest of each stretch, and the picture
    says so.

    >>> run_curves({"gentle": frame_a, "bold": frame_b}, "val_loss")                     # doctest: +SKIP
    """
    labels = {name: wrap(name, LABEL_WIDTH) or [name] for name in frames}
    num_lines = sum(map(len, labels.values()))
    picture = Picture(height=HEIGHT + LEGEND_LINE * num_lines)
    ax = tidy(picture.add_subplot(), title)
    longest, any_smooth = 0, False
    for index, (name, frame) in enumerate(frames.items()):
        rows = frame[["step", metric]].dropna().sort_values("step", kind="stable")
        often = len(rows) > FEW_POINTS and len(rows) > OFTEN * len(frame)
        any_smooth |= often
        longest = max(longest, len(rows))
        look = {"color": SERIES[index % len(SERIES)], "lw": 2, "ls": STYLES[(index + index // len(SERIES)) % 4]}
        if len(rows) <= FEW_POINTS:
            look |= {"marker": MARKERS[index % len(MARKERS)], "ms": 5}
        values = smooth(rows[metric]) if often else rows[metric]
        if often and len(frames) <= MOST_PALE:
            ax.plot(*thinned(rows["step"], rows[metric]), color=look["color"], lw=0.8, alpha=0.3)
        last = f": {values.iloc[-1]:.4g}" if len(rows) else f": no {metric}"
        ax.plot(*thinned(rows["step"], values), **look, label="\n".join(labels[name]) + last)
    ax.set(xlabel=_about_steps(longest), ylabel=_upwards(metric))
    what = "last value, smoothed" if any_smooth else "last value"
    picture.legend(
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        title=what,
        title_fontsize=8,
        handlelength=4,
        alignment="left",
    )
    return picture


def thinned(steps: pd.Series, values: pd.Series, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` of the points of a line: the lowest and the highest of each stretch, so that no spike is lost.

    >>> [part.tolist() for part in thinned(pd.Series(range(6)), pd.Series([1, 9, 2, 3, 0, 4]), most=4)]
    [[0, 1, 4, 5], [1, 9, 0, 4]]
    """
    x, y = np.asarray(steps), np.asarray(values)
    if len(y) <= most:
        return x, y
    edges = np.linspace(0, len(y), max(1, most // 2) + 1).astype(int)
    kept = []
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        kept += sorted({begin + int(np.argmin(y[begin:end])), begin + int(np.argmax(y[begin:end]))})
    return x[kept], y[kept]


def _about_steps(longest: int) -> str:
    if longest <= MOST_POINTS:
        return "step"
    stretch = longest / (MOST_POINTS / 2)
    return f"step (of {longest:,}; drawn are the lowest and the highest value of every {stretch:.3g})"


def _upwards(metric: str) -> str:
    loss = {"loss": "loss", "val_loss": "validation loss"}.get(metric)
    return metric.replace("_", " ") if loss is None else f"{loss}\nnats a supervised token"
