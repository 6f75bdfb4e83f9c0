"""Beside the line: the course as a folder of HTML pages that opens from disk.

    make site        data_cache/site/index.html: the README, and every notebook as it is saved

Notebooks are converted with nbconvert, the README with its Markdown renderer. Nothing is fetched when a page is opened.
"""

import re
import shutil
import sys
from html import escape
from pathlib import Path

from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from nanolab.course import NOTEBOOKS
from nanolab.paths import CLONE, NO_CLONE, cache_dir, shown

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid #8886; border-radius: .4rem }}
table {{ border-collapse: collapse }} th, td {{ border: 1px solid #8886; padding: .2rem .6rem; text-align: left }}
img {{ max-width: 100% }}
.anchor-link {{ visibility: hidden; text-decoration: none }} :hover > .anchor-link {{ visibility: visible }}
</style></head><body>{body}</body></html>
"""
NO_SCRIPTS = {
    "mathjax_url": "",
    "require_js_url": "",
    "jquery_url": "",
    "widget_renderer_url": "",
}  # they are on the net


def notebook_page(path: Path, theme: str = "light") -> str:
    """A saved notebook as one HTML page, its links leading to the other pages.

    >>> notebook_page(NOTEBOOKS / "04_ignore_index.ipynb").startswith("<!DOCTYPE html>")      # doctest: +SKIP
    True
    """
    body, _ = HTMLExporter(theme=theme, **NO_SCRIPTS).from_filename(str(path))
    return pages_for_notebooks(body)


def readme_page(text: str) -> str:
    """The README as the site's first page; links to other files of the clone become plain text, as they lead nowhere.

    >>> "<h1" in readme_page("# nanolab")
    True
    """
    linked = pages_for_notebooks(markdown2html_mistune(text)).replace('href="notebooks/', 'href="')
    linked = linked.replace('src="notebooks/pictures/', 'src="pictures/')
    linked = re.sub(r'<a href="(?!https?://|#|\d\d_)[^"]*">(.*?)</a>', r"\1", linked, flags=re.S)
    title = text.partition("\n")[0].lstrip("# ")
    return PAGE.format(title=escape(title), body=linked)


def pages_for_notebooks(html: str) -> str:
    """Let links to notebooks lead to their pages.

    >>> pages_for_notebooks('<a href="01_mixtures.ipynb">')
    '<a href="01_mixtures.html">'
    """
    return re.sub(r'(href="[^":]*)\.ipynb(["#])', r"\1.html\2", html)


def build(folder: Path) -> Path:
    """Write the site into `folder`, in place of an older one; the path of its first page."""
    beside = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        (beside / f"{path.stem}.html").write_text(notebook_page(path), encoding="utf-8")
    shutil.copytree(NOTEBOOKS / "pictures", beside / "pictures")
    readme = (CLONE / "README.md").read_text(encoding="utf-8")
    (beside / "index.html").write_text(readme_page(readme), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder / "index.html"


def main() -> int:
    """Build the site in the cache folder; the exit status is 1 where there are no notebooks."""
    if not NOTEBOOKS.is_dir():
        print(f"nanolab.site: {NO_CLONE}", file=sys.stderr)
        return 1
    print(f"Open {shown(build(cache_dir() / 'site'))} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
