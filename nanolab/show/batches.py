"""A batch as the model meets it: what is learned, what is only read, what is padding, what comes next."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from nanolab.batch import IGNORE_INDEX
from nanolab.show import palette
from nanolab.show.figure import Picture, tidy
from nanolab.show.page import legend, view
from nanolab.show.tokens import Labels, token_chip
from nanolab.show.values import as_list, as_pair, percent
from nanolab.tokenizer import Tokenizer

PAD_TOKEN = "<|assistant_end|>"
MAX_ROWS = 4  # rows that batch_view draws unless told which

# category: (colour, height of its bar, hatch). Heights and hatch tell them apart without colour.
BARS = {
    "supervised": (palette.SUPERVISED, 0.84, None),
    "context": (palette.CONTEXT, 0.5, None),
    "padding": (palette.PADDING, 0.2, "////"),
}

GLOSS = """
.nl-view .nl-rows{border-collapse:collapse;width:100%;table-layout:auto;margin:0}
.nl-view .nl-rows tr{background:none!important}
.nl-view .nl-rows td,.nl-view .nl-rows th{text-align:left;vertical-align:top;padding:6px 8px;font-size:12px;
  border:0;border-top:1px solid rgba(128,128,128,.35);background:none;white-space:normal;color:inherit}
.nl-rows th{white-space:nowrap!important;font-weight:400;line-height:1.6}
.nl-pair{display:inline-flex;flex-direction:column;align-items:center;margin:0 1px 7px 0;vertical-align:top}
.nl-pair .nl-none{opacity:.75;line-height:1.45}
.nl-more{opacity:.75}
"""


def real_row_lengths(inputs: ArrayLike, targets: ArrayLike, pad_id: int) -> np.ndarray:
    """How many positions of each row are real, (B,): up to the last one that is not padding.

    Padding is the trailing run of `pad_id` without targets. A conversation's last token is only ever a
    target (the shift cuts it from the inputs), so its last real input has a target and is not mistaken for
    padding, whatever its id. One exception: a conversation truncated right after an inner `pad_id` loses
    that one position.

    >>> real_row_lengths([[5, 6, 9, 9]], [[-1, 9, -1, -1]], pad_id=9).tolist()
    [2]
    """
    inputs, targets = as_pair(inputs, targets)
    real = (inputs != pad_id) | (targets != IGNORE_INDEX)
    return np.where(real.any(axis=1), real.shape[1] - real[:, ::-1].argmax(axis=1), 0)


def categories(
    inputs: ArrayLike, targets: ArrayLike, pad_id: int | None = None, real_lengths: ArrayLike | None = None
) -> np.ndarray:
    """The kind of every position, (B, T) of "supervised", "context" and "padding".

    >>> categories([[5, 6, 9, 9]], [[-1, 9, -1, -1]], pad_id=9).tolist()
    [['context', 'supervised', 'padding', 'padding']]
    """
    inputs, targets = as_pair(inputs, targets)
    columns = np.arange(inputs.shape[1])
    if real_lengths is None and pad_id is not None:
        real_lengths = real_row_lengths(inputs, targets, pad_id)
    if real_lengths is None:
        real_lengths = np.full(len(inputs), inputs.shape[1])
    real_lengths = np.asarray(as_list(real_lengths))
    if real_lengths.shape != (len(inputs),):
        raise ValueError(f"real_lengths has the shape {real_lengths.shape}, but the batch has {len(inputs)} rows")
    padding = columns >= real_lengths[:, None]
    return np.where(targets != IGNORE_INDEX, "supervised", np.where(padding, "padding", "context"))


def batch_map(
    inputs: ArrayLike,
    targets: ArrayLike,
    pad_id: int | None = None,
    real_lengths: ArrayLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a batch (B, T): along each row what is supervised, what is context and what is padding.

    Padding is every position from a row's real length on. Without `real_lengths` (B,) it is the trailing
    run of `pad_id` without targets; without either, no position is called padding. Draws into `ax` if
    given; returns the figure. Raises ValueError when the shapes do not fit.

    >>> batch_map(inputs, targets, pad_id=tokenizer.special_ids["<|assistant_end|>"])
    """
    kinds = categories(inputs, targets, pad_id, real_lengths)
    if ax is None:
        ax = Picture(height=float(np.clip(1.3 + 0.26 * len(kinds), 2.2, 7.5))).add_subplot()
    for row, kinds_of_row in enumerate(kinds):
        _draw_row(ax, row, kinds_of_row)
    ax.set(xlim=(0, kinds.shape[1]), ylim=(len(kinds) - 0.5, -0.5), xlabel="position", ylabel="row")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(
        handles=_bar_legend(kinds),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    tidy(ax, grid=None).set_title(title or "", loc="left", fontsize=11, pad=24, parse_math=False)
    return ax.figure


def batch_maps(
    batches: Sequence[tuple[ArrayLike, ArrayLike]], pad_id: int | None = None, title: str | None = None
) -> Figure:
    """Draw several batches, pairs of inputs and targets, below each other on one scale of positions.

    >>> batch_maps(list(islice(sft_data_generator(mixture, tokenizer, batch_size=4), 6)), pad_id=pad_id)
    """
    picture = Picture(height=float(np.clip(0.9 * len(batches), 2.2, 7.5)))
    axes = np.atleast_1d(picture.subplots(len(batches), 1, sharex=True))
    for number, (ax, (inputs, targets)) in enumerate(zip(axes, batches, strict=True)):
        batch_map(inputs, targets, pad_id, ax=ax)
        ax.get_legend().remove()
        ax.set(xlim=(0, None), xlabel="", ylabel=f"batch {number}", yticks=[])
    axes[0].set_xlim(0, max(len(as_list(inputs)[0]) for inputs, _ in batches))
    axes[0].set_title(title or "", loc="left", fontsize=11)
    axes[-1].set_xlabel("position (orange: supervised, blue: context, hatched: padding)")
    return picture


def batch_view(
    inputs: ArrayLike,
    targets: ArrayLike,
    tokenizer: Tokenizer,
    rows: ArrayLike | None = None,
    max_columns: int = 60,
    pad_id: int | None = None,
) -> HTML:
    """Draw rows of a batch (B, T) as tokens, and beneath each the token to predict there (– where none).

    `rows` are the row numbers to draw, by default the first four. Padding is the trailing run of `pad_id`, by
    default <|assistant_end|>, without targets. Positions beyond `max_columns` are only counted.

    >>> batch_view(inputs, targets, tokenizer, rows=[0, 3])
    """
    inputs, targets = as_pair(inputs, targets)
    kinds = categories(inputs, targets, tokenizer.special_ids[PAD_TOKEN] if pad_id is None else pad_id)
    rows, labels = list(range(len(inputs)))[:MAX_ROWS] if rows is None else as_list(rows), Labels(tokenizer)
    body = "".join(_row_html(row, inputs[row], targets[row], kinds[row], labels, max_columns) for row in rows)
    head = legend(
        '<span class="nl-c">input</span> what the model reads',
        "<u>target</u> beneath: what it should say next",
        "– nothing is learned here",
        '<span class="nl-c nl-p">padding</span>',
        f"{len(rows)} of {len(inputs)} rows, {inputs.shape[1]:,} positions each",
    )
    return view(f'{head}<table class="nl-rows">{body}</table>', css=GLOSS)


def inputs_targets_table(inputs: ArrayLike, targets: ArrayLike, tokenizer: Tokenizer) -> pd.DataFrame:
    """One row of a batch (T,) as a table: position, input, input_token, target, target_token, learns.

    Raises ValueError when given more than one row.

    >>> inputs_targets_table(inputs[0], targets[0], tokenizer).query("learns").head()
    """
    inputs, targets = as_pair(inputs, targets)
    if len(inputs) != 1:
        raise ValueError(f"inputs_targets_table shows one row, but got {len(inputs)}: pass inputs[0], targets[0]")
    labels, inputs, targets = Labels(tokenizer), inputs[0].tolist(), targets[0].tolist()
    return pd.DataFrame(
        {
            "position": range(len(inputs)),
            "input": inputs,
            "input_token": [labels.label(id) for id in inputs],
            "target": targets,
            "target_token": ["–" if id == IGNORE_INDEX else labels.label(id) for id in targets],
            "learns": [id != IGNORE_INDEX for id in targets],
        }
    )


def _runs(kinds_of_row) -> Iterator[tuple[str, int, int]]:
    """(kind, start, length) of each run of equal kinds."""
    start = 0
    for kind, run in groupby(kinds_of_row):
        length = sum(1 for _ in run)
        yield str(kind), start, length
        start += length


def _draw_row(ax, row: int, kinds_of_row) -> None:
    runs = list(_runs(kinds_of_row))
    for kind, (colour, height, hatch) in BARS.items():
        spans = [(start, length) for name, start, length in runs if name == kind]
        ax.broken_barh(spans, (row - height / 2, height), facecolor=colour, hatch=hatch, edgecolor="#777777", lw=0)


def _bar_legend(kinds: np.ndarray) -> list[Patch]:
    counts = {kind: int((kinds == kind).sum()) for kind in BARS}
    return [
        Patch(
            facecolor=colour,
            hatch=hatch,
            edgecolor="#777777",
            lw=0,
            label=_share(kind, counts[kind], kinds.size),
        )
        for kind, (colour, _, hatch) in BARS.items()
    ]


def _share(kind: str, count: int, whole: int) -> str:
    return f"{kind} {percent(count, whole)} ({count:,})"


def _row_html(row: int, inputs, targets, kinds, labels: Labels, max_columns: int) -> str:
    pairs = zip(inputs.tolist(), targets.tolist(), kinds.tolist(), strict=True)
    shown = [_pair(position, *pair, labels) for position, pair in enumerate(pairs) if position < max_columns]
    head = f"<b>row {row}</b><br>input<br>target"
    more = f'<div class="nl-more">{escape(_left_out(kinds[max_columns:]))}</div>'
    return f'<tr><th>{head}</th><td class="nl-code">{"".join(shown)}{more}</td></tr>'


def _pair(position: int, id: int, target: int, kind: str, labels: Labels) -> str:
    about = f"position {position} · id {id} · {kind} input"
    if kind == "padding":
        above = f'<span class="nl-c nl-p" title="{escape(about)}">pad</span>'
    else:
        above = token_chip(id, labels, False, about)
    below = '<span class="nl-none">–</span>'
    if target != IGNORE_INDEX:
        below = token_chip(target, labels, True, f"target of position {position} · id {target}")
    return f'<span class="nl-pair">{above}{below}</span>'


def _left_out(kinds) -> str:
    if not len(kinds):
        return ""
    return f"… {len(kinds):,} more, {int((kinds == 'padding').sum()):,} of them padding"
