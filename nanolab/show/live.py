"""A loss curve that grows while a model trains, and leaves one small picture in the saved notebook.

In a notebook one picture is redrawn in place. Everywhere else (plain Python, or a run that nobody watches,
which the environment variable PAPERMILL or CI says) at most ten lines are printed, and one of the evaluation behind all
steps if there is one; a notebook gets one picture at the end.
"""

import math
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from textwrap import fill
from typing import Any

import pandas as pd
from IPython import get_ipython
from IPython.display import display
from ipywidgets import Widget
from matplotlib.ticker import MaxNLocator

from nanolab.runs import OF_A_STEP
from nanolab.show.curves import STYLES, draw_loss
from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import BLUE, INK, SERIES, VERMILLION

PLAIN_LINES = 10  # printed over a whole run that is not live
REST = 20  # after a drawing that took t seconds, the next waits 20 t: drawing never takes 5 % of the time
CAPTION_WIDTH = 140  # letters in a line under the curve
RATE_STEPS = 20  # tokens per second are those of the last 20 steps
COLUMNS = ("step", "loss", "lr_multiplier", "num_tokens", "real_tokens", "slots", "seconds")
NO_STEP = {"loss": math.nan, "lr_multiplier": math.nan, "num_tokens": 0, "real_tokens": 0, "slots": 0, "seconds": 0.0}
FEW_POINTS = 3  # so many are drawn without a line between them, which would look like a curve
LIKE_LOSSES = ("loss", "bpb")  # metrics drawn on the loss axis; bits per byte have about its size
UNWATCHED = ("PAPERMILL", "CI")
WIDGET = "application/vnd.jupyter.widget-view+json"


def someone_watches() -> bool:
    """Whether this is a notebook kernel, and neither PAPERMILL nor CI is set in the environment."""
    return hasattr(get_ipython(), "kernel") and not any(os.environ.get(name) for name in UNWATCHED)


def widget_bundle(widget: Widget) -> dict[str, object]:
    """What a front end needs to show a widget, for `_repr_mimebundle_`; the same in ipywidgets 7 (Colab's) and 8.

    >>> widget_bundle(ipywidgets.HTML())["application/vnd.jupyter.widget-view+json"]["version_major"]
    2
    """
    return {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


class LiveCurve:
    """The loss of a run while it runs: `update` with each report, `close` at the end (or use `with`).

    A report may also be a line of metrics.jsonl, a dict, as `launch` yields them; the last, of the evaluation behind
    all steps, has no loss, and `{"step": total, **job.metrics}` is such a line. `total` is the number of steps, counted
    from 0. `every` is the least time between two drawings, in seconds. `live=None` asks `someone_watches()`. `earlier`:
    reports of the steps before this run went on. `frame` holds the steps as a table, `figure()` draws all.

    >>> with LiveCurve(total=num_iterations, title="SFT") as curve:  # doctest: +SKIP
    ...     for report in train(...):
    ...         curve.update(report)
    """

    def __init__(
        self,
        total: int,
        title: str = "",
        every: float = 2.0,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        earlier: Iterable = (),
    ):
        self.total, self.title, self.every, self.clock = total, title, every, clock
        self.live = someone_watches() if live is None else live
        self.rows: list[dict] = [_row(report) for report in earlier]
        self._times: list[float] = []
        self._next_drawing = 0.0
        self._tenths = 0  # of the run, printed so far
        self._told_rows = 0  # whose metrics are printed
        self._handle = None
        self._closed = False

    def update(self, report: Any) -> None:
        """Take in one step's report, and draw or print if it is time."""
        self.rows.append(_row(report))
        self._times.append(self.clock())
        if self.live and self._times[-1] >= self._next_drawing:
            self._draw()
        elif not self.live and (self._tenth() > self._tenths or self.rows[-1]["step"] == self.total):
            print(self.caption(self._told_rows))
            self._tenths, self._told_rows = self._tenth(), len(self.rows)

    def watch(self, reports: Iterable) -> Iterator:
        """Pass reports through while drawing them; closes at the end, also after an error or a break."""
        with self:
            for report in reports:
                self.update(report)
                yield report

    def close(self) -> None:
        """Draw the finished curve, once; a second call does nothing."""
        if self._closed or not self._times:
            return
        self._closed = True
        if self.live or get_ipython() is not None:
            self._draw()

    def __enter__(self) -> "LiveCurve":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def frame(self) -> pd.DataFrame:
        """One row per step: its report's fields, and a column for each metric that was ever measured."""
        return pd.DataFrame([row for row in self.rows if row["step"] < self.total])

    def caption(self, first_row: int = 0) -> str:
        """Where the run is, in one line: step, loss, tokens per second, time taken and left, last metrics.

        Of the metrics only those in `rows` from `first_row` on.
        """
        done = self._done()
        last = next((row for row in reversed(self.rows) if row["seconds"]), self.rows[-1])  # which was a step
        speed = tokens_per_second(self.rows[-RATE_STEPS:])
        facts = [f"step {done:,} of {self.total:,}", f"loss {last['loss']:.3f}", f"{speed:,.0f} tokens/s"]
        facts.append(f"{clock_time(self._times[-1] - self._times[0])} so far")
        if done < self.total and len(self._times) > 1:
            facts.append(f"about {clock_time(self._seconds_left())} left")
        return " · ".join(
            facts + [self._told(name, value) for name, value in last_metrics(self.rows[first_row:]).items()]
        )

    def figure(self) -> Picture:
        """The curve so far as a picture."""
        return draw_curve(pd.DataFrame(self.rows), self.total, self.title, self.caption())

    def _told(self, name: str, value: float) -> str:
        """A metric, and before which step it was measured unless that is now."""
        measured = next(row["step"] for row in reversed(self.rows) if name in row)
        return f"{name} {value:.3f}" + (f" (step {measured:,})" if measured != self.rows[-1]["step"] else "")

    def _done(self) -> int:
        return min(self.rows[-1]["step"] + 1, self.total)

    def _seconds_left(self) -> float:
        # From the first report on: what came before it is compilation, which does not come back.
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1) * (self.total - self._done())

    def _tenth(self) -> int:
        return self._done() * PLAIN_LINES // self.total

    def _draw(self) -> None:
        began = self.clock()
        bundle = {"image/png": b64encode(self.figure().png()).decode(), "text/plain": self.caption()}
        alt = {"image/png": {"alt": f"Picture. {self.title}: loss of each step so far. {self.caption()}"}}
        if self._handle is None:
            self._handle = display(bundle, raw=True, metadata=alt, display_id=True)
        else:
            self._handle.update(bundle, raw=True, metadata=alt)
        now = self.clock()
        self._next_drawing = now + max(self.every, REST * (now - began))


