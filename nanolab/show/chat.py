"""Talking to a model inside the notebook: one reply that grows in a cell, or a small box to chat in.

Both draw the conversation as bubbles or, with `specials`, as the tokens the model read and said. Where nobody watches
(see live.py) nothing is redrawn: the finished transcript is shown once.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import ipywidgets
from IPython import get_ipython
from IPython.display import HTML, display

from nanolab.chat import Chat, Piece, ending_note, spoken
from nanolab.engine import Engine
from nanolab.show.conversations import conversation_view
from nanolab.show.live import someone_watches, widget_bundle
from nanolab.show.page import note
from nanolab.show.tokens import roles_of, token_view

EVERY = 0.1  # seconds between two drawings of a growing reply
SAID_BY_MODEL = ("assistant", "python")  # roles of tokens; the calculator's output is forced, not said

# Newest at the bottom and in sight, older turns to scroll back to: a reversed column keeps its end in view.
SCROLLED = '<div style="display:flex;flex-direction:column-reverse;max-height:440px;overflow:auto">{}</div>'


class Pace:
    """Lets through what comes often only every so many seconds.

    >>> pace = Pace(every=10, clock=iter([0, 9, 10]).__next__)
    >>> [pace.due(), pace.due(), pace.due()]
    [True, False, True]
    """

    def __init__(self, every: float = EVERY, clock: Callable[[], float] = time.monotonic):
        self.every, self.clock = every, clock
        self._next = -float("inf")

    def due(self) -> bool:
        """Whether it is time again."""
        now = self.clock()
        if now < self._next:
            return False
        self._next = now + self.every
        return True


def chat_view(chat: Chat, specials: bool = False, remark: str = "") -> HTML:
    """Draw a chat as bubbles, or with `specials` as the tokens of its last prompt and reply, and a remark below.

    Tokens that the model says are underlined: its text, its calls and its `<|assistant_end|>`, as in training.

    >>> chat_view(chat, specials=True)                                         # doctest: +SKIP
    """
    if specials and chat.prompt_ids:
        ids, mask = ids_and_mask(chat)
        drawn = token_view(ids, mask, chat.engine.tokenizer, max_tokens=len(ids))
    else:
        drawn = conversation_view(chat.conversation)
    return HTML(f'<div class="nl-view">{drawn.data}{note(remark or ending_note(chat))}</div>')


def ids_and_mask(chat: Chat) -> tuple[list[int], list[int]]:
    """The tokens of the last prompt and reply as they were, and 1 for those that the model says itself."""
    tokenizer = chat.engine.tokenizer
    start, end = tokenizer.special_ids["<|assistant_start|>"], tokenizer.special_ids["<|assistant_end|>"]
    ids = [*chat.prompt_ids, *chat.reply_ids, *[end] * (chat.ending == "end")]
    roles = roles_of(ids, tokenizer)
    return ids, [int(role in SAID_BY_MODEL and id != start) for id, role in zip(ids, roles, strict=True)]


def chat_text(chat: Chat, specials: bool = False) -> str:
    """A chat as plain text, where there is no HTML.

    >>> chat_text(chat)                                                        # doctest: +SKIP
    'user: What is 12*4?\\nassistant: [python 12*4 = 48] 48.'
    """
    if specials:
        return chat.engine.tokenizer.decode(ids_and_mask(chat)[0])
    said = [f"{message['role']}: {_message_text(message['content'])}" for message in chat.messages]
    remark = ending_note(chat) if said else "an empty conversation"
    return "\n".join(said + [f"({remark})"] * bool(remark))


def stream_reply(
    engine: Engine, conversation: dict | str, *, specials: bool = False, live: bool | None = None, **options: Any
) -> dict:
    """Show the reply to a conversation (or to one text) growing in the cell; the conversation with the reply in it.

    If the conversation ends on the assistant's message, that one is left out and said anew. The last picture stays in
    the saved notebook. Interrupting the cell stops the reply and keeps it. `specials`: draw all tokens. `live=None`
    asks `someone_watches()`. `options`: those of `Chat` (`temperature`, `max_tokens`, `top_k`, `seed`). Raises
    RenderError for a conversation that cannot be rendered.

    >>> conversation = stream_reply(engine, "What is 12*4?", temperature=0)    # doctest: +SKIP
    """
    chat = Chat(engine, **options)
    chat.messages = _up_to_the_user(conversation)
    page, pace = Page(chat, specials, someone_watches() if live is None else live), Pace()
    try:
        with closing(chat.answer()) as pieces:
            for _ in pieces:
                if pace.due():
                    page.redraw()
    except KeyboardInterrupt:
        chat.ending = "stopped"  # also if it came just after the last token
    page.finish()
    return chat.conversation


class Page:
    """One place in a notebook's output that shows a chat: redrawn while somebody watches, and drawn at the end."""

    def __init__(self, chat: Chat, specials: bool, live: bool):
        self.chat, self.specials, self.live = chat, specials, live
        self._handle = None

    def redraw(self) -> None:
        """Draw the chat as it is now, if somebody watches."""
        if self.live:
            self._draw()

    def finish(self) -> None:
        """Draw the finished chat; plain Python, which has no pages, prints it."""
        if self.live or get_ipython() is not None:
            self._draw()
        else:
            print(chat_text(self.chat, self.specials))

    def _draw(self):
        bundle = mime_bundle(self.chat, self.specials)
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def mime_bundle(chat: Chat, specials: bool) -> dict[str, str]:
    """A chat as HTML and as plain text; the front end takes what it can show."""
    return {"text/html": chat_view(chat, specials).data, "text/plain": chat_text(chat, specials)}


