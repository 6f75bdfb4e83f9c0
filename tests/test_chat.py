"""Talking to a model: the conversation stays true to what was said, whatever stops it."""

import doctest
import io
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nanolab.chat
from nanolab import show
from nanolab.chat import Chat, Piece, ReplyReader, ending_note, run, spoken, talk
from nanolab.checkpoint import save_checkpoint
from nanolab.engine import Engine
from nanolab.render import RenderError, render_conversation
from nanolab.settings import ChatConfig
from nanolab.show import chat as show_chat
from nanolab.show import next_token
from nanolab.show.tokens import Labels
from nanolab.tokenizer import NUM_BYTES, SPECIAL_TOKENS, Tokenizer
from tests.conftest import random_model
from tests.test_show import Notebook, without_tags

BYTE_TOKENIZER = Tokenizer([bytes([b]) for b in range(NUM_BYTES)])


class Saying:
    """Stands in for an engine: says the ids of one script a turn, and raises what stands in a script."""

    def __init__(self, tokenizer, *scripts):
        self.tokenizer, self.scripts, self.asked = tokenizer, list(scripts), []
        self.model = SimpleNamespace(config=SimpleNamespace(sequence_len=1024))

    def stream(self, prompt, max_tokens, temperature, top_k, seed):
        self.asked.append((list(prompt), temperature, top_k, seed))
        for token in self.scripts.pop(0)[:max_tokens]:
            if not isinstance(token, int):
                raise token
            yield token


class Reciting(Engine):
    """An engine whose model says one token of its script after the other, whatever it is told."""

    def __init__(self, model, tokenizer, script):
        super().__init__(model, tokenizer)
        self.script = list(script)

    def _decoder(self):
        return self

    def step(self, tokens, cache, lengths):
        return None

    def best(self, hidden):
        return torch.tensor([self.script.pop(0)])


def ids(tokenizer, *pieces):
    """Ids of texts; words in <| |> are special tokens."""
    return [id for p in pieces for id in ([tokenizer.special(p)] if p.startswith("<|") else tokenizer.encode(p))]


def call(tokenizer, *after):
    """A reply with a calculator call, its output, and what follows."""
    pieces = ("So ", "<|python_start|>", "12*4", "<|python_end|>", "<|output_start|>", "48", "<|output_end|>", *after)
    return ids(tokenizer, *pieces)


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


# The conversation


def test_a_reply_becomes_parts_that_render_to_the_ids_the_engine_said(tiny_model, small_tokenizer):
    said = ids(small_tokenizer, "It is ", "<|python_start|>", "12*4", "<|python_end|>")
    forced = ids(small_tokenizer, "<|output_start|>", "48", "<|output_end|>")
    after = ids(small_tokenizer, "€ 48, the cat said.", "<|assistant_end|>")
    engine = Reciting(tiny_model, small_tokenizer, [*said, *[7] * len(forced), *after])  # the 7s are overruled
    chat = Chat(engine, temperature=0)
    pieces = list(chat.stream("12 times 4?"))
    content = [
        {"type": "text", "text": "It is "},
        {"type": "python", "text": "12*4"},
        {"type": "python_output", "text": "48"},
        {"type": "text", "text": "€ 48, the cat said."},
    ]
    assert chat.messages == [{"role": "user", "content": "12 times 4?"}, {"role": "assistant", "content": content}]
    assert [piece for piece in pieces if piece.kind != "text"] == [("python", "12*4"), ("python_output", "48")]
    assert chat.reply_ids == [*said, *forced, *after[:-1]]
    assert render_conversation(chat.conversation, small_tokenizer)[0] == (
        [*chat.prompt_ids, *chat.reply_ids, small_tokenizer.special("assistant_end")]
    )


PARTS = st.tuples(st.sampled_from(["python", "python_output"]), st.text(max_size=8))
TURNS = st.lists(st.tuples(st.text(max_size=8), st.lists(PARTS, max_size=2)), max_size=4)


