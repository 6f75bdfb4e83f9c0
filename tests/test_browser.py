"""A learner's JupyterLab: in a real browser notebooks run, views show and answer the mouse, and the curve moves."""

import re
import sys

import nbformat
import pytest

from nanolab.course import NOTEBOOKS
from nanolab.render import render_conversation
from nanolab.show.palette import DARK_CHIPS, LIGHT_CHIPS, Chip
from nanolab.tasks import ARC, GSM8K
from nanolab.tokenizer import Tokenizer
from tests import browser
from tests.browser import Lab, contrasts, find_browser, is_in_view, keep_screenshot, left_behind, open_lab

WHOLE_LINE, BATCHES, CURVE = "00_the_whole_line.ipynb", "06_batches.ipynb", "curve.ipynb"
THEMES = {"JupyterLab Dark": DARK_CHIPS, "JupyterLab Light": LIGHT_CHIPS}
VIEWS = ("conversation_view(", "token_view(", "batch_view(", "stream_reply(", "RowExplorer(")
KINDS = {  # of chips: the view that has them, and where
    "supervised": ("token_view(", ".nl-box u:not(.nl-s)"),
    "context": ("token_view(", ".nl-box .nl-c:not(.nl-s)"),
    "special": ("token_view(", ".nl-box .nl-s"),
    "code": ("conversation_view(", "code.nl-tool:not(.nl-output)"),
    "padding": ("conversation_view(", "code.nl-output"),
}
ABOUT = re.compile(r"(?:position |target of position )?(\d+) · id (\d+)")  # how the title of a chip begins

IMPORTS = """
from pathlib import Path
from nanolab import show
from nanolab.batch import Step, lay_out
from nanolab.course import ensure_tokenizer
from nanolab.gpt import GPT, GPTConfig
from nanolab.optim import make_optimizers
from nanolab.render import render_conversation
from nanolab.show import live
from nanolab.tasks import GSM8K
from nanolab.train import train

live.REST = 1  # drawing may take half of the time: four drawings are soon there
"""
# Trains until the test has seen enough, so that it asks for no speed of the machine.
TRAINING = """
tokenizer = ensure_tokenizer("toy")
rows = [render_conversation(GSM8K("main", "train", data="toy")[0], tokenizer)]
steps = [Step(lay_out(rows, pad_id=tokenizer.special("assistant_end")))] * 3_000
model = GPT(GPTConfig.from_depth(1, tokenizer.vocab_size))
optimizers = make_optimizers(model, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02)
reports = train(model, optimizers, steps, schedule=lambda s: (1.0, None))
for report in show.progress(reports, len(steps), "One row, again and again", every=0.5):
    if Path("seen").exists():
        break
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = find_browser()
    with open_lab(tmp_path_factory.mktemp("lab"), path, [NOTEBOOKS / WHOLE_LINE, NOTEBOOKS / BATCHES]) as lab:
        yield lab


@pytest.fixture(scope="module")
def whole_line(lab, tmp_path_factory):
    """The first notebook after Run All Cells."""
    with lab.notebook(WHOLE_LINE, tmp_path_factory.mktemp("whole_line")) as notebook:
        notebook.run_all()
        yield notebook


@pytest.fixture
def screenshot(request, whole_line, tmp_path):
    """A failed test leaves a picture of the first notebook's page."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before:
        keep_screenshot(whole_line.page, tmp_path / "whole_line.png")


def tokenizer_of(lab: Lab) -> Tokenizer:
    return Tokenizer.load(lab.folder.parent / "cache" / "tokenizer")


def ids_of(chips) -> list[int]:
    """The ids that the titles of chips say."""
    titles = chips.evaluate_all("chips => chips.map(chip => chip.title)")
    return [int(ABOUT.match(title)[2]) for title in titles]


def hover(chip) -> str:
    """Move the mouse over a chip; the title that the browser then shows as its tooltip."""
    chip.hover(timeout=10_000)
    assert is_in_view(chip)
    assert chip.evaluate("chip => chip.matches(':hover')")
    return chip.get_attribute("title")


def colours(element) -> list[str]:
    """The colour of an element's text and of its background on the page, as #RRGGBB."""
    said = element.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    return ["#{:02X}{:02X}{:02X}".format(*map(int, re.findall(r"\d+", colour))) for colour in said]


@pytest.mark.slow
def test_server_kernel_and_browser_are_found_as_processes_of_the_test(lab, whole_line):
    commands = left_behind(lab.folder.parent)
    for part in ("jupyterlab", "ipykernel_launcher", "chrom"):
        assert any(part in command for command in commands)


