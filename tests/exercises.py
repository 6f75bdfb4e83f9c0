"""What tests of exercises share: the solutions that a notebook folds away, as a learner would copy them."""

import re

import nbformat

from nanolab.course import NOTEBOOKS


def folded_solutions(notebook: str, **names) -> dict:
    """What the folded solutions of a notebook define, by name; `names` are what they may use."""
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    folded = "\n".join(cell.source for cell in cells if cell.source.startswith("<details>"))
    defined = dict(names)
    for code in re.findall(r"```python\n(.*?)```", folded, re.DOTALL):
        exec(code, defined)
    return defined