@given(TURNS)
def test_parts_rendered_and_read_again_are_the_same_parts(turns):
    content = []
    for text, tools in turns:
        follows_text = content and content[-1]["type"] == "text"  # two texts in a row are read as one
        content += [{"type": "text", "text": text}] * bool(text and not follows_text)
        content += [{"type": kind, "text": tool} for kind, tool in tools]
    rendered = render_conversation(
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": content}]}, BYTE_TOKENIZER
    )[0]
    reader = ReplyReader(BYTE_TOKENIZER)
    for id in rendered[4:-1]:
        reader.add(id)
    reader.close()
    assert reader.parts == content


@given(st.lists(st.integers(0, BYTE_TOKENIZER.vocab_size - 1), max_size=20))
def test_whatever_a_model_says_can_be_rendered_and_the_chat_goes_on(said):
    chat = Chat(Saying(BYTE_TOKENIZER, said, [65]), max_tokens=20)
    list(chat.stream("a"))
    assert chat.reply_ids == said
    assert text_of(chat.stream("b")) == "A"
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2


def test_text_arrives_in_whole_characters(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, "a€é".encode()))
    assert [piece.text for piece in chat.stream("?")] == ["a", "€", "é"]


def test_half_a_character_is_shown_as_the_replacement_character(byte_tokenizer):
    said = [*"€".encode()[:2], *ids(byte_tokenizer, "<|python_start|>", "1", "<|python_end|>"), 0xE2]
    chat = Chat(Saying(byte_tokenizer, said))
    assert list(chat.stream("?")) == [("text", "\ufffd"), ("python", "1"), ("text", "\ufffd")]


def test_special_tokens_out_of_place_are_kept_as_their_names(byte_tokenizer):
    said = ids(byte_tokenizer, "<|python_end|>", "a", "<|user_start|>", "<|python_start|>", "1", "<|output_end|>")
    chat = Chat(Saying(byte_tokenizer, said))
    list(chat.stream("?"))
    assert chat.messages[1]["content"] == [
        {"type": "text", "text": "<|python_end|>a<|user_start|>"},
        {"type": "python", "text": "1<|output_end|>"},
    ]


def test_a_call_inside_a_call_begins_anew_as_in_the_engine(byte_tokenizer):
    said = ids(byte_tokenizer, "<|python_start|>", "1", "<|python_start|>", "2", "<|python_end|>")
    chat = Chat(Saying(byte_tokenizer, said))
    assert list(chat.stream("?")) == [("python", "1"), ("python", "2")]


def test_a_user_who_spells_a_special_token_says_its_letters(byte_tokenizer):
    engine = Saying(byte_tokenizer, [65])
    list(Chat(engine).stream("<|assistant_end|>"))
    prompt = engine.asked[0][0]
    assert byte_tokenizer.special("assistant_end") not in prompt
    assert bytes(prompt[2:-2]) == b"<|assistant_end|>"


def test_each_turn_reads_the_whole_conversation_and_has_a_seed_of_its_own(byte_tokenizer):
    engine = Saying(byte_tokenizer, [65], [66], [67])
    chat = Chat(engine, temperature=0.5, top_k=3, seed=7)
    list(chat.stream("a"))
    list(chat.stream("b"))
    expected = ids(
        byte_tokenizer,
        *("<|bos|>", "<|user_start|>", "a", "<|user_end|>", "<|assistant_start|>", "A", "<|assistant_end|>"),
        *("<|user_start|>", "b", "<|user_end|>", "<|assistant_start|>"),
    )
    assert engine.asked[1] == (expected, 0.5, 3, 8)
    chat.reset()
    list(chat.stream("a"))
    assert engine.asked[2] == engine.asked[0]
    assert chat.messages[1]["content"] == [{"type": "text", "text": "C"}]