@pytest.mark.slow
def test_token_view_shows_a_chip_for_each_token_and_says_its_id_on_hovering(lab, whole_line, screenshot):
    ids, mask = render_conversation(GSM8K("main", "train", data="toy")[0], tokenizer_of(lab))
    chips = whole_line.cell("show.token_view(").locator(".nl-box [title]")
    assert ids_of(chips) == ids
    assert [tag == "U" for tag in chips.evaluate_all("chips => chips.map(chip => chip.tagName)")] == list(
        map(bool, mask)
    )
    assert all(is_in_view(chip) for chip in (chips.first, chips.nth(len(ids) // 2), chips.last))
    assert hover(chips.nth(1)) == f"1 · id {ids[1]} · user, ignored · '<|user_start|>'"
    assert hover(chips.last) == f"{len(ids) - 1} · id {ids[-1]} · assistant, supervised · '<|assistant_end|>'"


@pytest.mark.slow
def test_explorer_leafs_with_its_buttons(lab, whole_line, screenshot):
    rows, tokenizer = ARC("ARC-Easy", "train", data="toy"), tokenizer_of(lab)
    page = whole_line.cell("RowExplorer(")
    for button, number in (("next", 1), ("next", 2), ("previous", 1), ("previous", 0)):
        page.get_by_role("button", name=button, exact=True).click(timeout=10_000)
        page.get_by_text(f"ARC-Easy train row {number}", exact=True).wait_for(timeout=10_000)
        assert ids_of(page.locator(".nl-box [title]")) == render_conversation(rows[number], tokenizer)[0]
    assert page.get_by_role("button", name="previous", exact=True).is_disabled()


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
def test_views_have_the_colours_of_the_theme_and_every_text_can_be_read(whole_line, screenshot, theme):
    whole_line.use_theme(theme)
    for words in VIEWS:
        measured = contrasts(whole_line.cell(words).locator(".nl-view").first)
        assert len(measured) > 10 and measured[0][0] >= 4.5, f"{words} {measured[:3]}"
    for kind, (words, where) in KINDS.items():
        ink, paper = colours(whole_line.cell(words).locator(where).first)
        assert Chip(ink, paper) == THEMES[theme][kind], kind


@pytest.mark.slow
def test_live_curve_of_the_first_notebook_has_become_one_picture(whole_line, screenshot):
    curve = whole_line.cell("show.progress(").locator("img")
    assert curve.count() == 1 and is_in_view(curve)


@pytest.mark.slow
def test_batch_map_is_a_picture_in_view_and_batch_view_says_positions_on_hovering(lab, tmp_path):
    with lab.notebook(BATCHES, tmp_path) as notebook:
        notebook.run_all()
        picture = notebook.cell("batch_map(inputs").locator("img")
        assert is_in_view(picture)
        assert picture.evaluate("image => image.naturalWidth") == 810 >= picture.bounding_box()["width"] > 500
        view = notebook.cell("batch_view(")
        inputs, targets = view.locator(".nl-pair > :first-child"), view.locator(".nl-pair > u")
        bos, end = (tokenizer_of(lab).special(name) for name in ("bos", "assistant_end"))
        assert hover(inputs.first) == f"position 0 · id {bos} · context input, ignored · '<|bos|>'"
        assert re.fullmatch(
            rf"target of position \d+ · id {end}, supervised · '<\|assistant_end\|>'", hover(targets.last)
        )
        assert hover(view.locator(".nl-p[title]").first).endswith(f" · id {end} · padding input")


@pytest.mark.slow
def test_live_curve_moves_while_the_model_trains(lab, tmp_path):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in (IMPORTS, TRAINING)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=python3()), lab.folder / CURVE)
    with lab.notebook(CURVE, tmp_path) as notebook:
        notebook.start()
        notebook.wait_for_pictures(4)
        curve = notebook.cell("show.progress(")
        assert curve.locator(".jp-InputPrompt").inner_text() == "[*]:"  # it still trains
        assert curve.locator("img").count() == 1 and is_in_view(curve.locator("img"))
        (lab.folder / "seen").touch()
        notebook.finish()


def python3() -> dict:
    return {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def test_without_a_browser_tests_skip_and_say_how_to_install_one(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.delenv("NANOLAB_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        find_browser()


def test_without_a_browser_that_is_required_tests_fail(monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setenv("NANOLAB_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        find_browser()


def test_a_process_that_is_left_is_found(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with browser.subprocess.Popen(command, env={"FOLDER": str(tmp_path)}) as sleeper:
        try:
            browser.wait_for(lambda: left_behind(tmp_path), 10, lambda: "nothing was found")
            assert left_behind(tmp_path) == [" ".join(command)]
        finally:
            sleeper.kill()
    assert left_behind(tmp_path) == []
