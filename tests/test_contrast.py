"""Everything that nanolab.show draws can be read, on light and dark pages, and by people who do not see red or green.

Text has a contrast of 4.5 : 1 to what is below it, and lines and areas that mean something 3 : 1 (WCAG 2.1, 1.4.3 and
1.4.11). HTML is measured with the colours that its style sheets give it on each page (tests/css.py), pictures on their
pixels. A new view of nanolab.show without a case here fails.
"""

import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from jupyter_core.paths import jupyter_path
from matplotlib.colors import to_hex, to_rgba
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from nanolab import show
from nanolab.chat import Chat
from nanolab.layout import plan
from nanolab.render import render_conversation
from nanolab.show import chat, counts, palette
from nanolab.show.figure import Picture
from nanolab.show.live import draw_curve
from nanolab.show.page import style_sheet
from nanolab.show.palette import PAPER, SERIES, contrast
from nanolab.show.runs import run_curves
from nanolab.tokenizer import Tokenizer
from tests import css
from tests.conftest import BYTES, random_model
from tests.css import Drawn

TEXT, MARK = 4.5, 3.0  # least contrast of text, and of lines and areas that mean something
FRAME = "rgba(128,128,128,.35)"  # of boxes, bubbles and tables: it means nothing, what stands inside does
END = 260  # <|assistant_end|> of one token a byte

# What is left of linear red, green and blue when one kind of cone is missing: Machado, Oliveira and Fernandes,
# A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009.
SIGHTS = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])

# Pages

LAB = """<html><body data-jp-theme-light="{light}" class="jp-ThemedContainer">
<div class="jp-OutputArea-output jp-RenderedHTMLCommon">{{}}</div>"""
VSCODE = '<html><body class="{classes}"><div>{{}}</div>'
PAGES = {  # name: (the page, its own colours, its background)
    "JupyterLab light": (LAB.format(light="true"), "light", "var(--jp-layout-color0)"),
    "JupyterLab dark": (LAB.format(light="false"), "dark", "var(--jp-layout-color0)"),
    "JupyterLab dark panel": (LAB.format(light="false"), "dark", "var(--jp-layout-color1)"),
    "VS Code light": (VSCODE.format(classes="vscode-light"), "body{color:#3b3b3b}", "#ffffff"),
    "VS Code dark": (VSCODE.format(classes="vscode-dark"), "body{color:#cccccc}", "#1e1e1e"),
    "VS Code black": (VSCODE.format(classes="vscode-high-contrast"), "body{color:#ffffff}", "#000000"),
    "VS Code white": (
        VSCODE.format(classes="vscode-high-contrast vscode-high-contrast-light"),
        "body{color:#292929}",
        "#ffffff",
    ),
}


@cache
def jupyterlab_sheet(theme: str) -> str:
    """What JupyterLab itself says about colours in an output: its theme's variables and its rules for HTML."""
    folders = [Path(folder) for folder in jupyter_path("nbconvert", "templates", "lab", "static")]
    folder = next(folder for folder in folders if (folder / f"theme-{theme}.css").is_file())
    rules = css.rules([(folder / name).read_text() for name in ("index.css", f"theme-{theme}.css")])
    kept = [rule for rule in rules if rule.selector == ":root" or "jp-RenderedHTMLCommon" in rule.selector]
    sheet = "body{color:var(--jp-ui-font-color1)} .jp-RenderedHTMLCommon{color:var(--jp-content-font-color1)}"
    for rule in kept:
        body = ";".join(f"{name}:{value}" for name, value in rule.declarations.items())
        sheet += f"{rule.selector}{{{body}}}"
        if re.search(r"\b(code|pre|kbd)\b", rule.selector):  # JupyterLab itself, unlike nbconvert, insists on these
            sheet += f".jp-ThemedContainer {rule.selector}{{{body}}}"
    return sheet


@cache
def drawn_on(page: str, html: str) -> Drawn:
    skeleton, sheet, background = PAGES[page]
    return Drawn(html, skeleton, jupyterlab_sheet(sheet) if sheet in ("light", "dark") else sheet, background)


# Views: each case draws what a notebook would show, as HTML or as a picture

