"""Colours, named once for HTML and matplotlib; hues from Okabe and Ito's palette, safe for colour blindness.

Source: Okabe & Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/. Theirs are for areas; these are
darker, so that thin lines too have a contrast of 3 : 1 to PAPER (WCAG 2.1, 1.4.11), and brown stands for yellow.
"""

from typing import NamedTuple

ORANGE = "#D07400"
SKY_BLUE = "#3890C6"
GREEN = "#008F68"
BROWN = "#4D3B00"
BLUE = "#005B96"
VERMILLION = "#A84300"
PURPLE = "#C470A0"
CHARCOAL = "#3F3F3F"
GREY = "#808080"

SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILLION, BROWN, CHARCOAL)

# What a token is to the loss. The same three words and hues in every table and figure.
SUPERVISED = ORANGE
CONTEXT = SKY_BLUE
PADDING = "#D9D9D9"

PAPER = "#FDFDFB"  # figures bring their own background, so that dark themes cannot swallow their black text
INK = "#222222"
RULE = "#D0D0CC"


class Chip(NamedTuple):
    """Text and background of a coloured chip; every pair has a contrast of at least 4.5 : 1 (WCAG AA)."""

    ink: str
    paper: str


LIGHT_CHIPS = {
    "supervised": Chip("#4A3200", "#FBE0A4"),
    "context": Chip("#1B3A4E", "#DDEFFA"),
    "special": Chip("#5B1F44", "#F1D6E5"),
    "padding": Chip("#4A4A4A", "#E9E9E9"),
    "code": Chip("#0B4536", "#D3EFE6"),
}
DARK_CHIPS = {
    "supervised": Chip("#FFE6B0", "#664600"),
    "context": Chip("#CDE6F6", "#22394A"),
    "special": Chip("#FBE3F1", "#633654"),
    "padding": Chip("#CFCFCF", "#3A3A3A"),
    "code": Chip("#C9F2E4", "#114536"),
}

# Lines and bars in HTML that mean something; 3 : 1 or more to the page and to the chip that they stand on.
LIGHT_MARKS = {"underline": "#A65E00", "bar": BLUE, "problem": VERMILLION}
DARK_MARKS = {"underline": "#E69F00", "bar": SKY_BLUE, "problem": "#D55E00"}


def luminance(colour: str) -> float:
    """Relative luminance of "#RRGGBB", 0 (black) to 1 (white), as WCAG 2.2 defines it.

    >>> round(luminance("#FFFFFF"), 3)
    1.0
    """
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 (the same) to 21 (black on white), as WCAG 2.2 defines it.

    >>> contrast("#000000", "#FFFFFF")
    21.0
    """
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def ink_on(paper: str) -> str:
    """Whichever of black and white is easier to read on `paper`.

    >>> ink_on(BLUE), ink_on(ORANGE)
    ('#FFFFFF', '#000000')
    """
    return max(("#000000", "#FFFFFF"), key=lambda ink: contrast(ink, paper))