def test_the_next_turn_reads_a_reply_as_the_tokenizer_spells_it(small_tokenizer):
    engine = Saying(small_tokenizer, list(b"the cat"), [65])
    chat = Chat(engine)
    list(chat.stream("a"))
    list(chat.stream("b"))
    reply = chat.prompt_ids[5:-5]
    assert reply == small_tokenizer.encode("the cat") and len(reply) < len("the cat")


def test_the_same_chat_says_the_same_again_and_another_seed_something_else(tiny_model, small_tokenizer):
    chats = [Chat(Engine(tiny_model, small_tokenizer), 12, temperature=1.0, seed=seed) for seed in (5, 5, 6)]
    replies = [[text_of(chat.stream(text)) for text in ("the cat", "the cat")] for chat in chats]
    assert replies[0] == replies[1] != replies[2]
    assert replies[0][0] != replies[0][1]


def test_a_reply_at_max_tokens_is_called_cut_and_one_that_ends_there_by_itself_cannot_be_told_apart(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65] * 9, [65] * 3), max_tokens=4)
    assert text_of(chat.stream("?")) == "AAAA" and chat.cut
    assert text_of(chat.stream("?")) == "AAA" and not chat.cut and chat.ending == "end"


def test_an_empty_reply_is_a_message_without_parts(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [], [65]))
    assert list(chat.stream("?")) == []
    assert chat.messages[1] == {"role": "assistant", "content": []}
    assert text_of(chat.stream("?")) == "A"


@pytest.mark.parametrize("setting", [{"max_tokens": 0}, {"temperature": -1}, {"top_k": 0}])
def test_settings_that_cannot_work_are_refused_before_anything_is_said(setting, byte_tokenizer):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Chat(Saying(byte_tokenizer), **setting)


# Stopping


def test_a_closed_reply_is_kept_as_far_as_it_came_also_inside_a_call(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, call(byte_tokenizer), [65]))
    reply = chat.stream("12*4?")
    for _ in "So ":
        next(reply)
    reply.close()
    assert chat.ending == "stopped"
    assert chat.messages[1]["content"] == [{"type": "text", "text": "So "}]
    assert text_of(chat.stream("b")) == "A"


def test_half_a_character_before_a_stop_is_kept_as_the_replacement_character(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65, 0xE2, KeyboardInterrupt()]))
    with pytest.raises(KeyboardInterrupt):
        list(chat.stream("a"))
    assert chat.messages[1]["content"] == [{"type": "text", "text": "A\ufffd"}]


def test_a_stop_flag_is_read_after_every_token_also_inside_a_call(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, call(byte_tokenizer), [65]))
    list(chat.stream("12*4?", stop=lambda: len(chat.reply_ids) == 6))
    assert chat.messages[1]["content"] == [{"type": "text", "text": "So "}, {"type": "python", "text": "12"}]
    assert chat.ending == "stopped"
    assert text_of(chat.stream("b")) == "A"


def test_a_reply_that_is_held_but_not_read_to_its_end_does_not_stand_in_the_way(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, list(b"abc"), [65]))
    held = chat.stream("a")
    next(held)
    assert text_of(chat.stream("b")) == "A"
    assert [message["content"] for message in chat.messages[:3:2]] == ["a", "b"]
    assert chat.messages[1]["content"] == [{"type": "text", "text": "a"}]


def test_an_error_takes_the_turn_back(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65], [66, MemoryError("full")], [67]))
    list(chat.stream("a"))
    with pytest.raises(MemoryError):
        list(chat.stream("b"))
    assert len(chat.messages) == 2
    assert text_of(chat.stream("c")) == "C"


def test_an_answer_without_a_question_is_refused_and_changes_nothing(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65]))
    list(chat.stream("a"))
    with pytest.raises(RenderError, match="turn 3"):
        chat.answer()
    assert len(chat.messages) == 2 and chat.ending == "end"


# The terminal


