"""Damaged data: every file of a data directory, and the tokenizer's, damaged in every way we could think of.

A damaged file is refused with one clear error, or it loads, and then each row is a conversation that renders or an
error that names it. Never an error from inside a library, never an endless loop. The damages have fixed seeds.
"""

import faulthandler
import json
import os
import random
import re
import shutil
import sys
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nanolab.batch import StepDataset
from nanolab.render import RenderError, render_conversation
from nanolab.stream import StreamDataset
from nanolab.tasks import (
    ARC,
    GSM8K,
    MMLU,
    HumanEval,
    Identity,
    SimpleSpelling,
    SmolTalk,
    SpellingBee,
    TaskMixture,
    load_rows,
    load_text,
)
from nanolab.tasks.base import DataError, RowError
from nanolab.tasks.schema import COLUMNS
from nanolab.tasks.toy import toy_rows, toy_words
from nanolab.tokenizer import Tokenizer

LIMIT = 20  # seconds that reading a damaged file may take; a thousandth of it is usual
LONGEST_MESSAGE = 700  # characters


class Kind:
    """One kind of file of a data directory: where it is, what it holds, and the task that reads it."""

    def __init__(self, place, rows, make):
        self.place, self.rows, self.make = place, rows, make


def toy(name, subset, split):
    return toy_rows(name, subset, split)[:12]


SETS = {
    "gsm8k": Kind("gsm8k/main/train", toy("gsm8k", "main", "train"), lambda data: GSM8K("main", "train", data)),
    "mmlu": Kind("mmlu/all/test", toy("mmlu", "all", "test"), lambda data: MMLU("all", "test", data)),
    "arc": Kind(
        "ai2_arc/ARC-Easy/test", toy("ai2_arc", "ARC-Easy", "test"), lambda data: ARC("ARC-Easy", "test", data)
    ),
    "smoltalk": Kind("smol-smoltalk/train", toy("smol-smoltalk", None, "train"), lambda data: SmolTalk("train", data)),
    "humaneval": Kind(
        "openai_humaneval/test", toy("openai_humaneval", None, "test"), lambda data: HumanEval("test", data)
    ),
    "text": Kind("pretrain_text/train", toy("pretrain_text", None, "train"), lambda data: load_text("train", data)),
}
IDENTITY = Kind(
    "identity_conversations.jsonl",
    [row["messages"] for row in toy("identity_conversations", None, "train")],
    Identity,
)
WORDS = Kind("words_alpha.txt", toy_words()[:60], lambda data: SpellingBee(6, "train", data))


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows, options=None) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **(options or {}))
    return sink.getvalue().to_pybytes()


def as_hub_parquet(rows) -> bytes:
    """As `datasets` writes it: with the types of the columns once more, in the metadata."""
    table = datasets.Dataset.from_list(rows).data.table
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def as_bare_parquet(rows) -> bytes:
    """Without compression or dictionaries, so that a changed byte is a changed text."""
    return as_parquet(rows, {"compression": "none", "use_dictionary": False})


FORMATS = {
    "parquet": (".parquet", as_parquet),
    "hub parquet": (".parquet", as_hub_parquet),
    "bare parquet": (".parquet", as_bare_parquet),
    "jsonl": (".jsonl", as_jsonl),
    "json": (".json", lambda rows: json.dumps(rows, indent=1).encode()),
}


def all_files():
    """Name of a file -> (its kind, its place in the directory, its undamaged bytes)."""
    files = {
        f"{name} {form}": (kind, kind.place + ending, write(kind.rows))
        for name, kind in SETS.items()
        for form, (ending, write) in FORMATS.items()
    }
    files["identity"] = (IDENTITY, IDENTITY.place, as_jsonl(IDENTITY.rows))
    files["words"] = (WORDS, WORDS.place, "\r\n".join(WORDS.rows).encode())
    return files


FILES = all_files()

# --- what may come of it ---------------------------------------------------------------------------------------------


