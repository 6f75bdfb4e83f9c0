"""The HTML that all views share: one style sheet, one frame around each view, escaped text.

Colours follow the notebook's theme (JupyterLab and VS Code mark the page), not the operating system's.
Where a viewer strips style sheets (GitHub, an untrusted notebook), <u> still underlines what is supervised
and <b> marks special tokens.
"""

from html import escape

from IPython.display import HTML

from nanolab.show.palette import DARK_CHIPS, DARK_MARKS, LIGHT_CHIPS, LIGHT_MARKS, Chip

VSCODE_BLACK = ".vscode-high-contrast:not(.vscode-high-contrast-light)"  # its white theme has both classes
DARK_PAGES = ('[data-jp-theme-light="false"]', ".vscode-dark", VSCODE_BLACK, "[data-theme=dark]")

RULES = """
.nl-view{font:13px/1.5 var(--jp-content-font-family,system-ui,sans-serif);
  color:var(--jp-content-font-color1,inherit);max-width:920px;margin:4px 0}
.nl-head{font-weight:600;font-size:14px;margin:0 0 4px}
.nl-legend{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center;margin:0 0 8px;font-size:12px}
.nl-note{opacity:.75;font-size:12px;margin:6px 0 0}
.nl-box{padding:10px 12px;border:1px solid rgba(128,128,128,.35);border-radius:6px;
  background:rgba(128,128,128,.05)}
.nl-code{font:12.5px/1.9 var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)}
.nl-view u,.nl-view .nl-c{display:inline-block;max-width:100%;margin:0 2px 3px 0;padding:0 2px;
  border-radius:3px;line-height:1.4;white-space:pre-wrap;overflow-wrap:anywhere;text-decoration:none;
  min-width:4px;vertical-align:top;color:var(--nl-context-ink);background:var(--nl-context);
  border-bottom:2px solid transparent}
.nl-view u{color:var(--nl-supervised-ink);background:var(--nl-supervised);border-bottom-color:var(--nl-underline)}
.nl-view .nl-s{color:var(--nl-special-ink);background:var(--nl-special);font-weight:700}
.nl-view .nl-p{color:var(--nl-padding-ink);background:var(--nl-padding);border-bottom:2px dotted currentColor}
.nl-legend u,.nl-legend .nl-c{margin:0 3px 0 0;vertical-align:baseline}
.nl-view i{font-style:normal;opacity:.75}
"""


def style_sheet() -> str:
    """The style sheet of all views: colours as variables, light by default and dark on a page marked dark."""
    dark = ",".join(f"{page} .nl-view" for page in DARK_PAGES)
    light_variables, dark_variables = _variables(LIGHT_CHIPS, LIGHT_MARKS), _variables(DARK_CHIPS, DARK_MARKS)
    return f".nl-view{{{light_variables}}}{dark}{{{dark_variables}}}{RULES}"


def view(body: str, title: str | None = None, css: str = "") -> HTML:
    """Finished HTML: the style sheet, a title (text, escaped here) and a body (HTML, escaped by its maker).

    >>> "&lt;b&gt;" in view("", title="<b>").data
    True
    """
    head = f'<div class="nl-head">{escape(title)}</div>' if title else ""
    sheet = "".join(line.strip() for line in (style_sheet() + css).splitlines())
    return HTML(f'<div class="nl-view"><style>{sheet}</style>{head}{body}</div>')


def legend(*entries: str) -> str:
    """One line of explanations above a view; each entry is HTML, with a space between where styles are stripped."""
    return '<div class="nl-legend">' + " ".join(f"<span>{entry}</span>" for entry in entries) + "</div>"


def note(text: str) -> str:
    """A quiet line below a view, or nothing when there is nothing to say."""
    return f'<div class="nl-note">{escape(text)}</div>' if text else ""


def _variables(chips: dict[str, Chip], marks: dict[str, str]) -> str:
    of_chips = (f"--nl-{name}:{chip.paper};--nl-{name}-ink:{chip.ink};" for name, chip in chips.items())
    return "".join([*of_chips, *(f"--nl-{name}:{colour};" for name, colour in marks.items())])
