"""Leafing through the rows of tasks inside a notebook: each as a chat, or as the tokens that the model meets.

A row that cannot be read, rendered or used shows what is wrong with it. Where nobody watches (see live.py) the cell
shows the one row that was chosen.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pprint import pformat
from typing import Protocol

import ipywidgets
from IPython.display import HTML

from nanolab.batch import fit
from nanolab.chat import Piece, spoken
from nanolab.render import render_conversation
from nanolab.show.conversations import conversation_view
from nanolab.show.live import someone_watches, widget_bundle
from nanolab.show.page import note, view
from nanolab.show.tokens import token_view
from nanolab.show.values import percent
from nanolab.tokenizer import Tokenizer

WAYS = ("chat", "tokens")
MAX_RAW = 2_000  # letters of a malformed conversation that are shown as they are

# As high as most rows, and no higher than a screen: the buttons stay where they are while one leafs.
SCROLLED = (
    '<div style="min-height:220px;max-height:560px;overflow:auto" tabindex="0" role="region" aria-label="row">{}</div>'
)

PROBLEM = """
.nl-view .nl-problem{border-left:4px solid var(--nl-problem)}
.nl-view .nl-raw{white-space:pre-wrap;overflow-wrap:anywhere;margin:8px 0 0;padding:0;color:inherit;background:none}
"""


class Rows(Protocol):
    """What is asked of a task: `Task` and `TaskMixture` have it, and so has a list of conversations."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class RowExplorer:
    """A small page to leaf through rows of tasks: being a cell's last value shows it. It works without a front end too.

    `tasks`: a Task or TaskMixture, a list of them, or a dict that names them; several are chosen from a dropdown.
    `max_data_tokens`: longer rows say so, as training with this limit would; None = no limit. `number`: the row to
    begin with, and `way`, "chat" or "tokens". Buttons, row number and toggle are reached with Tab; in the number box
    the up and down keys leaf, too. Raises ValueError for no task, an unknown way or a row that does not exist.

    >>> rows = RowExplorer(sft_mixture(data="toy"), tokenizer)                 # doctest: +SKIP
    >>> rows.next_button.click(); rows.way.value = "tokens"; rows              # doctest: +SKIP
    """

    def __init__(
        self,
        tasks: Rows | Sequence[Rows] | Mapping[str, Rows],
        tokenizer: Tokenizer,
        max_data_tokens: int | None = None,
        number: int = 0,
        way: str = "chat",
    ):
        self.tasks, self.tokenizer, self.max_data_tokens = named_tasks(tasks), tokenizer, max_data_tokens
        first = next(iter(self.tasks.values()))
        if way not in WAYS:
            raise ValueError(f"Unknown way {way!r} to show a row. There are: {', '.join(map(repr, WAYS))}.")
        if number and not 0 <= number < len(first):
            raise ValueError(f"The first task has {len(first):,} rows, counted from 0; row {number} does not exist.")
        self._make_widgets(number, way)
        self._draw()

    @property
    def conversation(self) -> dict:
        """The chosen row. Raises what reading it raises, and ValueError if the task has none."""
        task = self.tasks[self.task.value]
        if len(task) == 0:
            raise ValueError(f"{self.task.value} has no rows.")
        return task[self.number.value]

    def html(self) -> HTML:
        """The chosen row as it is on the page now."""
        try:
            return self._view_of(self.conversation)
        except Exception as error:  # nobody reads the traceback of a button: what is wrong stands on the page
            return _problem_view(error)

    def text(self) -> str:
        """The chosen row as plain text, where there is no HTML."""
        try:
            conversation = self.conversation
            ids, _ = render_conversation(conversation, self.tokenizer)
            said = self.tokenizer.decode(ids) if self.way.value == "tokens" else conversation_text(conversation)
            return f"{conversation.get('where', '')}\n{said}".lstrip("\n")
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _view_of(self, conversation: dict) -> HTML:
        try:
            ids, mask = render_conversation(conversation, self.tokenizer)
        except ValueError as error:
            return _problem_view(error, pformat(conversation, sort_dicts=False, width=100))
        where = conversation.get("where", f"row {self.number.value}")
        problem = self._over_long(ids, mask, where)
        if self.way.value == "tokens":
            return HTML(problem + token_view(ids, mask, self.tokenizer, title=where).data)
        share = f"{len(ids):,} tokens, {sum(mask):,} of them supervised, {percent(sum(mask), len(ids))}"
        drawn = conversation_view(conversation, title=where).data
        return HTML(f'{problem}<div class="nl-view">{drawn}{note(share)}</div>')

    def _over_long(self, ids: list[int], mask: list[int], where: str) -> str:
        """What training would say to a row over the limit; the row itself can be looked at all the same."""
        try:
            fit((ids, mask), self.max_data_tokens, "error", where)
        except ValueError as error:
            return _problem_view(error).data
        return ""

    def _draw(self):
        last = self.number.max
        self.previous_button.disabled, self.next_button.disabled = self.number.value == 0, self.number.value >= last
        self.count.value = f"of {len(self.tasks[self.task.value]):,} (from 0)"
        self.page.value = SCROLLED.format(self.html().data)

    def _step(self, by: int):
        self.number.value = min(max(0, self.number.value + by), self.number.max)

    def _change_task(self):
        self.number.value = 0
        self.number.max = _last_row(self.tasks[self.task.value])
        self._draw()

    def _make_widgets(self, number: int, way: str):
        names, first = list(self.tasks), next(iter(self.tasks.values()))
        self.page, self.count = ipywidgets.HTML(), ipywidgets.Label()
        self.task = ipywidgets.Dropdown(options=names, description="task", layout={"width": "max-content"})
        self.number = ipywidgets.BoundedIntText(
            value=number, max=_last_row(first), description="row", layout={"width": "180px"}
        )
        self.previous_button, self.next_button = (
            ipywidgets.Button(description=name, tooltip=f"the {name} row", layout={"width": "100px"})
            for name in ("previous", "next")
        )
        self.way = ipywidgets.ToggleButtons(options=WAYS, value=way, style={"button_width": "80px"})
        self.previous_button.on_click(lambda _: self._step(-1))
        self.next_button.on_click(lambda _: self._step(1))
        self.task.observe(lambda _: self._change_task(), names="value")
        for chooser in (self.number, self.way):
            chooser.observe(lambda _: self._draw(), names="value")
        leafing = [self.previous_button, self.next_button, self.number, self.count, self.way]
        rows = [self.task] * (len(names) > 1) + [ipywidgets.HBox(leafing, layout={"flex_flow": "row wrap"}), self.page]
        self.widget = ipywidgets.VBox(rows)

    def _repr_mimebundle_(self, **_) -> dict[str, object]:
        place = f"{self.task.value}, row {self.number.value:,} {self.count.value}"
        hint = note(f"{place}: run this cell in a notebook to leaf through the others")
        still = {"text/html": f'<div class="nl-view">{self.html().data}{hint}</div>', "text/plain": self.text()}
        return widget_bundle(self.widget) | still if someone_watches() else still