@contextmanager
def in_time():
    """Fail after LIMIT seconds; end the process with a traceback of every thread if a library does not come back."""
    faulthandler.dump_traceback_later(3 * LIMIT, exit=True, file=sys.__stderr__)
    start = time.monotonic()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - start < LIMIT


def outcome(kind, data, path, tokenizer) -> str:
    """Read all that a directory holds: "refused", "bad rows" or "whole"; fails for any error that is not ours."""
    with in_time():
        try:
            task = kind.make(data)
        except (DataError, FileNotFoundError) as error:
            assert type(error) in (DataError, FileNotFoundError)
            assert str(path) in str(error) or path.name in str(error)
            check_message(error)
            assert any(verb in str(error) for verb in ("Fetch", "Correct", "Save", "Check", "Tried", "should hold"))
            return "refused"
        assert len(task) > 0
        return "bad rows" if sum(not is_good(task, i, tokenizer) for i in range(len(task))) else "whole"


def is_good(task, index, tokenizer) -> bool:
    """Whether a row renders; if not, it must say so by our own errors, with the words that name it in front."""
    try:
        row = task[index]
        ids = tokenizer.encode(row["text"]) if "text" in row else render_conversation(row, tokenizer)[0]
        assert isinstance(tokenizer.decode(ids), str)
    except (RowError, RenderError) as error:
        assert type(error) in (RowError, RenderError)
        assert str(error).startswith(f"{task.name} ") and task.part in str(error)
        check_message(error)
        return False
    return True


def check_message(error):
    """A sentence or two on one line; a file that is not there gets a list."""
    if not isinstance(error, FileNotFoundError):
        assert len(str(error)) < LONGEST_MESSAGE and "\n" not in str(error)


def place(tmp_path, number, relative, content) -> tuple[Path, Path]:
    """A directory of its own for each damage: `datasets` keeps what it has read by path and time."""
    path = tmp_path / str(number) / relative
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return tmp_path / str(number), path


# --- bytes -----------------------------------------------------------------------------------------------------------


def flip(data, rng):
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def flip_many(data, rng):
    for _ in range(rng.randint(2, 30)):
        data = flip(data, rng)
    return data


def insert(piece):
    def damage(data, rng):
        place = rng.randrange(len(data) + 1)
        return data[:place] + (piece or rng.randbytes(rng.randint(1, 40))) + data[place:]

    return damage


def cut_out(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 30) :]


def reorder(data, rng):
    place = rng.randrange(len(data))
    return data[place:] + data[:place]