class ChatBox:
    """A small chat for a notebook: being a cell's last value shows it. It works without a front end too.

    The reply is made in a thread of its own, since the kernel runs what buttons do in its main thread, where a reply
    would keep Stop waiting. `options`: those of `Chat`. Where nobody watches, the cell shows the transcript.

    >>> box = ChatBox(engine, max_tokens=100)                                  # doctest: +SKIP
    >>> box.send("What is 12*4?"); box.wait(); box                             # doctest: +SKIP
    """

    def __init__(self, engine: Engine, **options: Any):
        self.chat = Chat(engine, **options)
        self.error: Exception | None = None  # of the last reply
        self._thread: threading.Thread | None = None
        self._answering = False
        self._stop = threading.Event()
        self._make_widgets()
        self._draw()

    @property
    def running(self) -> bool:
        """Whether a reply is being made."""
        return self._thread is not None and self._thread.is_alive()

    def send(self, text: str) -> None:
        """Begin the reply to a text and return at once; `wait` waits for it.

        Raises RuntimeError while another reply is being made.
        """
        if self.running:
            raise RuntimeError("The model is still answering: wait() for it, or stop() it first.")
        self.error, self._stop = None, threading.Event()  # a new one, so that no late stop reaches a new reply
        self.chat.temperature, self._answering = self.temperature.value, True
        self._thread = threading.Thread(target=self._reply, args=(text, self._stop), daemon=True)
        self._enable(running=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the reply is finished; TimeoutError if that takes more than `timeout` seconds."""
        if self.running:
            self._thread.join(timeout)
            if self.running:
                raise TimeoutError(f"The model is still answering after {timeout} s; stop() ends the reply.")

    def stop(self) -> None:
        """End the reply after its present token; what was said stays."""
        self._stop.set()

    def reset(self) -> None:
        """Stop, and begin a new conversation."""
        self.stop()
        self.wait()
        self.chat.reset()
        self.error = None
        self._draw()

    def _reply(self, text: str, stop: threading.Event):
        pace = Pace()
        try:
            pieces = self.chat.stream(text, stop.is_set)
            self._draw()  # the question, at once
            for _ in pieces:
                if pace.due():
                    self._draw()
        except Exception as error:  # nobody reads a thread's traceback: it is told in the box
            self.error = error
            self.field.value = text  # to be sent again: the chat has taken the turn back
        finally:
            self._answering = False
            self._draw()
            self._enable(running=False)

    def _draw(self):
        if self.error is not None:
            remark = f"{type(self.error).__name__}: {self.error}"
        elif self._answering:
            remark = "answering ..."
        else:
            remark = "" if self.chat.messages else "an empty conversation: type below, then Enter"
        self.page.value = SCROLLED.format(chat_view(self.chat, self.specials.value, remark).data)

    def _enable(self, running: bool):
        self.send_button.disabled, self.stop_button.disabled = running, not running

    def _send_field(self):
        text = self.field.value.strip()
        if text and not self.running:
            self.field.value = ""
            self.send(text)

    def _make_widgets(self):
        self.page = ipywidgets.HTML()
        self.field = ipywidgets.Text(placeholder="say something", layout={"flex": "1 1 auto"})
        self.send_button, self.stop_button, reset_button = (
            ipywidgets.Button(description=name, layout={"width": "80px"}) for name in ("Send", "Stop", "Reset")
        )
        self.specials = ipywidgets.Checkbox(description="special tokens", indent=False)
        self.temperature = ipywidgets.FloatSlider(self.chat.temperature, min=0, step=0.1)
        self.temperature.max, self.temperature.description = max(2.0, self.chat.temperature), "temperature"
        self.field.on_msg(lambda _, content, __: content.get("event") == "submit" and self._send_field())  # Enter
        self.send_button.on_click(lambda _: self._send_field())
        self.stop_button.on_click(lambda _: self.stop())
        reset_button.on_click(lambda _: self.reset())
        self.specials.observe(lambda _: self._draw(), names="value")
        self._enable(running=False)
        talking = ipywidgets.HBox([self.field, self.send_button, self.stop_button, reset_button])
        self.widget = ipywidgets.VBox([self.page, talking, ipywidgets.HBox([self.specials, self.temperature])])

    def _repr_mimebundle_(self, **_) -> dict[str, object]:
        still = mime_bundle(self.chat, self.specials.value)
        return widget_bundle(self.widget) | {"text/plain": still["text/plain"]} if someone_watches() else still


def _up_to_the_user(conversation: dict | str) -> list[dict]:
    """The messages of a conversation, up to the last one that is not the assistant's."""
    if isinstance(conversation, str):
        return [{"role": "user", "content": conversation}]
    messages = list(conversation["messages"])
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _message_text(content: str | list[dict]) -> str:
    if isinstance(content, str):
        return content
    return "".join(spoken(Piece(part["type"], part["text"]) for part in content))