def talked(chat, *typed, dim=False):
    """What the terminal shows when these lines are typed; an exception is raised at the prompt instead."""
    lines, written = iter([*typed, EOFError()]), []

    def ask(prompt):
        line = next(lines)
        written.append(prompt + (f"{line}\n" if isinstance(line, str) else ""))
        if not isinstance(line, str):
            raise line
        return line

    assert talk(chat, ask, written.append, dim) == 0
    return "".join(written)


def test_the_terminal_shows_replies_calls_and_a_note_when_cut(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, call(byte_tokenizer, " 48."), [65] * 99), max_tokens=20)
    assert talked(chat, "12*4?", "", "a") == (
        "you> 12*4?\nSo [python 12*4 = 48] 48.\nyou> \nyou> a\nAAAAAAAAAAAAAAAAAAAA\n(cut at max_tokens = 20)\nyou> \n"
    )


def test_calls_and_notes_are_dim_in_a_terminal_and_text_is_not(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, call(byte_tokenizer, ".")))
    assert "So \x1b[2m[python 12*4\x1b[0m\x1b[2m = 48]\x1b[0m.\n" in talked(chat, "?", dim=True)


def test_calls_without_an_output_and_outputs_without_a_call_are_shown():
    pieces = [Piece("python", "a"), Piece("python", "b"), Piece("text", "c"), Piece("python_output", "1")]
    assert "".join(spoken([*pieces, Piece("python", "d")])) == "[python a][python b]c[output 1][python d]"


def test_escape_sequences_of_a_model_do_not_reach_the_terminal():
    assert (
        "".join(spoken([Piece("text", "a\x1b[31m\tb\n"), Piece("python", "\r\x9b")])) == "a␛[31m\tb\n[python ␍\ufffd]"
    )


def test_commands_reset_help_and_quit_and_unknown_ones_show_the_list(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65]))
    shown = talked(chat, "a", "/help", "/rest me", " /reset ", "/quit", "never asked")
    assert shown.count("  /reset  forget the conversation") == 2
    assert "Unknown command /rest. There are:\n  /reset" in shown
    assert shown.endswith("you>  /reset \n(a new conversation)\nyou> /quit\n")
    assert chat.messages == []


def test_ctrl_c_in_a_reply_stops_the_reply_and_not_the_program(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65, 66, KeyboardInterrupt()], [67]))
    assert talked(chat, "a", "b") == "you> a\nAB\n(stopped)\nyou> b\nC\nyou> \n"
    assert chat.messages[1]["content"] == [{"type": "text", "text": "AB"}]


def test_ctrl_c_while_a_piece_is_written_keeps_the_chat_usable(byte_tokenizer):
    chat, interrupts = Chat(Saying(byte_tokenizer, [65, 66], [67])), iter([KeyboardInterrupt()])

    def write(text):
        if text == "A" and (interrupt := next(interrupts, None)):
            raise interrupt

    lines = iter(["a", "b", "/quit"])
    assert talk(chat, lambda prompt: next(lines), write, dim=False) == 0
    assert [message["content"] for message in chat.messages[1::2]] == [
        [{"type": "text", "text": "A"}],
        [{"type": "text", "text": "C"}],
    ]


def test_ctrl_c_at_the_prompt_tells_how_to_leave_and_a_second_one_leaves(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65]))
    interrupts = [KeyboardInterrupt(), "a", KeyboardInterrupt(), KeyboardInterrupt(), "never asked"]
    note = "you> \n(/quit, Ctrl-D or Ctrl-C once more leaves)\n"
    assert talked(chat, *interrupts) == note + "you> a\nA\n" + note + "you> \n"


spelled = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text(max_size=5)), min_size=1).map("".join)


