"""Losses over steps, of one run and of several."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import SERIES

HALF_LIFE = 0.02  # of the smoothing, as a share of the steps drawn
STYLES = ("-", "--", "-.", ":")


def smooth(values: pd.Series) -> pd.Series:
    """Exponential moving average without start-up bias; half-life 2 % of the series, at least one step.

    >>> smooth(pd.Series([4.0, 4.0])).tolist()
    [4.0, 4.0]
    """
    return values.ewm(halflife=max(1.0, HALF_LIFE * len(values))).mean()


def draw_loss(ax: Axes, steps: pd.Series, loss: pd.Series, colour: str, style: str = "-", label: str = "") -> None:
    """The loss of every step thin and pale, its moving average over it."""
    ax.plot(steps, loss, color=colour, lw=0.8, alpha=0.3)
    ax.plot(steps, smooth(loss), color=colour, lw=2, ls=style, label=label)


def loss_curves(frames: dict[str, pd.DataFrame], title: str | None = None, x: str = "step", y: str = "loss") -> Figure:
    """Draw the losses of several runs over each other, smoothed, with the last value of each in the legend.

    Each frame has the columns `x` and `y` (LiveCurve.frame has them). Raises KeyError naming run and column.

    >>> loss_curves({"padded": curve_a.frame, "packed": curve_b.frame})  # doctest: +SKIP
    """
    picture = Picture(height=3.6)
    ax = tidy(picture.add_subplot(), title)
    for index, (name, frame) in enumerate(frames.items()):
        missing = {x, y} - set(frame.columns)
        if missing:
            raise KeyError(f"loss_curves: the run {name!r} lacks {sorted(missing)}; it has {list(frame.columns)}")
        rows = frame.dropna(subset=[y])
        label = f"{name}: {smooth(rows[y]).iloc[-1]:.3f}" if len(rows) else f"{name}: no values"
        colour, style = SERIES[index % len(SERIES)], STYLES[index % len(STYLES)]
        draw_loss(ax, rows[x], rows[y], colour, style, label)
    ax.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    ax.legend(frameon=False, fontsize=9, title="last value, smoothed", title_fontsize=8, handlelength=3)
    return picture
