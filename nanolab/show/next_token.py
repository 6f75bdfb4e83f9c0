"""What a model would say next, and how sure it is, at a chosen place of a text."""

from collections.abc import Sequence

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter

from nanolab.gpt import GPT
from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import BLUE, INK, ORANGE
from nanolab.show.tokens import Labels
from nanolab.show.values import as_list
from nanolab.tokenizer import Tokenizer

TITLE_TOKENS = 8  # of the context, in a figure's title
LABEL_LENGTH = 24  # letters of a token; the special ones have at most 19
BAR_HEIGHT = 0.28  # inches


@torch.inference_mode()
def next_token_probabilities(
    model: GPT,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    position: int = -1,
    top: int = 10,
    temperature: float = 1.0,
) -> pd.DataFrame:
    """The likeliest tokens behind `ids[position]`: id, token, probability (0 to 1), follows; the index is the rank.

    `follows` marks the token that really comes next in `ids`. If it is not among the `top` it is added below them, with
    its rank. Raises IndexError for a position outside, ValueError for a top or temperature that cannot work.

    >>> next_token_probabilities(model, tokenizer, tokenizer.encode("2+2=4"), position=3)      # doctest: +SKIP
    """
    ids, position = checked_position(ids, position)
    if top < 1 or temperature <= 0:
        raise ValueError(f"top must be 1 or more and temperature above 0, got {top} and {temperature}.")
    inputs = torch.tensor([ids[: position + 1]], device=model.device)  # (1, T)
    probabilities = (model.logits(model.hidden(inputs)[0, -1]) / temperature).softmax(-1).cpu()  # (V,)
    order = probabilities.argsort(descending=True, stable=True).tolist()
    following = ids[position + 1] if position + 1 < len(ids) else None
    ranks = list(range(min(top, len(order))))
    if following is not None and order.index(following) >= top:
        ranks.append(order.index(following))
    shown, labels = [order[rank] for rank in ranks], Labels(tokenizer)
    columns = {
        "id": shown,
        "token": [labels.label(id) for id in shown],
        "probability": [float(probabilities[id]) for id in shown],
        "follows": [id == following for id in shown],
    }
    return pd.DataFrame(columns, index=pd.Index([rank + 1 for rank in ranks], name="rank"))


def next_token_bars(
    model: GPT,
    tokenizer: Tokenizer,
    ids: Sequence[int],
    position: int = -1,
    top: int = 10,
    temperature: float = 1.0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw `next_token_probabilities` as bars; the token that really follows is orange, hatched and named.

    The title says which tokens stand before. Draws into `ax` if given; returns the figure. Raises IndexError and
    ValueError as `next_token_probabilities` does.

    >>> next_token_bars(model, tokenizer, ids, position=12)                    # doctest: +SKIP
    """
    table = next_token_probabilities(model, tokenizer, ids, position, top, temperature)
    if ax is None:
        ax = Picture(height=0.9 + BAR_HEIGHT * len(table)).add_subplot()
    bars = ax.barh(range(len(table)), table["probability"], color=BLUE, height=0.72)
    for bar, follows in zip(bars, table["follows"], strict=True):
        if follows:
            bar.set(facecolor=ORANGE, hatch="//", edgecolor=INK, linewidth=0)
    shares = zip(table["probability"], table["follows"], strict=True)
    ax.bar_label(bars, [share(p) + "  really follows" * follows for p, follows in shares], padding=4, fontsize=9)
    names = [f"{drawable(token)}  {rank}" for rank, token in table["token"].items()]
    ax.set_yticks(range(len(table)), names, parse_math=False)
    ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(0, 1.3 * table["probability"].max()), xlabel="probability")
    most = min(1, ax.get_xlim()[1])  # behind 100 % there is room for words only
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= most])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{100 * p:.3g} %"))
    return tidy(ax, title or context_title(tokenizer, ids, position), grid="x").figure


def checked_position(ids: Sequence[int], position: int) -> tuple[list[int], int]:
    """The ids as a list and the position counted from the start; IndexError if it is outside.

    >>> checked_position([5, 6, 7], -1)
    ([5, 6, 7], 2)
    """
    ids = as_list(ids)
    if not -len(ids) <= position < len(ids):
        places = f"0 to {len(ids) - 1} or -1 to -{len(ids)}" if ids else "none"
        raise IndexError(f"position {position} is outside of {len(ids)} tokens; there are: {places}.")
    return ids, position % len(ids)


def context_title(tokenizer: Tokenizer, ids: Sequence[int], position: int) -> str:
    """Which tokens stand before: `next token after ... the ·cat`."""
    ids, position = checked_position(ids, position)
    first, labels = max(0, position + 1 - TITLE_TOKENS), Labels(tokenizer)
    context = " ".join(drawable(labels.label(id)) for id in ids[first : position + 1])
    return f"next token after {'... ' * (first > 0)}{context}"


def share(probability: float) -> str:
    """A probability in percent, with as many digits as small ones need.

    >>> share(0.5), share(0.0123), share(0.00004), share(0.000004)
    ('50 %', '1.2 %', '0.004 %', '<0.001 %')
    """
    percent = 100 * probability
    if percent < 0.001:
        return "<0.001 %"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def drawable(label: str) -> str:
    """A label cut to a figure's width, in which letters that its font lacks stand as their code points.

    >>> drawable("a中")
    'a⟨4e2d⟩'
    """
    letters = get_font(findfont("DejaVu Sans")).get_charmap()
    label = label if len(label) <= LABEL_LENGTH else label[:LABEL_LENGTH] + "…"
    return "".join(letter if ord(letter) in letters else f"⟨{ord(letter):x}⟩" for letter in label)