@given(st.lists(spelled, min_size=1, max_size=3))
def test_nothing_a_user_types_becomes_a_control_token(texts):
    tokenizer = BYTE_TOKENIZER
    chat = Chat(Saying(tokenizer, *([65] for _ in texts)))
    for text in texts:
        list(chat.stream(text))
    special = set(tokenizer.special_ids.values())
    turn = ["user_start", "user_end", "assistant_start"]
    expected = ["bos", *turn, *(["assistant_end", *turn] * (len(texts) - 1))]
    assert [id for id in chat.prompt_ids if id in special] == [tokenizer.special(name) for name in expected]
    turns = (f"<|user_start|>{text}<|user_end|><|assistant_start|>" for text in texts)
    said = "A<|assistant_end|>".join(turns)
    assert tokenizer.decode(chat.prompt_ids) == "<|bos|>" + said


def test_a_conversation_longer_than_the_rows_the_model_began_with_is_noted(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, [65], [66]))
    chat.engine.model.config.sequence_len = 30
    list(chat.stream("Hi"))
    assert ending_note(chat) == ""
    list(chat.stream("a longer message than the first"))
    assert ending_note(chat) == "43 tokens so far, the model began with rows of 30: it may lose the thread"


ENDLESS = """
import signal, time
from nanolab.chat import Chat, talk
from nanolab.gpt import GPT, GPTConfig
from nanolab.tokenizer import Tokenizer

class Endless:
    model = GPT(GPTConfig.from_depth(1, 256))
    tokenizer = Tokenizer([bytes([b]) for b in range(256)])
    def stream(self, *_, **__):
        while True:
            time.sleep(0.01)
            yield 65

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the parent ignores it
raise SystemExit(talk(Chat(Endless())))
"""


def test_a_real_signal_stops_the_reply_and_the_program_answers_again():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, text=True, **pipes) as process:
        killer = threading.Timer(60, process.kill)  # a failure must not hang the tests
        killer.start()
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.read(len("you> AAA")) == "you> AAA"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate("/help\n/quit\n")
        killer.cancel()
    assert (process.returncode, errors) == (0, "")
    assert rest.lstrip("A").startswith("\n(stopped)\nyou>   /reset")


@pytest.fixture
def checkpoint(small_tokenizer):
    model = random_model(small_tokenizer.vocab_size)
    return save_checkpoint("sft", "d2", 3, model, small_tokenizer, {})


def test_the_command_names_the_checkpoint_and_answers_one_prompt(checkpoint, capsys):
    assert run(ChatConfig(prompt="the cat", max_tokens=5, device_type="cpu")) == 0
    first, *answer = capsys.readouterr().out.splitlines()
    assert first == f"sft d2, step 3, from {checkpoint}, on cpu"
    assert answer and answer[-1] == "(cut at max_tokens = 5)"


def test_the_command_talks_until_the_input_ends(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n/help\n"))
    assert run(ChatConfig(max_tokens=5, device_type="cpu")) == 0
    assert "(cut at max_tokens = 5)\nyou>   /reset" in capsys.readouterr().out


def test_the_command_says_what_to_do_without_a_checkpoint():
    with pytest.raises(FileNotFoundError, match="python -m nanolab sft"):
        run(ChatConfig(device_type="cpu"))


# The notebook


@pytest.fixture
def notebook(monkeypatch):
    page = Notebook()
    monkeypatch.setattr(show_chat, "display", page.display)
    return page


def test_a_streamed_reply_grows_in_one_place_and_stays_there(notebook, byte_tokenizer, monkeypatch):
    monkeypatch.setattr(show_chat.Pace, "due", lambda self: True)
    engine = Saying(byte_tokenizer, call(byte_tokenizer, "."))
    conversation = show.stream_reply(engine, "12*4?", live=True)
    assert notebook.sent == len("So ") + 2 + len(".") + 1  # text by bytes, call and output whole, the end
    (bundle,) = notebook.outputs
    assert without_tags(bundle["text/html"]) == "user12*4?assistantSo python call12*4python output48."
    assert bundle["text/plain"] == "user: 12*4?\nassistant: So [python 12*4 = 48]."
    assert [part["type"] for part in conversation["messages"][1]["content"]] == (
        ["text", "python", "python_output", "text"]
    )


def test_a_reply_to_a_conversation_is_said_anew_in_place_of_its_last(byte_tokenizer, capsys):
    engine = Saying(byte_tokenizer, [65])
    old = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "old"}]}
    new = show.stream_reply(engine, old, live=False, temperature=0)
    assert new["messages"][1]["content"] == [{"type": "text", "text": "A"}]
    assert old["messages"][1]["content"] == "old"
    assert capsys.readouterr().out == "user: a\nassistant: A\n"


