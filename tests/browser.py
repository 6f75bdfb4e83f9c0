"""JupyterLab in a real browser, for tests: a server of its own, a page of it, and what a reader does there.

Needs Chromium: `find_browser` looks for it, `open_lab` starts everything and ends everything.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from playwright.sync_api import BrowserContext, Error, Locator, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOW_TO_INSTALL = (
    f"These tests need a browser, one of {', '.join(BROWSERS)} on the PATH: `apt-get install chromium` on Debian; "
    "elsewhere install Google Chrome and link it as google-chrome."
)
FLAGS = (
    "--no-sandbox",  # the sandbox cannot be had as root, as containers run; only our own pages are opened
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
QUIET = '{"fetchNews": "false", "checkForUpdates": false}'
VIEWPORT = {"width": 1280, "height": 900}
UNWATCHED = ("PAPERMILL", "CI")  # a kernel that finds these does not draw live curves
FORGOTTEN = 300  # seconds without work after which a server ends, whose tests were killed before they could end it
POLL = 0.05  # seconds between two looks at a condition outside the page

OPEN_NOTEBOOK = "window.jupyterapp && window.jupyterapp.shell.currentWidget"
IS_READY = f"""path => {{
  const panel = {OPEN_NOTEBOOK};
  const kernel = panel?.sessionContext?.session?.kernel;
  return panel?.context?.path === path && panel.context.isReady && kernel?.status === "idle";
}}"""
CELLS = f"() => ({OPEN_NOTEBOOK}).content.model.toJSON().cells"
HAS_ENDED = f"""() => {{
  const panel = {OPEN_NOTEBOOK};
  const code = panel.content.model.toJSON().cells.filter(cell => cell.cell_type === "code");
  const failed = code.some(cell => cell.outputs.some(output => output.output_type === "error"));
  return failed || (code.every(cell => cell.execution_count) && panel.sessionContext.session.kernel.status === "idle");
}}"""
HAS_SHOWN_OR_ENDED = f"""number => {{
  const seen = (window.seenPictures ??= new Set());
  for (const image of document.querySelectorAll(".jp-OutputArea-output img")) seen.add(image.src);
  return seen.size >= number || ({HAS_ENDED})();
}}"""
SCROLL_TO = f"index => ({OPEN_NOTEBOOK}).content.scrollToItem(index, 'start')"
IS_IN_VIEW = """element => {
  const { x, y, width, height } = element.getBoundingClientRect();
  return width > 0 && height > 0 && element.contains(document.elementFromPoint(x + width / 2, y + height / 2));
}"""

# Each text of an element with its contrast (WCAG 2.2), as it is on the page: colours with their alpha over the
# backgrounds below them, and the opacity of all elements around it.
CONTRASTS = """root => {
  const channels = colour => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    return [...numbers.slice(0, 3), numbers.length > 3 ? numbers[3] : 1];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
  const luminance = rgb => {
    const [r, g, b] = rgb.map(value => value / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrastOf = element => {
    const around = [];
    for (let e = element; e; e = e.parentElement) around.unshift(getComputedStyle(e));
    let paper = [255, 255, 255], opacity = 1;
    for (const style of around) {
      opacity *= Number(style.opacity);
      const [r, g, b, a] = channels(style.backgroundColor);
      paper = over([r, g, b, a * opacity], paper);
    }
    const [r, g, b, a] = channels(around.at(-1).color), ink = over([r, g, b, a * opacity], paper);
    const [dark, light] = [luminance(ink), luminance(paper)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (texts.currentNode.data.trim() && element.tagName !== "STYLE")
      found.push([contrastOf(element), element.outerHTML.slice(0, 200)]);
  }
  return found;
}"""


def find_browser() -> str:
    """The path of Chromium or Chrome; where there is none the test skips, or fails if NANOLAB_BROWSER=required."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.environ.get("NANOLAB_BROWSER") == "required":
        pytest.fail(HOW_TO_INSTALL, pytrace=False)
    return found or pytest.skip(HOW_TO_INSTALL)


@dataclass(frozen=True)
class Lab:
    """A running server and a browser that looks at it; `folder` has the notebooks, which tests may change."""

    folder: Path
    url: str
    token: str
    browser: BrowserContext

    @contextmanager
    def notebook(self, name: str, pictures: Path) -> Iterator["NotebookPage"]:
        """A notebook in a new page, closed at the end with its kernel; an error leaves a screenshot in `pictures`."""
        page = self.browser.new_page()
        try:
            page.goto(f"{self.url}lab/tree/{name}?token={self.token}&reset", timeout=60_000)
            notebook = NotebookPage(page)
            notebook.wait(IS_READY, name, f"{name} is open and its kernel is idle")
            yield notebook
        except BaseException:
            keep_screenshot(page, pictures / f"{Path(name).stem}.png")
            raise
        finally:
            page.close()
            self.end_kernels()

    def end_kernels(self):
        """End all kernels of the server."""
        asker, header = self.browser.request, {"Authorization": f"token {self.token}"}
        for session in asker.get(f"{self.url}api/sessions", headers=header).json():
            asker.delete(f"{self.url}api/sessions/{session['id']}", headers=header)


class NotebookPage:
    """A notebook in JupyterLab: what is in it, and what a reader does with it."""

    def __init__(self, page: Page):
        self.page = page

    def wait(self, condition: str, argument: object, what: str, seconds: float = 60):
        """Wait until a JavaScript function of `argument` is true. Raises AssertionError after `seconds`."""
        try:
            self.page.wait_for_function(condition, arg=argument, timeout=1000 * seconds)
        except Error as error:
            raise AssertionError(f"After {seconds:.0f} s it is still not true that {what}.\n{error.message}") from None

    def choose(self, *names: str):
        """Choose from the menu bar, such as ("Run", "Run All Cells")."""
        self.page.get_by_role("menubar").get_by_role("menuitem", name=names[0], exact=True).click()
        for name in names[1:]:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()

    def run_all(self):
        """Choose Run All Cells, and wait until all have run."""
        self.start()
        self.finish()

    def start(self):
        """Choose Run All Cells."""
        self.choose("Run", "Run All Cells")

    def finish(self, seconds: float = 600):
        """Wait until all cells have run. Raises AssertionError with the traceback if one has failed."""
        self.wait(HAS_ENDED, None, "all cells have run and the kernel is idle", seconds)
        self.check_outputs()

    def check_outputs(self):
        """Raises AssertionError with the traceback if a cell has failed."""
        for output in (output for cell in self.cells() for output in cell.get("outputs", [])):
            assert output["output_type"] != "error", f"A cell failed:\n{''.join(output['traceback'])}"

    def wait_for_pictures(self, number: int, seconds: float = 120):
        """Wait until running cells have shown so many different pictures. Raises AssertionError if they do not."""
        self.wait(HAS_SHOWN_OR_ENDED, number, f"the running cells have shown {number} pictures", seconds)
        self.check_outputs()
        seen = self.page.evaluate("window.seenPictures.size")
        assert seen >= number, f"All cells have run and have shown only {seen} different pictures, not {number}."

    def cells(self) -> list[dict]:
        """The cells as they would be saved now."""
        return self.page.evaluate(CELLS)

    def index(self, words: str) -> int:
        """The number of the first code cell whose source has these words. Raises AssertionError if there is none."""
        found = [i for i, cell in enumerate(self.cells()) if cell["cell_type"] == "code" and words in source_of(cell)]
        assert found, f"No code cell has {words!r} in it."
        return found[0]

    def cell(self, words: str) -> Locator:
        """The first code cell whose source has these words, scrolled to."""
        index = self.index(words)
        self.page.evaluate(SCROLL_TO, index)
        cell = self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
        cell.scroll_into_view_if_needed(timeout=10_000)
        return cell

    def use_theme(self, name: str):
        """Choose a theme in the menu, such as "JupyterLab Dark", and wait until the page has it."""
        self.choose("Settings", "Theme", name)
        self.wait("name => document.body.dataset.jpThemeName === name", name, f"the theme is {name}", seconds=20)


def source_of(cell: dict) -> str:
    """A cell's source, which the notebook format keeps as a string or as a list of lines."""
    return "".join(cell["source"])


def is_in_view(element: Locator) -> bool:
    """Whether an element, scrolled to, has a size, and a click on its middle would meet it or something in it."""
    element.scroll_into_view_if_needed(timeout=10_000)
    return element.evaluate(IS_IN_VIEW)


def contrasts(element: Locator) -> list[tuple[float, str]]:
    """The contrast of each text in an element to what is below it, and the beginning of its HTML; the worst first."""
    return sorted(map(tuple, element.evaluate(CONTRASTS)))


def keep_screenshot(page: Page, path: Path):
    """Save how the page looks, and say where."""
    try:
        page.screenshot(path=path)
        print(f"How the page looked: {path}")
    except Error as error:  # the page may be gone: that error must not hide the first one
        print(f"No screenshot: {error.message}")


@contextmanager
def open_lab(folder: Path, browser_path: str, notebooks: list[Path]) -> Iterator[Lab]:
    """JupyterLab on copies (without outputs) of these notebooks, and a browser; everything has ended afterwards.

    What the server, its kernels and the browser write lies in `folder`. Raises AssertionError if the server does not
    start, or if one of their processes is left at the end.
    """
    work = folder / "notebooks"
    work.mkdir(parents=True)
    for notebook in notebooks:
        copy_without_outputs(notebook, work / notebook.name)
    options = {"executable_path": browser_path, "headless": True, "args": FLAGS, "viewport": VIEWPORT}
    with (
        running_server(folder, work) as (url, token),
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(folder / "profile", **options) as browser,
    ):
        yield Lab(work, url, token, browser)
    wait_for(lambda: not left_behind(folder), 20, lambda: f"These processes are left: {left_behind(folder)}")


def copy_without_outputs(notebook: Path, copy: Path):
    """What a page shows of the copy comes from a run of it."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(content, copy)


@contextmanager
def running_server(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    """The URL and the token of a JupyterLab server, which ends with its kernels."""
    token = secrets.token_hex(16)
    options = {
        "ServerApp.port": 0,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.root_dir": root,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,  # window.jupyterapp, which tells what the kernel does
        "ServerApp.shutdown_no_activity_timeout": FORGOTTEN,
        "MappingKernelManager.cull_idle_timeout": FORGOTTEN,
        "MappingKernelManager.cull_connected": True,
        "LabApp.extension_manager": "readonly",  # nothing is asked of the internet, here and in QUIET
    }
    command = [sys.executable, "-m", "jupyterlab"] + [f"--{name}={value}" for name, value in options.items()]
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(QUIET)
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=log, start_new_session=True)
    try:
        yield wait_for_url(server, folder), token
    finally:
        end(server)


def environment(folder: Path) -> dict[str, str]:
    """The environment of the server and its kernels: nothing of the user's own settings, everything in `folder`."""
    left_out = (*UNWATCHED, "NANOLAB_DATA", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    places = {
        "NANOLAB_CACHE": "cache",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    return kept | {name: str(folder / place) for name, place in places.items()} | {"OMP_NUM_THREADS": "1"}


def wait_for_url(server: subprocess.Popen, folder: Path) -> str:
    """The URL that a starting server has written down. Raises AssertionError with its log if it does not start."""
    written = folder / "runtime" / f"jpserver-{server.pid}.json"
    wait_for(
        lambda: (written.exists() and written.stat().st_size > 0) or server.poll() is not None,
        60,
        lambda: f"JupyterLab has not started:\n{(folder / 'server.log').read_text()}",
    )
    assert server.poll() is None, f"JupyterLab has ended:\n{(folder / 'server.log').read_text()}"
    return json.loads(written.read_text())["url"]


def end(server: subprocess.Popen):
    """Ask the server to end, with its kernels; after 20 seconds end it as it is."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def wait_for(condition: Callable[[], bool], seconds: float, complaint: Callable[[], str]):
    """Wait until something outside the page is so. Raises AssertionError with the complaint after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, complaint()
        time.sleep(POLL)


def left_behind(folder: Path) -> list[str]:
    """The commands of the processes, other than this one, that have `folder` in their command or environment."""
    others = (process for process in psutil.process_iter() if process.pid != os.getpid())
    return [command for command in (command_with(str(folder), process) for process in others) if command]


def command_with(folder: str, process: psutil.Process) -> str:
    """The command of a process if it or its environment names `folder`, else ""."""
    try:
        command = " ".join(process.cmdline())
        return command if folder in " ".join([command, *process.environ().values()]) else ""
    except psutil.Error:  # it has just ended, or is another user's
        return ""