def named_tasks(tasks: Rows | Sequence[Rows] | Mapping[str, Rows]) -> dict[str, Rows]:
    """Tasks by the names they are chosen by: name and part; of several of the same name, the later ones are numbered.

    Raises ValueError if there is none.

    >>> list(named_tasks([GSM8K("main", split, data="toy") for split in ("train", "test", "test")]))
    ['GSM8K main/train', 'GSM8K main/test', 'GSM8K main/test (2)']
    """
    if isinstance(tasks, Mapping):
        named = dict(tasks)
    else:
        named = {}
        for task in tasks if isinstance(tasks, list | tuple) else [tasks]:
            words = (getattr(task, "name", type(task).__name__), getattr(task, "part", ""))
            name = " ".join(filter(None, words))
            number = 1 + sum(taken == name or taken.startswith(f"{name} (") for taken in named)
            named[f"{name} ({number})" if number > 1 else name] = task
    if not named:
        raise ValueError("There is no task to look at: give a Task, a list of them, or a dict of name and Task.")
    return named


def conversation_text(conversation: dict) -> str:
    """A conversation as plain text, one message after the other, calculator calls in brackets.

    >>> conversation_text({"messages": [{"role": "user", "content": "Hi"}]})
    'user: Hi'
    """
    lines = []
    for message in conversation["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said = "".join(spoken(Piece(part["type"], part["text"]) for part in parts))
        lines.append(f"{message['role']}: {said}")
    return "\n".join(lines)


def _last_row(task: Rows) -> int:
    return max(0, len(task) - 1)


def _problem_view(error: Exception, raw: str = "") -> HTML:
    """The words of an error, and below them the conversation it is about, as it came."""
    words = f"<b>{type(error).__name__}</b>: {escape(str(error))}"
    cut = raw if len(raw) <= MAX_RAW else f"{raw[:MAX_RAW]} ... {len(raw) - MAX_RAW:,} more letters"
    shown = f'<pre class="nl-raw nl-code">{escape(cut)}</pre>' if raw else ""
    return view(f'<div class="nl-box nl-problem" role="alert">{words}{shown}</div>', css=PROBLEM)
