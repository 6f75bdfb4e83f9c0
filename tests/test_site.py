"""The course as HTML pages."""

import re

import pytest

from nanolab.course import NOTEBOOKS
from nanolab.site import build, readme_page


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The first page of a site that was built where an older one stood."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "old.html").write_text("old")
    return build(folder)


def test_the_site_has_a_page_for_every_notebook_and_every_link_and_picture_is_there(index):
    pages = {path.name: path.read_text() for path in index.parent.glob("*.html")}
    assert set(pages) == {"index.html"} | {f"{path.stem}.html" for path in NOTEBOOKS.glob("*.ipynb")}
    for name, page in pages.items():
        links = re.findall(r'<(?:a|img)\b[^>]*(?:href|src)="([^"]+)"', page)
        here = [link.split("#")[0] for link in links if not link.startswith(("http", "#", "data:"))]
        assert not [link for link in here if not (index.parent / link).exists()], name
    assert 'href="01_mixtures.html"' in pages["index.html"]


def test_a_page_fetches_nothing_when_it_is_opened(index):
    for page in index.parent.glob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert not fetched, page.name


def test_a_site_takes_the_place_of_an_older_one(index):
    assert not (index.parent / "old.html").exists()


def test_links_of_the_readme_to_files_that_are_not_pages_become_text():
    page = readme_page("# Title\n[a](notebooks/01_mixtures.ipynb) [b](benchmarks/RESULTS.md) [c](https://c.org)")
    assert 'href="01_mixtures.html"' in page and "<title>Title</title>" in page
    assert "RESULTS.md" not in page and 'href="https://c.org"' in page