QUESTION = {"role": "user", "content": "  6 times 7?\n"}
CALL = [{"type": "text", "text": "It is "}, {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
EXCHANGE = {
    "messages": [QUESTION, {"role": "assistant", "content": [*CALL, {"type": "text", "text": "."}]}],
    "where": "row 3",
}
WITH_SYSTEM = {"messages": [{"role": "system", "content": "Be brief."}, *EXCHANGE["messages"]]}
INPUTS = [[1, 2, 32, END, END], [1, END, 3, 4, 5]]
TARGETS = [[-1, 32, END, -1, -1], [-1, -1, 4, 5, END]]
LENGTHS = [5, 2, 3, 6, 30, 40, 17, 28]
STEPS = pd.DataFrame({"step": range(40), "loss": np.geomspace(4, 1, 40) + 0.1 * np.sin(range(40))})
NAMES = [f"task {k}" for k in range(10)]


class FakeEngine:
    """Says a reply that is known beforehand; its model knows four tokens, so that the chat remarks on it."""

    model = SimpleNamespace(config=SimpleNamespace(sequence_len=4))

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def stream(self, prompt, max_tokens, **options):
        ids, _ = render_conversation(EXCHANGE, self.tokenizer)
        yield from ids[ids.index(self.tokenizer.special("assistant_start")) + 1 : -1]


def finished_chat(tokenizer):
    one = Chat(FakeEngine(tokenizer), max_tokens=5)  # shorter than the reply: it says that it was cut
    list(one.stream("6 times 7?"))
    return one


def streamed(tokenizer):
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        page = SimpleNamespace(update=lambda bundle, raw: shown.append(bundle))
        patch.setattr(chat, "display", lambda bundle, **_: shown.append(bundle) or page)
        show.stream_reply(FakeEngine(tokenizer), "6 times 7?", live=True, specials=True)
    return [shown[-1]["text/html"]]


def boxes(tokenizer):
    box = show.ChatBox(FakeEngine(tokenizer))
    empty = box.page.value
    box.send("6 times 7?")
    box.wait(10)
    box.specials.value = True
    return [empty, box.page.value]


def explorers(tokenizer):
    rows = {"two rows": [EXCHANGE, {"messages": [{"role": "nobody", "content": "x"}]}]}
    ways = [(0, "chat", None), (0, "tokens", 5), (1, "chat", None)]
    made = [show.RowExplorer(rows, tokenizer, limit, number, way) for number, way, limit in ways]
    shown = [one.page.value for one in made]
    assert all(words in html for words, html in zip(("It is", "max_data_tokens 5", "nobody"), shown, strict=True))
    return [*shown, made[0]._repr_mimebundle_()["text/html"]]


def token_views(tokenizer):
    ids, mask = render_conversation(EXCHANGE, tokenizer)
    return [show.token_view(ids, mask, tokenizer, title="One row", max_tokens=len(ids) - 2).data]


def live_curve(tokenizer):
    curve = show.LiveCurve(total=50, title="SFT", live=False)
    for row in STEPS.itertuples():
        numbers = {"lr_multiplier": 1.0, "num_tokens": 50, "real_tokens": 100, "slots": 120, "seconds": 0.5}
        metrics = {"val_loss": 2.0, "val_bpb": 1.8, "arc_acc": 0.3, "mmlu_acc": 0.4} if row.step % 10 == 9 else {}
        curve.update(SimpleNamespace(step=row.step, loss=row.loss, metrics=metrics, **numbers))
    return [curve.figure()]


def mixture(tokenizer):
    share = range(len(NAMES), 0, -1)
    return [show.mixture_bars(pd.DataFrame({"task": NAMES} | dict.fromkeys(show.mixture.MEASURES, share)), "All")]


def influences(tokenizer):
    lower = np.tril(np.geomspace(1e-9, 1, 36).reshape(6, 6))
    return [show.who_sees_whom({"leaking": lower, "isolated": lower * np.eye(6)}, borders=[0, 2, 6])]


def dots(tokenizer):
    losses = {"num_tokens": np.geomspace(8, 900, 40), "loss": np.linspace(0.5, 2, 40), "task": NAMES[:8] * 5}
    return [counts.loss_by_tokens(pd.DataFrame(losses), "Losses")]


def curves_of_tasks(tokenizer):
    frame = pd.DataFrame({"step": [0, 5, 10], "ARC": [2.0, 1.0, 0.5], "GSM8K": [2.0, 1.5, 1.2]})
    return [counts.task_curves({f"run {k}": frame + 0.1 * k for k in range(4)}, ["ARC", "GSM8K"])]


def long_run(steps: int) -> pd.DataFrame:
    return pd.DataFrame({"step": range(steps), "loss": 2 + np.sin(np.arange(steps))})


def next_tokens(tokenizer):
    return [show.next_token_bars(random_model(tokenizer.vocab_size), tokenizer, list(b"2+2=4"), position=3, top=4)]


VIEWS = {
    "token_view": token_views,
    "batch_view": lambda tokenizer: [show.batch_view(INPUTS, TARGETS, tokenizer, max_columns=4).data],
    "conversation_view": lambda tokenizer: [show.conversation_view(WITH_SYSTEM).data],
    "transcript": lambda tokenizer: [show.transcript([("user", "Hi"), ("assistant", "Hello")], title="Talk").data],
    "chat_view": lambda tokenizer: [
        show.chat_view(finished_chat(tokenizer), specials).data for specials in (True, False)
    ],
    "stream_reply": streamed,
    "ChatBox": boxes,
    "RowExplorer": explorers,
    "inputs_targets_table": lambda tokenizer: [
        show.inputs_targets_table(INPUTS[0], TARGETS[0], tokenizer)._repr_html_()
    ],
    "before_after_table": lambda tokenizer: [
        show.before_after_table({"mid": {"ARC": 0.2, "MMLU": 0.5}, "sft": {"ARC": 0.6}}, {"ARC": 0.25}, "Grades").data
    ],
    "batch_map": lambda tokenizer: [show.batch_map(INPUTS, TARGETS, pad_id=END, title="A batch")],
    "batch_maps": lambda tokenizer: [show.batch_maps([(INPUTS, TARGETS)] * 2, pad_id=END, title="Batches")],
    "length_histogram": lambda tokenizer: [
        show.length_histogram({"GSM8K": [120, 180, 240], "SmolTalk": [300, 900, 2000]}, cutoff=1024)
    ],
    "mixture_bars": mixture,
    "next_token_bars": next_tokens,
    "plan_map": lambda tokenizer: [
        show.plan_map(plan(LENGTHS, "packed", device_batch_tokens=64, static_shapes=True), LENGTHS),
        show.plan_map(plan(LENGTHS * 9, "padded", device_batch_size=8), LENGTHS * 9),  # too many for numbers
    ],
    "plan_maps": lambda tokenizer: [show.plan_maps({way: plan(LENGTHS, way) for way in ("padded", "packed")}, LENGTHS)],
    "who_sees_whom": influences,
    "loss_curves": lambda tokenizer: [
        show.loss_curves({f"run {k}": STEPS.assign(loss=STEPS.loss + k) for k in range(4)}, "Losses")
    ],
    "run_curves": lambda tokenizer: [
        run_curves({f"run {k} (lr=0.{k})": long_run(steps) + k for k in range(4)}, "loss", "Runs")
        for steps in (20, 4_000)  # points with marks, and smoothed lines over pale ones
    ],
    "LiveCurve": live_curve,
    "draw_curve": lambda tokenizer: [draw_curve(STEPS, 40, "SFT", "step 40 of 40")],
    "count_strips": lambda tokenizer: [counts.count_strips({"rank": [0, 8, 90, 240], "step": [500, 700, 900]})],
    "share_bars": lambda tokenizer: [
        counts.share_bars(
            pd.DataFrame([range(1, 9), range(8, 0, -1)], columns=NAMES[:8], index=["one", "two"]), "Whose"
        )
    ],
    "loss_by_tokens": dots,
    "task_curves": curves_of_tasks,
    "schedule_curves": lambda tokenizer: [
        show.schedule_curves({f"run {k}": lambda step, k=k: (1 - step / 20 / (k + 1), 0.9) for k in range(4)}, 20)
    ],
}
DRAWS_NOTHING = {"smooth", "real_row_lengths", "next_token_probabilities"}  # numbers
DRAWN_ELSEWHERE = {"progress": "LiveCurve"}


@cache
def drawn(name: str) -> list:
    return VIEWS[name](Tokenizer(BYTES))


def html_of(name: str) -> list[str]:
    return [one for one in drawn(name) if isinstance(one, str)]


def pictures_of(name: str) -> list[Picture]:
    return [one for one in drawn(name) if isinstance(one, Picture)]


def names_of(kind: type) -> list[str]:
    """Names of the cases of a kind, without drawing them."""
    html = list(VIEWS)[: list(VIEWS).index("batch_map")]
    return html if kind is str else [name for name in VIEWS if name not in html]


def test_every_view_has_a_case():
    public = set(show.__all__)
    for module in pkgutil.iter_modules(show.__path__):
        found = vars(importlib.import_module(f"nanolab.show.{module.name}")).items()
        public |= {name for name, one in found if name[0] != "_" and ours(one) and draws(one)}
    public -= {"view", "Picture"}  # the frame around every HTML view, and the class of every picture
    cases = set(VIEWS) | DRAWS_NOTHING | set(DRAWN_ELSEWHERE)
    assert public <= cases, f"add a case to VIEWS for {sorted(public - cases)}"
    assert cases <= public, f"there is no view any more called {sorted(cases - public)}"


def ours(one) -> bool:
    return getattr(one, "__module__", "").startswith("nanolab.show.")


def draws(one) -> bool:
    """Whether something in a module of nanolab.show is a view: it returns HTML or a figure, or shows itself."""
    if inspect.isclass(one):
        return any(hasattr(one, f"_repr_{way}_") for way in ("html", "png", "mimebundle"))
    returned = getattr(one, "__annotations__", {}).get("return")
    return inspect.isclass(returned) and returned.__name__ in ("HTML", "Figure", "Picture")


@pytest.mark.parametrize("name", VIEWS)
def test_every_case_draws_what_it_stands_for(name):
    kind = str if name in names_of(str) else Picture
    assert drawn(name) and all(isinstance(one, kind) for one in drawn(name))


# HTML


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", names_of(str))
def test_text_can_be_read_on_every_page(name, page):
    for html in html_of(name):
        view = drawn_on(page, html)
        texts = list(view.texts())
        assert texts
        for text, element in texts:
            seen = view.seen(element)
            found = contrast(seen.ink.hex(), seen.paper.hex())
            assert found >= TEXT, f"{text!r}: {seen.ink.hex()} on {seen.paper.hex()} is {found:.2f} : 1"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", names_of(str))
def test_lines_and_bars_that_mean_something_can_be_seen_on_every_page(name, page):
    for html in html_of(name):
        view = drawn_on(page, html)
        for element in view.elements():
            seen = view.seen(element)
            for border in borders_with_a_meaning(view, element):
                for where, paper in (("inside", seen.paper), ("outside", seen.around)):
                    found = contrast(border.hex(), paper.hex())
                    assert found >= MARK, f"{element}: border {border.hex()} to {paper.hex()} {where} {found:.2f} : 1"
            if "nl-fill" in element.get("class", []):
                found = contrast(seen.paper.hex(), seen.around.hex())
                assert found >= MARK, f"{element}: bar {seen.paper.hex()} on {seen.around.hex()} is {found:.2f} : 1"


def borders_with_a_meaning(view: Drawn, element) -> list[css.Colour]:
    style = view.style(element)
    sides = [side for side in css.SIDES if style.get(f"border-{side}-color") != FRAME]
    return [border for side in sides if (border := view.border(element, side)) is not None]


def test_areas_without_text_are_bars_or_nothing():
    """Were there others, their contrast would have to be measured, too."""
    for name in names_of(str):
        for html in html_of(name):
            view = drawn_on("JupyterLab light", html)
            for element in view.elements():
                painted = css.colour(view.style(element).get("background-color", "transparent"), "#000000").alpha > 0
                if painted and not element.get_text(strip=True):
                    assert set(element["class"]) <= {"nl-bar", "nl-fill"}


@pytest.mark.parametrize("page", PAGES)
def test_each_kind_of_token_has_a_mark_of_its_own_besides_its_colour(page):
    view = drawn_on(page, token_views(Tokenizer(BYTES))[0] + html_of("batch_view")[0])
    kinds = {
        "supervised": ".nl-box u:not(.nl-s)",
        "ignored": ".nl-box span.nl-c:not(.nl-s)",
        "special": ".nl-box span.nl-s",
        "supervised special": ".nl-box u.nl-s",
        "padding": ".nl-pair .nl-p",
    }
    marks = {kind: marks_of(view, view.soup.select_one(selector)) for kind, selector in kinds.items()}
    assert marks == {
        "supervised": ("solid", False),
        "ignored": (None, False),
        "special": (None, True),
        "supervised special": ("solid", True),
        "padding": ("dotted", False),
    }


def marks_of(view: Drawn, chip) -> tuple[str | None, bool]:
    """The line below a chip, and whether its text is bold."""
    line = view.style(chip)["border-bottom-style"] if view.border(chip, "bottom") else None
    return line, view.bold(chip.find("b") or chip)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_the_line_below_a_token_is_seen_without_red_and_green_too(page, sight):
    for html in (html_of("token_view")[0], html_of("batch_view")[0]):
        view = drawn_on(page, html)
        for chip in view.soup.select("u, .nl-p"):
            border, seen = view.border(chip, "bottom"), view.seen(chip)
            assert contrast_as_seen(border.hex(), seen.paper.hex(), sight) >= MARK
            assert contrast_as_seen(border.hex(), seen.around.hex(), sight) >= MARK


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("sight", SIGHTS)
def test_text_is_read_without_red_and_green_too(page, sight):
    for name in ("token_view", "batch_view", "conversation_view"):
        view = drawn_on(page, html_of(name)[0])
        for text, element in view.texts():
            seen = view.seen(element)
            assert contrast_as_seen(seen.ink.hex(), seen.paper.hex(), sight) >= TEXT, text


def test_bubbles_and_calls_say_in_words_whose_they_are():
    html = html_of("conversation_view")[0]
    bubbles = re.findall(r'<div class="nl-turn nl-(\w+)"><b>(\w+)</b>', html)
    assert bubbles == [(role, role) for role in ("system", "user", "assistant")]
    calls = re.findall(r'<code class="([^"]*)"><small>([^<]*)</small>', html)
    assert calls == [("nl-tool", "python call"), ("nl-tool nl-output", "python output")]


def test_the_mark_of_chance_stands_out_of_its_bar():
    view = drawn_on("JupyterLab dark", html_of("before_after_table")[0])
    mark = view.style(view.soup.select_one(".nl-chance"))
    assert (mark["top"], mark["bottom"], mark["border-left-style"]) == ("-3px", "-3px", "solid")


def test_a_pale_colour_would_be_found():
    """The measurement itself: a chip, a half-transparent line of text and a border that are too pale."""
    pale = drawn_on(
        "JupyterLab light", "<style>.a{color:#999;background:#ddd;border:1px solid #ccc}</style><b class=a>x"
    )
    chip = pale.soup.select_one(".a")
    assert contrast(pale.seen(chip).ink.hex(), pale.seen(chip).paper.hex()) < TEXT
    assert [border.hex() for border in borders_with_a_meaning(pale, chip)] == ["#CCCCCC"] * 4
    quiet = drawn_on("VS Code dark", '<style>.b{opacity:.5}</style><p class="b">x')
    seen = quiet.seen(quiet.soup.select_one(".b"))
    assert (seen.ink.hex(), seen.paper.hex()) == ("#757575", "#1E1E1E")  # halfway from #cccccc to #1e1e1e


def test_a_pages_own_rules_count():
    """JupyterLab paints `code` and the rows of tables, unless a view says otherwise."""
    view = drawn_on("JupyterLab dark", "<p><code>x</code></p><style>.nl-view code{background:#123456}</style>")
    code = view.soup.select_one("code")
    assert view.seen(code).paper.hex() == "#424242"  # --jp-layout-color2
    assert drawn_on("JupyterLab dark", "").background.hex() == "#111111"
    assert drawn_on("JupyterLab light", "").background.hex() == "#FFFFFF"


# Pictures


def pixels(picture: Picture) -> np.ndarray:
    """(height, width, 3), as a notebook shows it; nothing of the page shines through."""
    shown = Image.open(BytesIO(picture.png()))
    assert shown.mode == "P" and "transparency" not in shown.info
    return np.asarray(shown.convert("RGB")).astype(float)


@pytest.mark.parametrize("name", names_of(Picture))
def test_words_in_pictures_can_be_read_on_the_background_that_they_bring(name):
    for picture in VIEWS[name](Tokenizer(BYTES)):  # drawn anew: the words are taken out of it
        picture.draw_without_rendering()
        words = [text for text in picture.findobj(Text) if text.get_visible() and text.get_text().strip()]
        places = [text.get_window_extent() for text in words]
        picture.set_layout_engine("none")
        for text in words:
            text.set_alpha(0)
        below, checked = pixels(picture), 0
        assert {
            css.Colour(*corner).hex() for corner in below[:: len(below) - 1, :: below.shape[1] - 1].reshape(-1, 3)
        } == {PAPER}
        for text, place in zip(words, places, strict=True):
            rows, columns = (round(below.shape[0] - place.y1), round(below.shape[0] - place.y0)), (place.x0, place.x1)
            paper = below[max(rows[0], 0) : max(rows[1], 0), max(round(columns[0]), 0) : max(round(columns[1]), 0)]
            if paper.size:  # labels of ticks beyond the axis are not drawn
                checked += 1
                worst = worst_contrast(text.get_color(), paper.reshape(-1, 3))
                assert worst >= TEXT, f"{text.get_text()!r} in {to_hex(text.get_color())}: {worst:.2f} : 1"
        assert checked >= 3


def worst_contrast(ink: str, paper: np.ndarray) -> float:
    """Contrast of ink to all but the worst twentieth of the pixels (N, 3) below it: thin lines may cross a word."""
    light, dark = luminances(paper), luminances(255 * np.array(to_rgba(ink)[:3]))
    ratios = (np.maximum(light, dark) + 0.05) / (np.minimum(light, dark) + 0.05)
    return float(np.quantile(ratios, 0.05))


def luminances(pixels: np.ndarray) -> np.ndarray:
    return linear(pixels) @ LUMINANCE


def linear(pixels: np.ndarray) -> np.ndarray:
    """Red, green and blue as amounts of light, 0 to 1."""
    share = pixels / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("name", names_of(Picture))
def test_lines_and_areas_in_pictures_can_be_seen(name):
    checked = 0
    for picture in pictures_of(name):
        for ax in picture.axes:
            strong = [line for line in ax.lines if contrast_on_paper(line.get_color(), line.get_alpha()) >= MARK]
            colours = {to_hex(line.get_color()) for line in strong}
            for line in set(ax.lines) - set(strong):
                twin = line.get_alpha() is not None and to_hex(line.get_color()) in colours
                assert twin, f"a line {to_hex(line.get_color())} is too pale, and no full line says the same"
            areas = [*ax.patches, *ax.collections]
            for area in areas:
                assert seen_on_paper(area), f"{area}: {area.get_facecolor()} is too pale, and has no edge or hatch"
            for image in ax.images:
                least = image.cmap(image.norm(np.ma.min(image.get_array())))
                assert contrast_on_paper(least) >= MARK, f"the smallest value, {to_hex(least)}, is too pale"
            checked += len(strong) + len(areas) + len(ax.images)
    assert checked


def contrast_on_paper(colour, alpha: float | None = None) -> float:
    """Contrast of a matplotlib colour on a picture's paper, which shines through where it is half transparent."""
    red, green, blue, own = to_rgba(colour)
    channels = [255 * channel for channel in (red, green, blue)]
    return contrast(css.Colour(*channels, own if alpha is None else alpha).over(css.colour(PAPER)).hex(), PAPER)


def seen_on_paper(area) -> bool:
    """Whether a bar, a stretch or a point is told from the paper by its colour, its edge or its hatch."""
    faces, edges = (np.atleast_2d(colours) for colours in (area.get_facecolor(), area.get_edgecolor()))
    if all(contrast_on_paper(face) >= MARK for face in faces):
        return True
    edged = area.get_hatch() or np.min(area.get_linewidth()) >= 0.5
    return bool(edged and len(edges) and all(contrast_on_paper(edge) >= MARK for edge in edges))


# Pictures without red and green


def contrast_as_seen(one: str, other: str, sight: str) -> float:
    """Contrast of two colours as somebody sees them."""
    shares = [linear(np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])) for colour in (one, other)]
    dark, light = sorted(float(np.clip(SIGHTS[sight] @ share, 0, 1) @ LUMINANCE) for share in shares)
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* of a colour as somebody sees it; about 2 apart can just be told apart side by side."""
    share = linear(np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]))
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(SIGHTS[sight] @ share, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_colours_of_series_stay_apart(sight):
    for one, other in itertools.combinations(SERIES, 2):
        distance = np.linalg.norm(lab(one, sight) - lab(other, sight))
        assert distance >= 14, f"{one} and {other} are only {distance:.1f} apart"


@pytest.mark.parametrize("sight", SIGHTS)
def test_marks_of_pictures_are_seen_on_paper(sight):
    for colour in (*SERIES, palette.SUPERVISED, palette.CONTEXT, palette.INK, palette.GREY):
        assert contrast_as_seen(colour, PAPER, sight) >= MARK, colour


@pytest.mark.parametrize(
    "name", ["loss_curves", "run_curves", "task_curves", "schedule_curves", "LiveCurve", "loss_by_tokens"]
)
def test_curves_and_points_differ_in_shape_as_well_as_in_colour(name):
    for picture in pictures_of(name):
        for legend in [ax.get_legend() for ax in picture.axes if ax.get_legend()] + picture.legends:
            handles = legend.legend_handles
            assert len({shape_of(handle) for handle in handles}) == len(handles)


def shape_of(handle) -> tuple:
    """What tells a line or a point apart without its colour."""
    if isinstance(handle, Line2D):
        return handle.get_linestyle(), handle.get_marker()
    return tuple(map(tuple, handle.get_paths()[0].vertices.round(3)))


def test_kinds_of_positions_differ_in_height_and_padding_is_hatched():
    heights = {kind: height for kind, (_, height, _) in show.batches.BARS.items()}
    hatched = {kind for kind, (*_, hatch) in show.batches.BARS.items() if hatch}
    assert len(set(heights.values())) == len(heights) == 3
    assert hatched == {"padding"}
    (picture,) = pictures_of("batch_map")
    drawn_heights = {
        round(float(np.ptp(path.vertices[:, 1])), 2)
        for bars in picture.axes[0].collections
        for path in bars.get_paths()
    }
    assert drawn_heights == set(heights.values())


def test_segments_stand_in_the_order_of_the_legend_with_a_line_between_them():
    for name in ("mixture_bars", "share_bars"):
        (picture,) = pictures_of(name)
        (ax,) = picture.axes
        lefts = [bars[0].get_x() for bars in ax.containers]
        named = [text.get_text() for text in picture.legends[0].get_texts()]
        assert lefts == sorted(lefts) and named == [bars.get_label() for bars in ax.containers]
        for bar in ax.patches:
            assert contrast(to_hex(bar.get_edgecolor()), to_hex(bar.get_facecolor())) >= MARK


def test_the_token_that_follows_is_hatched_and_named():
    (picture,) = pictures_of("next_token_bars")
    hatched = [bool(bar.get_hatch()) for bar in picture.axes[0].patches]
    words = ["really follows" in text.get_text() for text in picture.axes[0].texts]
    assert hatched == words and sum(hatched) == 1


def test_the_cutoff_of_lengths_is_dashed_and_the_median_is_not():
    (picture,) = pictures_of("length_histogram")
    assert [line.get_linestyle() for line in picture.axes[0].lines] == ["-", "--"]


def test_the_sheet_has_no_rule_that_the_measurement_passes_over():
    assert "@" not in style_sheet() and "filter" not in style_sheet() and "mix-blend" not in style_sheet()


def test_the_examples_of_the_measurement_are_true():
    assert doctest.testmod(css).failed == 0