def _row(report) -> dict:
    """A report, or a line of metrics.jsonl, as a row of the table."""
    if isinstance(report, Mapping):
        row = {name: report.get(name, NO_STEP.get(name)) for name in COLUMNS}
        row |= {name: value for name, value in report.items() if name not in OF_A_STEP and value is not None}
    else:
        row = {name: getattr(report, name) for name in COLUMNS} | (getattr(report, "metrics", None) or {})
    # A step without a supervised token has no loss: a gap in the curve, not a zero.
    return row | {"loss": math.nan if row["loss"] is None else float(row["loss"])}


def progress(
    reports: Iterable, total: int, describe: str = "", every: float = 2.0, live: bool | None = None
) -> Iterator:
    """Pass a training's reports through while a LiveCurve titled `describe` draws them.

    >>> for report in progress(train(...), total=num_iterations, describe="SFT"): ...  # doctest: +SKIP
    """
    return LiveCurve(total, describe, every, live).watch(reports)


def draw_curve(frame: pd.DataFrame, total: int, title: str, caption: str) -> Picture:
    """One run: loss, and metrics of its kind, over `total` steps; other metrics in a panel beside it."""
    metrics = [name for name in frame.columns if name not in COLUMNS]
    others = [name for name in metrics if not name.endswith(LIKE_LOSSES)]
    picture = Picture(height=3.6)
    axes = picture.subplots(1, 2 if others else 1, width_ratios=[3, 1.3] if others else [1], squeeze=False)[0]
    _loss_panel(axes[0], frame, [name for name in metrics if name.endswith(LIKE_LOSSES)], title)
    if others:
        _metric_panel(axes[1], frame, others)
    for ax in axes:
        ax.set(xlim=(0, max(total, 1)), xlabel="step")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    picture.supxlabel(wrap_facts(caption, CAPTION_WIDTH), fontsize=9, color=INK, x=0.01, ha="left", parse_math=False)
    return picture


def clock_time(seconds: float) -> str:
    """Seconds as 0:07, 3:05 or 1:02:03.

    >>> clock_time(3723)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def wrap_facts(caption: str, width: int) -> str:
    """A caption in lines of at most `width` letters, broken only between its facts.

    >>> wrap_facts("step 1 · loss 2.0 · arc_acc 0.3", 20).splitlines()
    ['step 1 · loss 2.0 ·', 'arc_acc 0.3']
    """
    glued = caption.replace(" ", "\0").replace("\0·\0", "\0· ")
    return fill(glued, width, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def tokens_per_second(rows: list[dict]) -> float:
    """Real tokens (no padding) per second of training over these steps.

    >>> tokens_per_second([{"real_tokens": 600, "seconds": 2.0}])
    300.0
    """
    seconds = sum(row["seconds"] for row in rows)
    return sum(row["real_tokens"] for row in rows) / seconds if seconds else 0.0


def last_metrics(rows: list[dict]) -> dict[str, float]:
    """The latest value of each metric.

    >>> last_metrics([{"step": 0, "val_loss": 2.0}, {"step": 1, "val_loss": 1.5}, {"step": 2}])
    {'val_loss': 1.5}
    """
    latest = {name: value for row in rows for name, value in row.items()}
    return {name: value for name, value in latest.items() if name not in COLUMNS}


def _loss_panel(ax, frame: pd.DataFrame, names: list[str], title: str) -> None:
    tidy(ax, title)
    rows = frame.dropna(subset=["loss"])
    draw_loss(ax, rows["step"], rows["loss"], BLUE, label="loss, smoothed")
    for index, name in enumerate(names):
        points = frame.dropna(subset=[name])
        style = "o" + STYLES[index % 4] if len(points) > FEW_POINTS else "os^D"[index % 4]
        ax.plot(points["step"], points[name], style, color=VERMILLION, ms=5, lw=1.2, label=name, clip_on=False)
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def _metric_panel(ax, frame: pd.DataFrame, names: list[str]) -> None:
    tidy(ax)
    for index, name in enumerate(names):
        points = frame.dropna(subset=[name])
        style = "os^Dv"[index % 5] + ("-" if len(points) > FEW_POINTS else "")
        ax.plot(points["step"], points[name], style, color=SERIES[(index + 1) % 8], ms=5, label=name, clip_on=False)
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
