"""The colours that a browser would show for a view, computed from its HTML and style sheets, without a browser.

Only what colours need is computed: the cascade (specificity, order, !important), inheritance, variables, and layers of
half-transparent paper, ink and groups (`opacity`) over the page. Sources: CSS Cascading and Inheritance, CSS Color.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import soupsieve
from bs4 import BeautifulSoup, NavigableString, Tag
from matplotlib.colors import to_rgb

SIDES = ("top", "right", "bottom", "left")
BORDER_STYLES = ("solid", "dashed", "dotted", "double")
NOT_SHOWN = ("style", "script", "title", "head")
BROWSER_SHEET = "b,strong,th{font-weight:700} hr{border:1px solid #808080}"  # a browser's own, as far as views need it
START = {"color": "#000000", "font-weight": "400"}  # what the root inherits


class Colour(NamedTuple):
    """Red, green and blue, 0 to 255, and how much of them covers what is below, 0 to 1."""

    red: float
    green: float
    blue: float
    alpha: float = 1.0

    def over(self, below: "Colour") -> "Colour":
        """This colour as it looks over an opaque one."""
        mixed = [self.alpha * one + (1 - self.alpha) * other for one, other in zip(self[:3], below[:3], strict=True)]
        return Colour(*mixed)

    def hex(self) -> str:
        return "#" + "".join(f"{round(channel):02X}" for channel in self[:3])


CLEAR = Colour(0, 0, 0, 0.0)


class Rule(NamedTuple):
    """One selector with its declarations, and its place in the cascade."""

    selector: str
    declarations: dict[str, str]
    rank: tuple[int, int, int, int]  # ids, classes, elements, order


class Seen(NamedTuple):
    """What is seen of an element: its paper and its ink, and what is around it, all opaque."""

    paper: Colour
    ink: Colour
    around: Colour


class Drawn:
    """A view on a page: `styles[element]` are the computed properties, `seen(element)` the colours.

    `page_html` is a page with `{}` where the view goes, `sheet` its style sheet, `background` its colour.
    """

    def __init__(self, view: str, page_html: str, sheet: str, background: str):
        self.soup = BeautifulSoup(page_html.replace("{}", view), "html.parser")
        own = [style.get_text() for style in self.soup.find_all("style")]
        self.found: dict[int, dict[str, tuple]] = {}  # id of an element -> property -> (important, rank, value)
        for rule in rules([BROWSER_SHEET, sheet, *own]):
            for element in select(rule.selector, self.soup):
                self._take(element, rule.declarations, rule.rank)
        for element in self.soup.select("[style]"):
            self._take(element, declarations(element["style"]), (9, 9, 9, 0))
        self.computed: dict[int, dict[str, str]] = {}
        self.background = colour(substituted(background, self.style(self.soup.html)))

    def texts(self) -> Iterator[tuple[str, Tag]]:
        """Each text that is shown, and the element that it stands in."""
        for text in self.soup.find_all(string=True):
            shown = type(text) is NavigableString and not any(parent.name in NOT_SHOWN for parent in text.parents)
            if shown and text.strip():
                yield text.strip(), text.parent

    def elements(self) -> Iterator[Tag]:
        """Every element that is shown."""
        return (element for element in self.soup.body.find_all(True) if element.name not in NOT_SHOWN)

    def style(self, element: Tag) -> dict[str, str]:
        """The computed properties of an element: its own, and inherited colour, weight and variables."""
        if id(element) not in self.computed:
            parent = element.parent
            above = START if parent is None or parent.name == "[document]" else self.style(parent)
            inherited = {name: value for name, value in above.items() if name.startswith("--") or name in START}
            own = {name: value for name, (*_, value) in self.found.get(id(element), {}).items()}
            variables = inherited | {name: value for name, value in own.items() if name.startswith("--")}
            style = dict(variables)
            for name, value in own.items():
                value = substituted(value, variables)
                style[name] = inherited.get(name, "transparent") if value == "inherit" else value
            self.computed[id(element)] = style
        return self.computed[id(element)]

    def seen(self, element: Tag) -> Seen:
        """The colours of an element over all that lies below it."""
        chain = [element, *(parent for parent in element.parents if parent.name != "[document]")][::-1]
        return self._seen(chain, self.background)

    def border(self, element: Tag, side: str) -> Colour | None:
        """The colour of a side's border over the paper, or None where there is none to be seen."""
        style = self.style(element)
        width, kind = style.get(f"border-{side}-width", "0"), style.get(f"border-{side}-style", "none")
        if kind not in BORDER_STYLES or float(re.match(r"[\d.]*", width)[0] or 0) == 0:
            return None
        border = colour(style.get(f"border-{side}-color", "currentcolor"), style["color"])
        return border.over(self.seen(element).paper) if border.alpha else None

    def bold(self, element: Tag) -> bool:
        return self.style(element)["font-weight"] in ("700", "bold", "600")

    def _take(self, element: Tag, declared: dict[str, str], rank: tuple) -> None:
        of_element = self.found.setdefault(id(element), {})
        for name, value in declared.items():
            important, value = value.endswith("!important"), value.removesuffix("!important").strip()
            if (important, rank) >= of_element.get(name, (False, (-1,)))[:2]:
                of_element[name] = (important, rank, value)

    def _seen(self, chain: list[Tag], below: Colour) -> Seen:
        style = self.style(chain[0])
        paper = colour(style.get("background-color", "transparent"), style["color"]).over(below)
        here = Seen(paper, colour(style["color"]).over(paper), below)
        seen = self._seen(chain[1:], paper) if chain[1:] else here
        opacity = float(style.get("opacity", "1"))
        return Seen(*(part._replace(alpha=opacity).over(below) for part in seen))