def test_an_interrupted_cell_keeps_what_was_said(notebook, byte_tokenizer):
    engine = Saying(byte_tokenizer, [65, KeyboardInterrupt()])
    conversation = show.stream_reply(engine, "a", live=True)
    assert conversation["messages"][1]["content"] == [{"type": "text", "text": "A"}]
    assert without_tags(notebook.outputs[0]["text/html"]) == "useraassistantAstopped"


def test_specials_show_every_token_and_underline_what_the_model_says(notebook, byte_tokenizer):
    show.stream_reply(Saying(byte_tokenizer, call(byte_tokenizer)), "a", live=True, specials=True)
    html = notebook.outputs[0]["text/html"]
    assert "<b>&lt;|output_start|&gt;</b></span>" in html  # forced: not said by the model
    assert "<b>&lt;|python_start|&gt;</b></u>" in html
    assert "<b>&lt;|assistant_start|&gt;</b></span>" in html
    assert "<b>&lt;|assistant_end|&gt;</b></u>" in html
    assert notebook.outputs[0]["text/plain"].endswith("<|output_start|>48<|output_end|><|assistant_end|>")


def test_what_is_underlined_in_a_chat_is_what_training_supervises(byte_tokenizer):
    chat = Chat(Saying(byte_tokenizer, call(byte_tokenizer, "."), [65]))
    list(chat.stream("a"))
    list(chat.stream("b"))
    assert show_chat.ids_and_mask(chat) == render_conversation(chat.conversation, byte_tokenizer)


def test_a_reply_is_drawn_at_most_ten_times_a_second():
    assert show_chat.EVERY == 0.1
    times = iter([0.0, 0.05, 0.09, 0.1, 0.15, 0.31, 0.4])
    pace = show_chat.Pace(clock=times.__next__)
    assert [pace.due() for _ in range(7)] == [True, False, False, True, False, True, False]