BYTE_DAMAGES = {
    "flipped bit": flip,
    "flipped bits": flip_many,
    "cut at any byte": lambda data, rng: data[: rng.randrange(len(data))],
    "beginning lost": lambda data, rng: data[rng.randrange(1, len(data)) :],
    "last byte lost": lambda data, rng: data[:-1],
    "last bytes lost": lambda data, rng: data[: -rng.randint(2, 60)],
    "middle lost": cut_out,
    "halves swapped": reorder,
    "junk inserted": insert(b""),
    "NULs inserted": insert(b"\0\0\0"),
    "bytes of no UTF-8": insert(b"\xff\xfe\xc3"),
    "encoded surrogate": insert(b"\xed\xa0\x80"),
    "escaped surrogate": insert(b"\\ud800"),
    "quote inserted": insert(b'"'),
    "brackets inserted": insert(b"[" * 3000),
    "line end inserted": insert(b"\n"),
    "junk behind": lambda data, rng: data + rng.randbytes(rng.randint(1, 100)),
    "half a row behind": lambda data, rng: data + data[: rng.randrange(1, min(len(data), 300))],
    "twice": lambda data, rng: data + data,
    "emptied": lambda data, rng: b"",
    "white space": lambda data, rng: b" \n\r\n\t\n",
    "zeros": lambda data, rng: bytes(len(data)),
    "junk": lambda data, rng: rng.randbytes(rng.randint(1, 2_000)),
    "a page of HTML": lambda data, rng: b"<!doctype html>\n<html><body>404: not found</body></html>\n",
    "UTF-16": lambda data, rng: data.decode("latin-1").encode("utf-16"),
    "UTF-16 without a mark": lambda data, rng: data.decode("latin-1").encode("utf-16-be"),
    "UTF-32": lambda data, rng: data.decode("latin-1").encode("utf-32"),
    "UTF-8 with a mark": lambda data, rng: b"\xef\xbb\xbf" + data,
    "Latin-1": lambda data, rng: data.replace(b"e", b"\xe9", 3),
    "other line ends": lambda data, rng: data.replace(b"\n", b"\r"),
    "a number": lambda data, rng: b"7\n",
    "nothing but null": lambda data, rng: b"null\n",
    "an empty list": lambda data, rng: b"[]\n",
    "an empty object": lambda data, rng: b"{}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_damaged_bytes_is_refused_or_names_its_bad_rows(name, tmp_path, byte_tokenizer):
    kind, relative, whole = FILES[name]
    data, path = place(tmp_path, "whole", relative, whole)
    assert outcome(kind, data, path, byte_tokenizer) == "whole"
    rng, outcomes = random.Random(name), []
    for number, damage in enumerate(BYTE_DAMAGES):
        data, path = place(tmp_path, number, relative, BYTE_DAMAGES[damage](whole, rng))
        outcomes.append(outcome(kind, data, path, byte_tokenizer))
        shutil.rmtree(data)
    assert outcomes.count("refused") >= len(outcomes) / 3


def test_there_are_more_than_a_thousand_files_of_damaged_bytes():
    assert len(FILES) * len(BYTE_DAMAGES) > 1_000


# --- cells -----------------------------------------------------------------------------------------------------------

ROW = 5  # the row that is damaged
DEEP = json.loads("[" * 200 + "]" * 200)
VALUES = {
    "null": None,
    "a number": 3,
    "a number with a point": 2.5,
    "true": True,
    "an empty text": "",
    "an empty list": [],
    "a list of null": [None],
    "a list of numbers": [1, 2],
    "a list of lists": [["a"]],
    "an empty object": {},
    "an object": {"a": 1},
    "an object of lists": {"text": ["a", "b"], "label": ["A"]},
    "an object of nulls": {"text": None, "label": None},
    "a list of objects": [{"role": "user"}],
    "a message of null": [{"role": "user", "content": None}],
    "a message of a number": [{"role": 1, "content": "x"}],
    "an unknown role": [{"role": "tool", "content": "x"}],
    "a huge number": 10**400,
    "a large number": 2**63,
    "infinity": float("inf"),
    "deep brackets": DEEP,
    "half of a pair": "a\ud800b",
    "half of a pair in a message": [{"role": "user", "content": "\udfff"}],
    "NULs": "\0\0",
}


def damaged_cell(name, column, value):
    rows = [dict(row) for row in SETS[name].rows]
    rows[ROW] = {**rows[ROW], column: value}
    return rows


def write_or_none(write, rows):
    """The bytes of a file, or None where the format itself cannot hold such rows."""
    try:
        return write(rows)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        return None


def is_fit(name, column, value):
    """Whether a damage still is what the column holds."""
    return (isinstance(value, str) and value.isascii()) or (name, column, value) == ("mmlu", "answer", 3)


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("name", SETS)
def test_a_damaged_cell_is_named_and_does_not_keep_the_other_rows_away(name, form, tmp_path, byte_tokenizer):
    kind, (ending, write) = SETS[name], FORMATS[form]
    columns = COLUMNS[kind.place.split("/")[0]]
    tried = 0
    for number, (column, value) in enumerate(product(columns, VALUES.values())):
        content = write_or_none(write, damaged_cell(name, column, value))
        if content is None:  # most, in parquet: a column has one type there
            continue
        data, path = place(tmp_path, number, kind.place + ending, content)
        found = outcome(kind, data, path, byte_tokenizer)
        assert found == "bad rows" or is_fit(name, column, value) or (form == "parquet" and found == "refused")
        tried += 1
    assert tried >= (2 if form == "parquet" else len(VALUES)) * len(columns)


@pytest.mark.parametrize("what", VALUES)
def test_a_damaged_line_of_identity_conversations_refuses_the_file_and_is_named(what, tmp_path, byte_tokenizer):
    rows = list(IDENTITY.rows)
    rows[ROW] = VALUES[what]
    data, path = place(tmp_path, 0, IDENTITY.place, as_jsonl(rows))
    if what == "an unknown role":
        assert "'tool', not one of" in refusal(IDENTITY, data)
    assert outcome(IDENTITY, data, path, byte_tokenizer) == "refused"
    assert f"{path} line 6: " in refusal(IDENTITY, data)


def refusal(kind, data):
    with pytest.raises((DataError, FileNotFoundError)) as caught:
        kind.make(data)
    return str(caught.value)


def test_a_bad_row_says_its_task_split_number_line_and_what_is_wrong(tmp_path):
    data, _ = place(tmp_path, 0, "gsm8k/main/train.jsonl", as_jsonl(damaged_cell("gsm8k", "answer", None)))
    task = GSM8K("main", "train", data)
    faults = {i: fault for i in range(len(task)) if (fault := error_of(task, i))}
    (row,) = faults
    assert faults[row] == (
        f"GSM8K main/train row {row}: line 6: 'answer' is null, not text. "
        'Correct the row, or skip it (on_bad_row="skip").'
    )


def error_of(task, index) -> str:
    try:
        task[index]
    except RowError as error:
        return str(error)
    return ""


def test_a_bad_row_of_a_mixture_is_named_by_its_own_task(tmp_path):
    data, _ = place(tmp_path, 0, "gsm8k/main/train.jsonl", as_jsonl(damaged_cell("gsm8k", "answer", None)))
    task = GSM8K("main", "train", data)
    mixture = TaskMixture([task, SimpleSpelling(5, data="toy")])
    of_task, of_mixture = ([f for i in range(len(rows)) if (f := error_of(rows, i))] for rows in (task, mixture))
    assert of_task == of_mixture and len(of_task) == 1


SHAPES = {  # rows that hold what is declared, and still are no conversation
    "answer beyond the choices": ("mmlu", {"answer": 4}, "answer 4 is not the number of one of the 4 choices"),
    "answer below the choices": ("mmlu", {"answer": -1}, "answer -1 is not the number of one of the 4 choices"),
    "five choices": ("mmlu", {"choices": list("abcde")}, "5 choices but 4 letters"),
    "no choices": ("mmlu", {"choices": [], "answer": 0}, "answer 0 is not the number of one of the 0 choices"),
    "fewer labels": ("arc", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 choices but 1 letters"),
    "foreign answer": ("arc", {"answerKey": "Z"}, "the answer 'Z' is not among the letters"),
    "no answer": ("arc", {"answerKey": ""}, "the answer '' is not among the letters"),
}


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("what", SHAPES)
def test_a_row_that_contradicts_itself_is_named(what, form, tmp_path):
    name, change, message = SHAPES[what]
    kind, (ending, write) = SETS[name], FORMATS[form]
    rows = [dict(row) for row in kind.rows]
    rows[ROW] |= change
    data, _ = place(tmp_path, 0, kind.place + ending, write(rows))
    task = kind.make(data)
    (fault,) = [fault for i in range(len(task)) if (fault := error_of(task, i))]
    assert re.match(rf"{task.name} \S+ row \d+: {message}", fault) or message in fault


# --- files -----------------------------------------------------------------------------------------------------------

GOOD = {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"}
LINE = json.dumps(GOOD)
LINES = {  # what stands between two good lines -> what is said of it
    '{"question": "a", "answer": "b"': "line 2: not JSON",
    '{"question": "a", "answer": "b"} {}': "line 2: not JSON",
    "3": "line 2: not an object but int",
    "null": "line 2: not an object but NoneType",
    '["question", "answer"]': "line 2: not an object but list",
    '"question"': "line 2: not an object but str",
    "[" * 100_000: "line 2: not JSON",
    '{"a":' * 100_000: "line 2: not JSON",
    "9" * 10_000: "line 2: not JSON",
    "\0": "line 2: not JSON",
    "#": "line 2: not JSON",
    "{'question': 'a', 'answer': 'b'}": "line 2: not JSON",
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:40]))
def test_a_line_that_is_no_object_refuses_the_file_and_is_named(line, tmp_path):
    data, path = place(tmp_path, 0, "gsm8k/main/train.jsonl", f"{LINE}\n{line}\n{LINE}\n".encode())
    with in_time():
        message = refusal(SETS["gsm8k"], data)
    assert message.startswith(f"{path} {LINES[line]}") and len(message) < LONGEST_MESSAGE


def test_half_a_line_at_the_end_refuses_the_file(tmp_path):
    for cut in range(1, len(LINE)):
        data, path = place(tmp_path, cut, "gsm8k/main/train.jsonl", f"{LINE}\n{LINE[:cut]}".encode())
        assert refusal(SETS["gsm8k"], data).startswith(f"{path} line 2: not JSON")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", SETS)
def test_other_columns_or_no_rows_refuse_the_file_and_say_what_should_be_there(name, form, tmp_path):
    kind, (ending, write) = SETS[name], FORMATS[form]
    column = next(iter(COLUMNS[kind.place.split("/")[0]]))
    renamed = [{"other" if key == column else key: value for key, value in row.items()} for row in kind.rows]
    data, path = place(tmp_path, 0, kind.place + ending, write(renamed))
    assert str(path) in refusal(kind, data) and repr(column) in refusal(kind, data)
    numbers = [{**row, column: 3} for row in kind.rows]
    data, path = place(tmp_path, 1, kind.place + ending, write(numbers))
    assert str(path) in refusal(kind, data) and repr(column) in refusal(kind, data)
    data, path = place(tmp_path, 2, kind.place + ending, write([]))
    message = refusal(kind, data)
    assert f"{path} holds no rows" in message or f"{path} cannot be read as parquet" in message


def test_a_parquet_file_with_columns_and_no_rows_is_refused(tmp_path):
    table = pyarrow.Table.from_pylist([GOOD]).slice(0, 0)
    path = tmp_path / "gsm8k/main/train.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(table, path)
    assert f"{path} " in refusal(SETS["gsm8k"], tmp_path)


@pytest.mark.parametrize("name", [*SETS, "identity", "words"])
def test_a_folder_or_a_link_to_nowhere_in_place_of_a_file_is_named(name, tmp_path):
    kind = SETS.get(name) or {"identity": IDENTITY, "words": WORDS}[name]
    for number, ending in enumerate([".parquet", ".jsonl", ".json"] if name in SETS else [""]):
        path = tmp_path / f"folder{number}" / f"{kind.place}{ending}"
        path.mkdir(parents=True)
        message = refusal(kind, tmp_path / f"folder{number}")
        assert f"{path} (a folder)" in message or f"{path} is a folder, not a file" in message
        path = tmp_path / f"link{number}" / f"{kind.place}{ending}"
        path.parent.mkdir(parents=True)
        path.symlink_to(path)
        assert str(path) in refusal(kind, tmp_path / f"link{number}")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_named(name, tmp_path):
    kind, relative, content = FILES[name]
    data, path = place(tmp_path, 0, relative, content)
    path.chmod(0)
    message = refusal(kind, data)
    assert str(path) in message and "ermission" in message


def test_a_file_that_may_not_be_read_is_named_also_for_root(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    cases = [SETS["gsm8k"], IDENTITY, WORDS]
    places = [place(tmp_path, 0, "gsm8k/main/train.jsonl", b"x"), place(tmp_path, 1, IDENTITY.place, b"x")]
    places.append(place(tmp_path, 2, WORDS.place, b"x"))
    monkeypatch.setattr(Path, "open", refuse)
    for kind, (data, path) in zip(cases, places, strict=True):
        assert refusal(kind, data).startswith(f"{path} cannot be read (Permission denied)")


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("name", SETS)
def test_one_row_of_five_megabytes_is_a_row_like_others(name, form, tmp_path, byte_tokenizer):
    kind, (ending, write) = SETS[name], FORMATS[form]
    large = "ab 1 " * 1_000_000
    column = {"smoltalk": "messages", "text": "text", "humaneval": "prompt"}.get(name, "question")
    value = [{"role": "user", "content": large}] if name == "smoltalk" else large
    rows = [{**row, column: value} if number == ROW else row for number, row in enumerate(kind.rows)]
    data, path = place(tmp_path, 0, kind.place + ending, write(rows))
    assert outcome(kind, data, path, byte_tokenizer) == "whole"


def test_dates_and_numbers_in_quotes_stay_the_text_that_they_are(tmp_path):
    rows = [{"question": "2020-01-01", "answer": "10"}, {"question": "2020-01-02 10:00:00", "answer": "1e5"}]
    data, _ = place(tmp_path, 0, "gsm8k/main/train.jsonl", as_jsonl(rows))
    assert sorted(load_rows("gsm8k", "main", "train", data), key=lambda row: row["question"]) == rows


def test_the_same_rows_come_in_the_same_order_from_every_format(tmp_path):
    orders = []
    for number, (ending, write) in enumerate(FORMATS.values()):
        data, _ = place(tmp_path, number, f"gsm8k/main/train{ending}", write(SETS["gsm8k"].rows))
        orders.append(list(GSM8K("main", "train", data)))
    expected = datasets.Dataset.from_list(SETS["gsm8k"].rows).shuffle(seed=42)["question"]
    assert [row["messages"][0]["content"] for row in orders[0]] == list(expected)
    assert all(order == orders[0] for order in orders)


def test_a_key_that_is_there_twice_counts_as_it_does_in_json_the_last_time(tmp_path):
    data, _ = place(tmp_path, 0, "gsm8k/main/train.jsonl", b'{"question": "a", "question": "b", "answer": "c"}\n')
    assert load_rows("gsm8k", "main", "train", data)[0] == {"question": "b", "answer": "c"}


@pytest.mark.parametrize("answer", ["18", "<<1+1=2>>2", "<<1+1", "#### ", "<<" * 1000, "####", "<<1+1=2>>2\n#### two"])
def test_an_answer_without_a_number_can_be_learned_and_is_not_graded(answer, tmp_path, byte_tokenizer):
    data, _ = place(tmp_path, 0, "gsm8k/main/test.jsonl", as_jsonl([{"question": "1+1?", "answer": answer}]))
    task = GSM8K("main", "test", data)
    assert render_conversation(task[0], byte_tokenizer)
    with pytest.raises(DataError, match=r"GSM8K main/test row 0: its own answer has no number after '#### '"):
        task.evaluate(task[0], "#### 2")


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"don't", b"two-part", b"abc1", b"<html>", b"a\0b", b"x" * 101, b'say"', b"\xe2\x80\x8b", b"x" * 5_000_000]
)
def test_a_line_that_is_no_word_is_named(line, tmp_path):
    content = "\r\n".join(WORDS.rows[:20]).encode() + b"\r\n" + line + b"\r\n"
    data, path = place(tmp_path, 0, WORDS.place, content)
    message = refusal(WORDS, data)
    assert message.startswith(f"{path} line 21: ") and "is not a word of up to 100 letters" in message
    assert len(message) < LONGEST_MESSAGE