def rules(sheets: list[str]) -> Iterator[Rule]:
    """The rules of style sheets in their order; those for print or for certain screens are left out."""
    order = 0
    for sheet in sheets:
        sheet = re.sub(r"/\*.*?\*/", "", sheet, flags=re.S)
        sheet = re.sub(r"@[\w-]+[^{};]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", sheet)
        for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
            for selector in re.split(r",(?![^(]*\))", selectors):
                order += 1
                yield Rule(selector.strip(), declarations(body), (*specificity(selector), order))


def specificity(selector: str) -> tuple[int, int, int]:
    """How much a selector counts: ids, classes with attributes and pseudo-classes, elements.

    >>> specificity(".nl-view code.nl-tool"), specificity("b:not(.x)")
    ((0, 2, 1), (0, 1, 1))
    """
    plain = re.sub(r":(?:not|is)\(([^)]*)\)", r" \1", selector)
    ids = len(re.findall(r"#[\w-]+", plain))
    classes = len(re.findall(r"\.[\w-]+|\[[^]]*\]|(?<!:):[\w-]+(?:\([^)]*\))?", plain))
    bare = re.sub(r"\[[^]]*\]|[.#:]+[\w-]+(?:\([^)]*\))?", "", plain)
    return ids, classes, len(re.findall(r"[a-zA-Z][\w-]*", bare))


def select(selector: str, soup: BeautifulSoup) -> list[Tag]:
    """The elements that a selector means; none for ::before and the like, and for states such as :hover."""
    if re.search(r"::|:(before|after|-webkit-|-moz-)", selector):
        return []
    return soupsieve.select(selector, soup)


def declarations(body: str) -> dict[str, str]:
    """Property and value, shorthands of borders, backgrounds and fonts taken apart."""
    found = {}
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        name, _, value = declaration.partition(":")
        found |= longhands(name.strip(), value.strip())
    return found


def longhands(name: str, value: str) -> dict[str, str]:
    """What a property means for colours.

    >>> longhands("border-left", "4px solid red")
    {'border-left-width': '4px', 'border-left-style': 'solid', 'border-left-color': 'red'}
    """
    if name == "background":
        return {"background-color": "transparent" if value.startswith("none") else value}
    if name == "font":
        return {"font-weight": "700" if re.search(r"\b(bold|[6-9]00)\b", value) else "400"}
    if name in ("border-width", "border-style", "border-color"):
        return {f"border-{side}-{name.removeprefix('border-')}": value for side in SIDES}
    sides = SIDES if name == "border" else [side for side in SIDES if name == f"border-{side}"]
    if not sides:
        return {name: value}
    words = re.findall(r"[^\s(]+(?:\([^)]*\))?", value.removesuffix("!important"))
    parts = {"width": "0", "style": "none", "color": "currentcolor"}
    for word in words:
        kind = "style" if word in (*BORDER_STYLES, "none") else "width" if re.match(r"\d|thin", word) else "color"
        parts[kind] = word
    return {f"border-{side}-{kind}": word for side in sides for kind, word in parts.items()}


def substituted(value: str, variables: dict[str, str]) -> str:
    """A value in which each var(--name, otherwise) is what it stands for."""
    while match := re.search(r"var\(\s*(--[\w-]+)\s*(?:,([^()]*(?:\([^()]*\)[^()]*)*))?\)", value):
        name, otherwise = match.groups()
        value = value[: match.start()] + variables.get(name, otherwise or "").strip() + value[match.end() :]
    return value


def colour(text: str, current: str = "#000000") -> Colour:
    """A colour as CSS writes it; ValueError for what is none, such as a variable that nobody has set.

    >>> colour("rgba(128,128,128,.5)"), colour("#111")
    (Colour(red=128.0, green=128.0, blue=128.0, alpha=0.5), Colour(red=17.0, green=17.0, blue=17.0, alpha=1.0))
    """
    text = text.strip().lower()
    if text in ("transparent", "none", "initial"):
        return CLEAR
    if text == "currentcolor":
        return colour(current)
    if match := re.fullmatch(r"rgba?\(([^)]*)\)", text):
        return Colour(*map(float, re.split(r"[\s,/]+", match[1].strip())))
    red, green, blue = (round(255 * channel, 6) for channel in to_rgb(text))
    return Colour(red, green, blue)
