"""Step 9, talking: a conversation that goes on, and the terminal it goes on in.

    chat = Chat(Engine(model, tokenizer))
    for piece in chat.stream("What is 12*4?"): print(piece.text, end="")
    chat.messages    -> [{"role": "user", ...}, {"role": "assistant", "content": [text, python, python_output parts]}]

What the model reads at each turn is the rendered messages so far, as in training: also where it spelled a word of its
last reply with other tokens than the tokenizer would. A reply enters the messages while it is still empty and grows
there, so whatever stops it, the conversation can be rendered and goes on.
"""

import codecs
import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from io import TextIOWrapper
from itertools import takewhile
from typing import NamedTuple

from nanolab.checkpoint import load_checkpoint
from nanolab.engine import Engine, check_sampling
from nanolab.paths import shown
from nanolab.render import PART_FRAMES, render_conversation
from nanolab.runtime import pick_device
from nanolab.settings import ChatConfig
from nanolab.tokenizer import Tokenizer

COMMANDS = {
    "/reset": "forget the conversation and begin a new one",
    "/help": "this list",
    "/quit": "leave (Ctrl-D too)",
}
HOW_TO_LEAVE = "/quit, Ctrl-D or Ctrl-C once more leaves"
INTERRUPTED = 130  # exit status of a program that Ctrl-C ended: 128 + the signal's number

