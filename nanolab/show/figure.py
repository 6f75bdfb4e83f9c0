"""Figures that show themselves once, bring their own background, and leave nothing behind in pyplot."""

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from nanolab.show.palette import GREY, INK, PAPER, RULE

WIDTH = 9.0  # inches; at DPI below, 810 pixels: a notebook's text column
DPI = 90
COLOURS = 96  # of a saved PNG: a quarter of the bytes, and no difference to the eye


class Picture(Figure):
    """A matplotlib Figure outside pyplot: shown by being a cell's last value or by display(), never twice."""

    def __init__(self, height: float, width: float = WIDTH):
        super().__init__(figsize=(width, height), dpi=DPI, facecolor=PAPER, layout="constrained")

    def png(self) -> bytes:
        """The picture as a PNG file's bytes, with a palette of few colours to keep saved notebooks small."""
        full, small = BytesIO(), BytesIO()
        self.savefig(full, format="png", facecolor=self.get_facecolor())
        reduced = Image.open(full).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        reduced.save(small, format="png", optimize=True)
        return small.getvalue()

    def alt(self) -> str:
        """The picture in words, for those who cannot see it: title and axes of each panel.

        >>> loss_curves({"SFT": frame}, "Training loss").alt()      # doctest: +SKIP
        'Picture. Training loss: step across, nats a token upwards'
        """
        panels = [_in_words(ax) for ax in self.axes]
        return "Picture. " + "; ".join(dict.fromkeys(panel for panel in panels if panel))

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png(), {"alt": self.alt()}


def _in_words(ax: Axes) -> str:
    title = ax.get_title(loc="left") or ax.get_title()
    across, upwards = (" ".join(label.split()) for label in (ax.get_xlabel(), ax.get_ylabel()))
    axes = ", ".join(part for part in (across and f"{across} across", upwards and f"{upwards} upwards") if part)
    return ": ".join(part for part in (" ".join(title.split()), axes) if part)


def tidy(ax: Axes, title: str | None = None, grid: str | None = "y") -> Axes:
    """Quiet axes: no box, light rules along `grid` ("x", "y" or None), a left title never read as TeX."""
    ax.set_facecolor(PAPER)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(colors=INK, labelsize=9, length=3)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.7)
    if title:
        ax.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    return ax