# --- skipping --------------------------------------------------------------------------------------------------------


def test_a_step_skips_bad_rows_and_says_which_and_why(tmp_path, byte_tokenizer):
    rows = damaged_cell("gsm8k", "answer", None)
    rows[2] = {**rows[2], "question": "half \ud800"}
    data, _ = place(tmp_path, 0, "gsm8k/main/train.jsonl", as_jsonl(rows))
    task = GSM8K("main", "train", data)
    step = StepDataset(task, byte_tokenizer, len(task), on_bad_row="skip")[0]
    assert step.num_conversations == len(task) - 2
    assert len(step.left_out) == 2
    assert all(re.match(r"GSM8K main/train row \d+: line [36]: '", reason) for reason in step.left_out)
    assert all(reason.endswith("Skipped.") for reason in step.left_out)
    with pytest.raises(RowError, match=r"GSM8K main/train row \d+: line [36]"):
        StepDataset(task, byte_tokenizer, len(task))[0]


def test_a_stream_skips_bad_documents_and_says_which_and_why(tmp_path, byte_tokenizer):
    rows = damaged_cell("text", "text", None)
    data, _ = place(tmp_path, 0, "pretrain_text/train.parquet", as_parquet(rows))
    documents = load_text("train", data)

    def stream(on_bad_row):
        encode = lambda row: byte_tokenizer.encode(row["text"])  # noqa: E731
        return StreamDataset(documents, encode, 8, 1, total_batch_size=2**14, on_bad_row=on_bad_row)

    left_out = stream("skip")[0].left_out
    assert left_out and re.match(r"text train row \d+: 'text' is null, not text", left_out[0])
    with pytest.raises(RowError, match=r"text train row \d+: 'text' is null"):
        stream("error")[0]