# A reply's control characters (escape sequences) must not steer the terminal: they are shown as pictures.
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
CONTROL_PICTURES |= {127: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")

STARTS = {start: kind for kind, (start, _, _) in PART_FRAMES.items() if start}  # "<|python_start|>": "python", ...


class Piece(NamedTuple):
    """Something the model said: some "text" in whole characters, or a whole "python" call or "python_output"."""

    kind: str
    text: str


class ReplyReader:
    """The ids of a reply, one by one, become the parts of an assistant's message: text, python, python_output.

    `parts` is right after every id. A special token where it opens or closes nothing is kept as its name, in text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.parts: list[dict] = []
        self._tokenizer = tokenizer
        self._names = {id: name for name, id in tokenizer.special_ids.items()}
        self._part: dict | None = None  # the part that is growing; None: the next is text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> list[Piece]:
        """Take in one id; what it completes: a character or more of text, or a whole call or output."""
        name = self._names.get(id)
        kind = self._part["type"] if self._part else "text"
        # The engine begins a call anew at every <|python_start|>; an output opens only outside of other parts.
        if name == "<|python_start|>" or (name in STARTS and kind == "text"):
            pieces = self.close()
            self._begin(STARTS[name])
            return pieces
        if name and name == PART_FRAMES[kind][1]:
            return self.close()
        return self._grow(name.encode() if name else self._tokenizer.decode_bytes([id]))

    def close(self) -> list[Piece]:
        """End the part that is growing, bytes of half a character included; a second call does nothing."""
        pieces, part = self._grow(b"", final=True), self._part
        self._part = None
        self._decoder.reset()
        return [Piece(part["type"], part["text"])] if part and part["type"] != "text" else pieces

    def _begin(self, kind: str):
        self._part = {"type": kind, "text": ""}
        self.parts.append(self._part)

    def _grow(self, data: bytes, final: bool = False) -> list[Piece]:
        text = self._decoder.decode(data, final)
        if not text:
            return []
        if self._part is None:
            self._begin("text")
        self._part["text"] += text
        return [Piece("text", text)] if self._part["type"] == "text" else []


class Chat:
    """A conversation with a model that goes on turn by turn.

    Turn k (from 0) is sampled with `seed + k`, so the same chat with the same settings says the same again.

    Attributes:
        messages: the conversation so far.
        prompt_ids, reply_ids: what the model read for the last reply, and what it then said (forced tool output
            included, the closing token not).
        ending: how that reply ended: "end" (the model was done), "cut" (at `max_tokens`), "stopped", or "" while there
            is none or it goes on.

    >>> chat = Chat(engine, temperature=0)                                     # doctest: +SKIP
    >>> "".join(piece.text for piece in chat.stream("Say hello."))             # doctest: +SKIP
    'Hello!'
    """

    def __init__(
        self,
        engine: Engine,
        max_tokens: int = 256,
        temperature: float = 0.6,
        top_k: int | None = 50,
        seed: int = 42,
    ):
        check_sampling(max_tokens, temperature, top_k)
        self.engine, self.max_tokens, self.temperature = engine, max_tokens, temperature
        self.top_k, self.seed = top_k, seed
        self.reset()

    def reset(self) -> None:
        """Forget the conversation; the next turn is turn 0 again."""
        self.messages: list[dict] = []
        self.prompt_ids: list[int] = []
        self.reply_ids: list[int] = []
        self.ending = ""

    @property
    def conversation(self) -> dict:
        """The messages as a conversation, for `render_conversation` and the views."""
        return {"messages": self.messages}

    @property
    def cut(self) -> bool:
        """Whether the last reply was cut because it reached `max_tokens`."""
        return self.ending == "cut"

    def stream(self, text: str, stop: Callable[[], bool] | None = None) -> Generator[Piece, None, None]:
        """Say something to the model and get its reply piece by piece; the text is text, whatever it spells.

        `stop` is asked after each token; once it is true the reply ends there. What was said before a stop, a closed
        iterator or a KeyboardInterrupt stays in the messages. After any other error the turn is taken back.
        """
        return self._begin([{"role": "user", "content": text}], stop)

    def answer(self, stop: Callable[[], bool] | None = None) -> Generator[Piece, None, None]:
        """The reply to messages that end on the user's, as `stream` without a new text.

        Raises RenderError for messages that cannot be rendered.
        """
        return self._begin([], stop)

    def _begin(self, new: list[dict], stop: Callable[[], bool] | None) -> Generator[Piece, None, None]:
        """Enter the turn into the messages; its reply is still empty."""
        reader, before = ReplyReader(self.engine.tokenizer), len(self.messages)
        messages = [*self.messages, *new, {"role": "assistant", "content": reader.parts}]
        ids, _ = render_conversation({"messages": messages}, self.engine.tokenizer)
        self.prompt_ids = ids[:-1]  # up to <|assistant_start|>: the reply is empty, and only its end stands behind
        self.messages += messages[before:]  # only now: what cannot be rendered never enters
        self.reply_ids, self.ending = [], "stopped"  # what it is if nobody ever asks for the first piece
        return self._turn(reader, before, stop or (lambda: False))

    def _turn(self, reader: ReplyReader, before: int, stop: Callable[[], bool]) -> Generator[Piece, None, None]:
        self.ending = ""
        turn = sum(message["role"] == "assistant" for message in self.messages[:before])
        options = {"temperature": self.temperature, "top_k": self.top_k, "seed": self.seed + turn}
        try:
            for id in self.engine.stream(self.prompt_ids, self.max_tokens, **options):
                self.reply_ids.append(id)
                yield from reader.add(id)
                if stop():
                    break
            else:
                self.ending = "cut" if len(self.reply_ids) >= self.max_tokens else "end"
            yield from reader.close()
        except Exception:
            del self.messages[before:]
            raise
        finally:
            reader.close()  # if the consumer went away in the middle
            self.ending = self.ending or "stopped"


def spoken(pieces: Iterable[Piece], dim: bool = False) -> Iterator[str]:
    """Pieces as text for a terminal, as they come: calls and outputs in brackets, control characters made visible.

    >>> "".join(spoken([Piece("text", "So "), Piece("python", "12*4"), Piece("python_output", "48")]))
    'So [python 12*4 = 48]'
    """
    open_call = False
    for kind, text in pieces:
        text = text.translate(CONTROL_PICTURES)
        if open_call:
            yield quiet(f" = {text}]" if kind == "python_output" else "]", dim)
        if kind == "python":
            yield quiet(f"[python {text}", dim)
        elif kind == "text":
            yield text
        elif not open_call:  # an output the model made up, without a call
            yield quiet(f"[output {text}]", dim)
        open_call = kind == "python"
    if open_call:
        yield quiet("]", dim)


def quiet(text: str, dim: bool) -> str:
    """The text in the terminal's dim colour, if it has one.

    >>> quiet("(stopped)", dim=False)
    '(stopped)'
    """
    return f"\x1b[2m{text}\x1b[0m" if dim else text


def ending_note(chat: Chat) -> str:
    """What to tell about the last reply's end, "" if the model simply was done within the length that it knows.

    >>> ending_note(Chat(engine))                                              # doctest: +SKIP
    ''
    """
    notes = {"cut": f"cut at max_tokens = {chat.max_tokens}", "stopped": "stopped"}
    told = [notes[chat.ending]] if chat.ending in notes else []
    length, known = len(chat.prompt_ids) + len(chat.reply_ids), chat.engine.model.config.sequence_len
    if length > known:
        told.append(f"{length:,} tokens so far, the model began with rows of {known:,}: it may lose the thread")
    return "; ".join(told)


def write_out(text: str) -> None:
    """Print at once, without a new line."""
    print(text, end="", flush=True)


def talk(
    chat: Chat, ask: Callable[[str], str] = input, write: Callable[[str], object] = write_out, dim: bool | None = None
) -> int:
    """Talk in the terminal until the user leaves; the exit status, 0.

    Ctrl-C stops a reply, and twice in a row at the prompt it leaves. `ask` gets a prompt and gives a line (EOFError:
    leave); `dim` (None: if stdout is a terminal) prints tool calls and notes in the dim colour.

    >>> talk(Chat(engine), ask=lambda prompt: "/quit")                         # doctest: +SKIP
    0
    """
    dim = sys.stdout.isatty() if dim is None else dim
    for line in takewhile(lambda line: line != "/quit", lines(ask, write, dim)):
        if line.startswith("/"):
            command(line, chat, write, dim)
        elif line:
            reply(chat, line, write, dim)
    return 0


def lines(ask: Callable[[str], str], write: Callable[[str], object], dim: bool) -> Iterator[str]:
    """The user's lines, stripped, until Ctrl-D or a second Ctrl-C in a row."""
    interrupted = False
    while True:
        try:
            line = ask("you> ").strip()
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            if interrupted:
                return
            interrupted = True
            write(quiet(f"({HOW_TO_LEAVE})", dim) + "\n")
            continue
        interrupted = False
        yield line


def command(line: str, chat: Chat, write: Callable[[str], object], dim: bool) -> None:
    """Do what a line that begins with a slash says; for an unknown one, show the list."""
    if line == "/reset":
        chat.reset()
        write(quiet("(a new conversation)", dim) + "\n")
        return
    if line not in COMMANDS:
        write(f"Unknown command {line.split()[0]}. There are:\n")
    write("".join(f"  {name:<8}{what}\n" for name, what in COMMANDS.items()))


def reply(chat: Chat, text: str, write: Callable[[str], object], dim: bool) -> None:
    """Write the reply to a text as it comes, and a note if it was stopped or cut; Ctrl-C stops the reply only."""
    try:
        with closing(chat.stream(text)) as pieces:
            for shown_text in spoken(pieces, dim):
                write(shown_text)
    except KeyboardInterrupt:
        chat.ending = "stopped"  # also if it came just after the last token
    except Exception as error:  # the turn is taken back, so the conversation can go on
        write(f"\n({type(error).__name__}: {error}; your message was taken back)\n")
        return
    note = ending_note(chat)
    write("\n" + (quiet(f"({note})", dim) + "\n" if note else ""))


def run(config: ChatConfig) -> int:
    """Load a checkpoint and talk to it, or answer `config.prompt` and end; the exit status.

    Raises FileNotFoundError or ValueError that say what to do.

    >>> run(ChatConfig(model_tag="d4", prompt="What is 12*4?"))                # doctest: +SKIP
    """
    device = pick_device(config.device_type)
    model, tokenizer, meta, path = load_checkpoint(config.source, config.model_tag, config.step, device)
    options = {"temperature": config.temperature, "top_k": config.top_k, "seed": config.seed}
    chat = Chat(Engine(model, tokenizer), config.max_tokens, **options)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for what it lacks
    print(f"{meta['stage']} {meta['model_tag']}, step {meta['step']}, from {shown(path)}, on {device.type}")
    dim = sys.stdout.isatty()
    if config.prompt:
        reply(chat, config.prompt, write_out, dim)
        return INTERRUPTED if chat.ending == "stopped" else 0
    if importlib.util.find_spec("readline"):  # not on Windows; importing it gives input() arrow keys and a history
        importlib.import_module("readline")
    print(quiet("/help lists the commands, Ctrl-C stops a reply", dim))
    return talk(chat, dim=dim)
