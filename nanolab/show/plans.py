"""A step before it is trained: which conversations share a micro-batch, and which positions of a row see which."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nanolab.layout import MicroBatch, Plan
from nanolab.show import palette
from nanolab.show.figure import Picture, tidy
from nanolab.show.values import as_list, percent

GAP = 0.7  # rows between two micro-batches
ROW_HEIGHT = 0.14  # inches, unless the picture would become too high
TITLE_HEIGHT = 0.45  # inches, of a plan's title
HEIGHTS = (2.0, 11.0)  # inches of a picture, least and most
TINTS = ((palette.GREEN, 0.6), (palette.GREEN, 0.32))  # of neighbours, with their opacity: their edges are dark
DARK_TINTS = ("#005F45", palette.GREEN)  # of neighbours whose edges are too thin to be seen
MOST_LABELS = 20  # a plan with more micro-batches has no labels of their shapes: they would overlap
MOST_NUMBERED_ROWS = 56  # of slots and gaps; in a higher plan blocks have no numbers, and thinner edges
CLEAR_EDGE = 0.5  # points
NUMBERED_WIDTH = 0.022  # share of the picture's width that a block's number needs
FAINT, STRONG = palette.SKY_BLUE, "#002B47"  # the smallest influence that is not zero, and the largest


class Block(NamedTuple):
    """A stretch of slots in one row of a micro-batch: a conversation's, or padding."""

    conversation: int | None  # index into the lengths that were planned; None: padding
    row: int
    start: int
    length: int


def blocks(micro_batch: MicroBatch, lengths: Sequence[int], flat: bool = False) -> Iterator[Block]:
    """What fills a micro-batch's rows from left to right; `flat`: its conversations stand end to end in row 0.

    Raises ValueError if the lengths are not those that were planned.

    >>> [tuple(block) for block in blocks(MicroBatch((0, 2), (2, 5), 8), [5, 9, 3])]
    [(0, 0, 0, 5), (2, 1, 0, 3), (None, 1, 3, 2)]
    """
    found = sum(lengths[i] for i in micro_batch.rows if i < len(lengths))
    if found != micro_batch.real_tokens:
        planned = f"{micro_batch.real_tokens:,} tokens in a micro-batch"
        raise ValueError(f"{planned} were planned, these lengths make {found:,}: pass the lengths of the plan.")
    height, width = micro_batch.shape
    ends = [0] * height
    for k, conversation in enumerate(micro_batch.rows):
        row, length = 0 if flat else k, lengths[conversation]
        yield Block(conversation, row, ends[row], length)
        ends[row] += length
    yield from (Block(None, row, end, width - end) for row, end in enumerate(ends) if end < width)