# --- the tokenizer's file --------------------------------------------------------------------------------------------


def test_five_hundred_damaged_tokenizer_files_give_one_clear_error_or_the_saved_tokenizer(tmp_path, small_tokenizer):
    path = small_tokenizer.save(tmp_path)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    text = "The cat's hat, 12 345!\n  <|bos|> \U0001f600"
    for _ in range(15):
        for damage in BYTE_DAMAGES.values():
            path.write_bytes(damage(whole, rng))
            with in_time():
                refused += tokenizer_is_refused(tmp_path, path, small_tokenizer, text)
    assert refused > 400


def tokenizer_is_refused(folder, path, saved, text) -> bool:
    try:
        loaded = Tokenizer.load(folder)
    except ValueError as error:
        assert type(error) is ValueError and str(error).startswith(f"{path} is ")
        assert len(str(error)) < LONGEST_MESSAGE
        return True
    assert loaded.fingerprint == saved.fingerprint and loaded.encode(text) == saved.encode(text)
    return False


CONTENTS = {
    "no object": [],
    "no pattern": {"pattern": None},
    "a pattern of numbers": {"pattern": 3},
    "a pattern that is none": {"pattern": "(("},
    "a pattern that loses text": {"pattern": r"[a-z]+"},
    "tokens that are no list": {"token_bytes_base64": "YQ=="},
    "tokens that are an object": {"token_bytes_base64": {"YQ==": 0}},
    "a token that is a number": {"token_bytes_base64": [3]},
    "a token that is null": {"token_bytes_base64": [None]},
    "no tokens": {"token_bytes_base64": []},
    "special tokens missing": {"special_tokens": []},
    "special tokens that are a number": {"special_tokens": 9},
    "another fingerprint": {"fingerprint": "0" * 12},
    "a fingerprint that is a number": {"fingerprint": 0},
    "another format": {"format": "nanolab-tokenizer-2"},
    "a format that is a list": {"format": ["nanolab-tokenizer-1"]},
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_tokenizer_file_of_other_content_is_refused(what, tmp_path, small_tokenizer):
    path = small_tokenizer.save(tmp_path)
    change = CONTENTS[what]
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if isinstance(change, dict) else change))
    assert tokenizer_is_refused(tmp_path, path, small_tokenizer, "a")


def test_a_token_twice_or_a_missing_byte_is_noticed_also_without_a_fingerprint(tmp_path, small_tokenizer):
    path = small_tokenizer.save(tmp_path)
    content = json.loads(path.read_text())
    del content["fingerprint"]  # as in files of before there was one
    path.write_text(json.dumps(content))
    assert not tokenizer_is_refused(tmp_path, path, small_tokenizer, "a")
    tokens = content["token_bytes_base64"]
    for changed in ([*tokens, tokens[-1]], tokens[1:], [""] + tokens[1:], ["YQ==="] + tokens[1:]):
        path.write_text(json.dumps({**content, "token_bytes_base64": changed}))
        assert tokenizer_is_refused(tmp_path, path, small_tokenizer, "a")


def test_a_folder_in_place_of_the_tokenizer_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(FileNotFoundError, match="python -m nanolab tokenizer"):
        Tokenizer.load(tmp_path)
