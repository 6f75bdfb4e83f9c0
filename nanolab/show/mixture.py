"""What a mixture is made of: how long its conversations are, and what share of the learning each task has."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import BLUE, INK, SERIES, VERMILLION, ink_on
from nanolab.show.values import percent

BINS = 48
LABEL_SHARE = 0.045  # narrower segments have no room for their percentage
MEASURES = ("rows", "tokens", "supervised_tokens")


def length_histogram(lengths_by_task: dict[str, list[int]], cutoff: int | None = None) -> Figure:
    """Draw how long conversations are (tokens, log scale), a strip per task, its median and the cutoff.

    >>> length_histogram({"GSM8K": [120, 180, 240], "SmolTalk": [300, 900, 2000]}, cutoff=1024)
    """
    longest = max(max(lengths) for lengths in lengths_by_task.values())
    shortest = min(min(lengths) for lengths in lengths_by_task.values())
    bins = np.geomspace(max(shortest, 1) * 0.95, max(longest, cutoff or 1) * 1.05, BINS + 1)
    picture = Picture(height=min(0.9 + 0.62 * len(lengths_by_task), 8))
    strips = picture.subplots(len(lengths_by_task), sharex=True, squeeze=False)[:, 0]
    for ax, (name, lengths) in zip(strips, lengths_by_task.items(), strict=True):
        _strip(ax, name, np.asarray(lengths), bins, cutoff)
    strips[-1].set_xlabel("tokens per conversation (log scale)" + (f"; dashed: cutoff {cutoff:,}" if cutoff else ""))
    strips[-1].xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    return picture


def mixture_bars(table: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw each task's share of the rows, of the tokens and of the supervised tokens, as three bars.

    `table` has the columns task, rows, tokens, supervised_tokens. Raises KeyError naming the missing ones.

    >>> mixture_bars(pd.DataFrame({"task": ["ARC"], "rows": [8], "tokens": [900], "supervised_tokens": [16]}))
    """
    missing = {"task", *MEASURES} - set(table.columns)
    if missing:
        raise KeyError(f"mixture_bars: the table lacks {sorted(missing)}; it has {list(table.columns)}")
    picture = Picture(height=3.0)
    ax = tidy(picture.add_subplot(), title, grid=None)
    left = np.zeros(len(MEASURES))
    for index, record in enumerate(table.to_dict("records")):
        left = _segments(ax, record, SERIES[index % len(SERIES)], index >= len(SERIES), left, table)
    ax.set_yticks(range(len(MEASURES)), [f"{m.replace('_', ' ')}\n{table[m].sum():,}" for m in MEASURES])
    ax.set(xlim=(0, 1), ylim=(len(MEASURES) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    picture.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return picture


def _strip(ax, name: str, lengths: np.ndarray, bins: np.ndarray, cutoff: int | None) -> None:
    tidy(ax, grid=None)
    ax.set(xscale="log", yticks=[])
    ax.spines["left"].set_visible(False)
    ax.hist(lengths, bins=bins, color=BLUE, alpha=0.75)
    median = int(np.median(lengths))
    ax.axvline(median, color=INK, lw=2)
    facts = f"{len(lengths):,} rows, median {median:,}"
    if cutoff:
        ax.axvline(cutoff, color=VERMILLION, lw=1.5, ls="--")
        facts += f", {percent(int((lengths > cutoff).sum()), len(lengths))} beyond"
    ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10, color=INK)
    ax.text(1.01, 0.5, facts.replace(", ", "\n"), transform=ax.transAxes, fontsize=8.5, va="center", color=INK)


def _segments(ax, record: dict, colour: str, hatched: bool, left: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """One task's segment on each of the three bars; returns where the next task's begin."""
    shares = np.array([record[measure] / max(table[measure].sum(), 1) for measure in MEASURES])
    hatch = "//" if hatched else None
    bars = ax.barh(
        range(len(MEASURES)),
        shares,
        left=left,
        height=0.62,
        color=colour,
        hatch=hatch,
        ec="white",
        label=record["task"],
    )
    texts = [percent(round(share * 1000), 1000) if share >= LABEL_SHARE else "" for share in shares]
    ax.bar_label(bars, texts, label_type="center", fontsize=9, color=ink_on(colour))
    return left + shares