def plan_map(plan: Plan, lengths: Sequence[int], title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw a plan: its micro-batches below each other, B rows of T slots each, a block for each conversation.

    `lengths` are those that were planned, in input slots. The number in a block is the conversation's place in the
    step. Draws into `ax` if given; returns the figure. Raises ValueError if the lengths belong to another plan.

    >>> plan_map(plan(lengths, "packed"), lengths)      # doctest: +SKIP
    """
    if ax is None:
        ax = Picture(height=_height([plan])).add_subplot()
    width = max((micro_batch.shape[1] for micro_batch in plan.micro_batches), default=1)
    _draw_plan(ax, plan, lengths, title or plan.batching, width, numbered=_rows(plan) <= MOST_NUMBERED_ROWS)
    ax.set_xlabel("slots (a block: a conversation; hatched: padding)")
    return ax.figure


def plan_maps(plans: Mapping[str, Plan], lengths: Sequence[int]) -> Figure:
    """Draw several plans of the same conversations below each other, on one scale of slots, titled by their keys.

    >>> plan_maps({way: plan(lengths, way) for way in ("padded", "packed")}, lengths)      # doctest: +SKIP
    """
    picture = Picture(height=_height(plans.values()))
    heights = [_rows(plan) + TITLE_HEIGHT / ROW_HEIGHT for plan in plans.values()]
    strips = picture.subplots(len(plans), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    width = max((m.shape[1] for plan in plans.values() for m in plan.micro_batches), default=1)
    numbered = max(map(_rows, plans.values())) <= MOST_NUMBERED_ROWS
    for ax, (title, plan) in zip(strips, plans.items(), strict=True):
        _draw_plan(ax, plan, lengths, title, width, numbered)
    strips[-1].set_xlabel("slots (a block: a conversation; hatched: padding)")
    return picture


def who_sees_whom(influences: Mapping[str, np.ndarray], borders: Sequence[int]) -> Figure:
    """Draw which input position changes which output position of a flat row: a panel for each (T, T) array.

    `influences` has outputs down and inputs across, 0 where nothing changes (left blank); `borders` are the slots where
    documents begin and end. Colours compare within a panel only. Raises ValueError for an array of another shape.

    >>> who_sees_whom({"isolated": influence}, borders=[0, 14, 31])      # doctest: +SKIP
    """
    borders = sorted(set(as_list(borders)))
    panels = {title: np.asarray(as_list(influence), dtype=float) for title, influence in influences.items()}
    picture = Picture(height=4.6)
    for ax, (title, influence) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        if influence.shape != (borders[-1], borders[-1]):
            raise ValueError(f"{title}: the row has {borders[-1]} slots, its influences the shape {influence.shape}.")
        shares = (influence / max(influence.max(), 1e-30)) ** 0.3  # so that small influences are seen too
        colours = LinearSegmentedColormap.from_list("influence", [FAINT, STRONG])
        ax.imshow(np.ma.masked_equal(shares, 0), cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        for border in borders[1:-1]:
            ax.axhline(border - 0.5, color=palette.VERMILLION, lw=1.2)
            ax.axvline(border - 0.5, color=palette.VERMILLION, lw=1.2)
        tidy(ax, title, grid=None).set(xlabel="input position (lines: borders)", ylabel="output position")
    return picture


def _rows(plan: Plan) -> float:
    """The height of a drawn plan, in rows of slots."""
    return sum(micro_batch.shape[0] + GAP for micro_batch in plan.micro_batches)


def _height(plans: Collection[Plan]) -> float:
    return float(np.clip(sum(ROW_HEIGHT * _rows(plan) + TITLE_HEIGHT for plan in plans) + 0.4, *HEIGHTS))


def _draw_plan(ax: Axes, plan: Plan, lengths: Sequence[int], title: str, width: int, numbered: bool) -> None:
    tops = np.cumsum([0.0] + [micro_batch.shape[0] + GAP for micro_batch in plan.micro_batches])
    for micro_batch, top in zip(plan.micro_batches, tops, strict=False):
        filling = list(blocks(micro_batch, lengths, flat=plan.batching == "packed"))
        _draw_micro_batch(ax, filling, top, edge=CLEAR_EDGE if numbered else 0.2)
        if numbered:
            _number(ax, filling, top, least=NUMBERED_WIDTH * width)
    tidy(ax, f"{title}: {_facts(plan)}", grid=None).set(xlim=(0, width), ylim=(max(tops[-1] - GAP, 1), 0))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda slot, _: f"{slot:,.0f}"))
    middles = [top + m.shape[0] / 2 for m, top in zip(plan.micro_batches, tops, strict=False)]
    shapes = [f"{m.shape[0]} x {m.shape[1]:,}" for m in plan.micro_batches]
    few = len(shapes) <= MOST_LABELS
    ax.set_yticks(middles if few else [], shapes if few else [], fontsize=8)
    ax.spines["left"].set_visible(False)


def _facts(plan: Plan) -> str:
    number = len(plan.micro_batches)
    padding = percent(plan.slots - plan.real_tokens, plan.slots)
    return f"{number:,} micro-batch{'es' * (number != 1)}, {plan.slots:,} slots, {padding} padding"


def _draw_micro_batch(ax: Axes, filling: list[Block], top: float, edge: float) -> None:
    drawn = [block for block in filling if block.conversation is not None]
    for parity in (0, 1):
        colour = [TINTS[parity]] if edge >= CLEAR_EDGE else DARK_TINTS[parity]
        _bars(ax, drawn[parity::2], top, color=colour, edgecolor=palette.INK, lw=edge)
    padding = [block for block in filling if block.conversation is None]
    _bars(ax, padding, top, color=palette.PADDING, edgecolor="#777777", lw=0, hatch="////")


def _bars(ax: Axes, drawn: list[Block], top: float, **style) -> None:
    rows, starts, widths = ([getattr(block, name) for block in drawn] for name in ("row", "start", "length"))
    ax.barh([top + row + 0.5 for row in rows], widths, left=starts, height=0.88, **style)


def _number(ax: Axes, filling: list[Block], top: float, least: float) -> None:
    for block in filling:
        if block.conversation is not None and block.length >= least:
            x, y = block.start + block.length / 2, top + block.row + 0.5
            ax.text(x, y, block.conversation, ha="center", va="center", fontsize=6, color=palette.INK)
