"""Supervised tokens: how uneven they are, whose the step is, and what they do to losses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import INK, SERIES, SUPERVISED, ink_on
from nanolab.show.values import percent

BINS = 40
LABEL_SHARE = 0.055  # narrower segments have no room for their percentage
MARKERS = "os^DvPX*"  # tasks are told apart by shape too
STYLES = ("-", "--", ":", "-.")


def count_strips(counts: Mapping[str, Sequence[int]], xlabel: str = "supervised tokens (log scale)") -> Figure:
    """Draw how uneven counts are: a histogram strip for each kind of unit, on one log scale, with its extremes.

    Counts of 0 have no place on a log scale: they are left out and counted in the strip's text.

    >>> count_strips({"micro-batch": [8, 90, 240], "step": [500, 700, 900]})
    """
    positive = {name: np.asarray([c for c in of_name if c > 0]) for name, of_name in counts.items()}
    everything = np.concatenate(list(positive.values()))
    bins = np.geomspace(everything.min() * 0.9, everything.max() * 1.1, BINS + 1)
    picture = Picture(height=0.6 + 0.75 * len(counts))
    strips = picture.subplots(len(counts), sharex=True, squeeze=False)[:, 0]
    for ax, (name, found) in zip(strips, positive.items(), strict=True):
        tidy(ax, grid=None).set(xscale="log", yticks=[])
        ax.spines["left"].set_visible(False)
        ax.hist(found, bins=bins, color=SUPERVISED)
        ax.axvline(np.median(found), color=INK, lw=1.5)
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK)
        zeros = len(counts[name]) - len(found)
        facts = f"{found.min():,} to {found.max():,}\n{found.max() / found.min():,.1f} times"
        facts += f"\nand {zeros:,} of none" if zeros else ""
        ax.text(1.01, 0.5, facts, transform=ax.transAxes, fontsize=8.5, va="center", color=INK)
    strips[-1].set_xlabel(xlabel + "; line: median")
    strips[-1].xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    return picture


def share_bars(shares: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw shares as stacked bars: a bar for each row of `shares`, a segment for each column (a task).

    Each row is scaled to sum to 1.

    >>> share_bars(pd.DataFrame({"ARC": [0.1, 0.4], "GSM8K": [0.9, 0.6]}, index=["one denominator", "mean of means"]))
    """
    shares = shares.div(shares.sum(axis=1), axis=0)
    picture = Picture(height=1.2 + 0.42 * len(shares))
    ax = tidy(picture.add_subplot(), title, grid=None)
    left = np.zeros(len(shares))
    for index, task in enumerate(shares):
        colour, width = SERIES[index % len(SERIES)], shares[task].to_numpy()
        bars = ax.barh(range(len(shares)), width, left=left, height=0.7, color=colour, ec="white", label=task)
        texts = [percent(round(share * 1000), 1000) if share >= LABEL_SHARE else "" for share in width]
        ax.bar_label(bars, texts, label_type="center", fontsize=8.5, color=ink_on(colour))
        left = left + width
    ax.set_yticks(range(len(shares)), shares.index)
    ax.set(xlim=(0, 1), ylim=(len(shares) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    picture.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return picture


def loss_by_tokens(frame: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw a point for each micro-batch, its loss over its supervised tokens, in a task's colour and shape.

    `frame` has the columns num_tokens, loss and task (of its longest reply). Raises KeyError naming the missing ones.

    >>> loss_by_tokens(pd.DataFrame({"num_tokens": [8, 200], "loss": [0.7, 1.2], "task": ["ARC", "GSM8K"]}))
    """
    missing = {"num_tokens", "loss", "task"} - set(frame.columns)
    if missing:
        raise KeyError(f"loss_by_tokens: the frame lacks {sorted(missing)}; it has {list(frame.columns)}")
    picture = Picture(height=3.6)
    ax = tidy(picture.add_subplot(), title)
    for index, (task, rows) in enumerate(frame.groupby("task")):
        style = {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}
        ax.scatter(rows["num_tokens"], rows["loss"], s=26, alpha=0.85, lw=0.5, ec=INK, label=task, **style)
    ax.set(xscale="log", xlabel="supervised tokens (log scale)", ylabel="loss, nats a token")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    ax.legend(
        frameon=False,
        fontsize=8.5,
        title="its longest reply is from",
        title_fontsize=8.5,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    return picture


def task_curves(runs: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> Figure:
    """Draw a panel for each task with the losses of several runs; each frame has `step` and a column for each task.

    >>> task_curves({"step": frame, "micro_batch": other}, ["ARC-Easy", "GSM8K"])      # doctest: +SKIP
    """
    picture = Picture(height=3.3)
    panels = picture.subplots(1, len(tasks), squeeze=False)[0]
    for ax, task in zip(panels, tasks, strict=True):
        _panel(tidy(ax, task), runs, task)
    panels[0].set_ylabel("held-out loss, nats a token")
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=len(runs), frameon=False, fontsize=9, handlelength=3
    )
    return picture


def _panel(ax: Axes, runs: Mapping[str, pd.DataFrame], task: str) -> None:
    for index, (name, frame) in enumerate(runs.items()):
        colour, style = SERIES[index % len(SERIES)], STYLES[index % len(STYLES)]
        ax.plot(frame["step"], frame[task], color=colour, ls=style, lw=2, label=name)
    ax.set_xlabel("step")