class Waiting(Saying):
    """Says its script, but each token only when it is let to."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.may_go_on = threading.Semaphore(0)

    def stream(self, *arguments, **options):
        for token in super().stream(*arguments, **options):
            assert self.may_go_on.acquire(timeout=20)
            yield token


def test_the_box_answers_and_shows_the_transcript_where_nobody_watches(byte_tokenizer):
    box = show.ChatBox(Saying(byte_tokenizer, call(byte_tokenizer, "."), [65]))
    assert "an empty conversation" in box.page.value
    assert box._repr_mimebundle_()["text/plain"] == "(an empty conversation)"
    box.send("12*4?")
    box.wait(20)
    box.send("more")
    box.wait(20)
    bundle = box._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == "user: 12*4?\nassistant: So [python 12*4 = 48].\nuser: more\nassistant: A"
    assert without_tags(box.page.value) == without_tags(bundle["text/html"])


def test_the_box_is_a_widget_where_somebody_watches(byte_tokenizer, monkeypatch):
    monkeypatch.setattr(show_chat, "someone_watches", lambda: True)
    assert "application/vnd.jupyter.widget-view+json" in show.ChatBox(Saying(byte_tokenizer))._repr_mimebundle_()


def test_the_box_stops_between_tokens_and_goes_on_afterwards(byte_tokenizer):
    engine = Waiting(byte_tokenizer, list(b"abcdef"), [65, 66])
    box = show.ChatBox(engine)
    box.send("x")
    assert box.running and box.send_button.disabled and not box.stop_button.disabled
    with pytest.raises(RuntimeError, match="still answering"):
        box.send("y")
    with pytest.raises(TimeoutError, match="still answering"):
        box.wait(0.01)
    box.stop_button.click()
    engine.may_go_on.release()
    box.wait(20)
    assert box.chat.messages[1]["content"] == [{"type": "text", "text": "a"}]
    assert without_tags(box.page.value).endswith("stopped")
    assert not box.send_button.disabled and box.stop_button.disabled
    box.stop()  # too late: must not stop the next reply
    engine.may_go_on.release(2)
    box.send("y")
    box.wait(20)
    assert box.chat.messages[3]["content"] == [{"type": "text", "text": "AB"}]


def test_reset_stops_a_reply_and_empties_the_box(byte_tokenizer):
    engine = Waiting(byte_tokenizer, list(b"abcdef"))
    box = show.ChatBox(engine)
    box.send("x")
    engine.may_go_on.release(2)
    box.reset()
    assert not box.running and box.chat.messages == []
    assert "an empty conversation" in box.page.value


def test_an_error_is_shown_in_the_box_and_the_text_given_back(byte_tokenizer):
    box = show.ChatBox(Saying(byte_tokenizer, [65, MemoryError("<full>")], [66]))
    box.send("x")
    box.wait(20)
    assert "MemoryError: &lt;full&gt;" in box.page.value
    assert isinstance(box.error, MemoryError) and box.field.value == "x"
    box.send("y")
    box.wait(20)
    assert box.error is None and "MemoryError" not in box.page.value


def test_enter_and_the_send_button_send_the_field_and_empty_it(byte_tokenizer):
    box = show.ChatBox(Saying(byte_tokenizer, [65], [66]))
    box.field.value = " x "
    box.field._handle_custom_msg({"event": "submit"}, [])
    box.wait(20)
    assert box.field.value == "" and box.chat.messages[0]["content"] == "x"
    box.send_button.click()  # nothing to send
    assert len(box.chat.messages) == 2
    box.field.value = "y"
    box.send_button.click()
    box.wait(20)
    assert len(box.chat.messages) == 4


def test_the_box_shows_special_tokens_on_demand_and_takes_the_temperature_from_its_slider(byte_tokenizer):
    engine = Saying(byte_tokenizer, [65])
    box = show.ChatBox(engine, temperature=0.3)
    assert box.temperature.value == 0.3
    box.temperature.value = 1.2
    box.send("x")
    box.wait(20)
    assert engine.asked[0][1] == 1.2
    assert "assistant_end" not in box.page.value
    box.specials.value = True
    assert "assistant_end" in box.page.value


def test_no_text_of_a_chat_becomes_markup(notebook, byte_tokenizer):
    script = "<script>alert('x')</script>"
    for specials in (False, True):
        show.stream_reply(Saying(byte_tokenizer, list(script.encode())), script, live=True, specials=specials)
    assert all("<script" not in output["text/html"] for output in notebook.outputs)


# The next token


def test_probabilities_are_those_of_the_model_behind_a_position(tiny_model, small_tokenizer):
    text = small_tokenizer.encode("the cat sat on the mat")
    table = show.next_token_probabilities(tiny_model, small_tokenizer, text, position=1, top=5)
    logits = tiny_model(torch.tensor([text]))[0, 1].detach()
    best = logits.softmax(-1).topk(5)
    assert table["probability"].tolist()[:5] == pytest.approx(best.values.tolist(), rel=1e-5)
    assert table["id"].tolist()[:5] == best.indices.tolist()
    assert table["token"].iloc[0] == Labels(small_tokenizer).label(table["id"].iloc[0])
    assert table.query("follows")["id"].tolist() == [text[2]]


def test_the_token_that_really_follows_is_listed_with_its_rank_also_below_the_best(tiny_model, small_tokenizer):
    everything = show.next_token_probabilities(tiny_model, small_tokenizer, [5, 6, 7], position=0, top=10_000)
    assert len(everything) == small_tokenizer.vocab_size and everything["probability"].sum() == pytest.approx(1)
    rank = 1 + everything["id"].tolist().index(6)
    table = show.next_token_probabilities(tiny_model, small_tokenizer, [5, 6, 7], position=0, top=rank - 1)
    assert table.index.tolist() == list(range(1, rank)) + [rank]
    assert table["follows"].tolist() == [False] * (rank - 1) + [True]


def test_behind_the_last_token_nothing_follows(tiny_model, small_tokenizer):
    table = show.next_token_probabilities(tiny_model, small_tokenizer, [5, 6], top=3)
    assert not table["follows"].any() and len(table) == 3


def test_a_low_temperature_makes_the_best_token_surer(tiny_model, small_tokenizer):
    sure, unsure = (
        show.next_token_probabilities(tiny_model, small_tokenizer, [5], temperature=t)["probability"] for t in (0.2, 1)
    )
    assert sure.iloc[0] > unsure.iloc[0]


@pytest.mark.parametrize(("ids", "position"), [([5, 6], 2), ([5, 6], -3), ([], -1)])
def test_a_position_outside_is_refused(ids, position, tiny_model, small_tokenizer):
    with pytest.raises(IndexError, match=f"position {position} is outside of {len(ids)} tokens"):
        show.next_token_probabilities(tiny_model, small_tokenizer, ids, position)


@pytest.mark.parametrize("setting", [{"top": 0}, {"temperature": 0}])
def test_a_top_or_temperature_of_nothing_is_refused(setting, tiny_model, small_tokenizer):
    with pytest.raises(ValueError, match="top must be 1 or more and temperature above 0"):
        show.next_token_probabilities(tiny_model, small_tokenizer, [5], **setting)


def test_bars_name_the_context_and_mark_what_follows(tiny_model, small_tokenizer):
    text = small_tokenizer.encode("the cat number $5 sat on the mat")
    table = show.next_token_probabilities(tiny_model, small_tokenizer, text, position=3, top=4)
    ax = show.next_token_bars(tiny_model, small_tokenizer, text, position=3, top=4).axes[0]
    assert [bar.get_width() for bar in ax.patches] == table["probability"].tolist()
    assert [bool(bar.get_hatch()) for bar in ax.patches] == table["follows"].tolist()
    assert [text.get_text().endswith("really follows") for text in ax.texts] == table["follows"].tolist()
    assert ax.get_title(loc="left") == "next token after " + " ".join(
        Labels(small_tokenizer).label(id) for id in text[:4]
    )


def test_a_long_context_is_named_by_its_last_tokens_and_odd_letters_by_their_code_points(byte_tokenizer):
    model = random_model(byte_tokenizer.vocab_size)
    ax = show.next_token_bars(model, byte_tokenizer, list(b"0123456789"), top=3).axes[0]
    assert ax.get_title(loc="left") == "next token after ... 2 3 4 5 6 7 8 9"
    assert next_token.drawable("-" * 99) == "-" * 24 + "…"


def test_bars_draw_into_the_axes_they_are_given(tiny_model, small_tokenizer):
    ax = show.next_token_bars(tiny_model, small_tokenizer, [5]).axes[0]
    assert show.next_token_bars(tiny_model, small_tokenizer, [5], ax=ax, title="$x") is ax.figure
    assert ax.get_title(loc="left") == "$x"


EXAMPLES = [nanolab.chat.spoken, nanolab.chat.quiet, show_chat.Pace]
EXAMPLES += [next_token.checked_position, next_token.share, next_token.drawable]


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda function: function.__name__)
def test_the_example_in_the_docstring_is_true(function):
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs=vars(sys.modules[function.__module__]))
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
