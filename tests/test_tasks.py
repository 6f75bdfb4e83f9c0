"""Tasks: views, mixtures, prompts, grades, and where rows come from.

Rows are small files written to a temporary directory, or the built-in toy rows. The tests marked `real` read the real
data sets from the directory that NANOLAB_DATA names.
"""

import ast
import doctest
import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import urllib.error
from collections import Counter
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanolab.tasks as tasks
from nanolab import paths
from nanolab.tasks import (
    ARC,
    GSM8K,
    MMLU,
    CustomJSON,
    DataUnavailable,
    HumanEval,
    Identity,
    SimpleSpelling,
    SmolTalk,
    SpellingBee,
    Task,
    TaskMixture,
    describe,
    download,
    hub,
    load_rows,
    load_text,
    make_task,
    mid_mixture,
    resolve_data,
    sft_mixture,
    sft_validation,
    spelling,
    words,
)
from nanolab.tasks.answer import final_number
from nanolab.tasks.choice import choice_prompt
from nanolab.tasks.gsm8k import answer_parts

REAL = os.environ.get("NANOLAB_DATA", "toy")
real = pytest.mark.skipif(
    not Path(REAL, "gsm8k").is_dir(), reason="NANOLAB_DATA does not name a directory with the real data sets"
)

MMLU_ROWS = [
    {
        "question": f"Is {i} even?",
        "subject": ["maths", "logic"][i % 2],
        "choices": list("wxyz"),
        "answer": i % 4,
    }
    for i in range(8)
]
ARC_ROWS = [
    {
        "id": "a",
        "question": "Ice is",
        "choices": {"text": ["hot", "cold", "dry"], "label": list("ABC")},
        "answerKey": "B",
    },
    {
        "id": "b",
        "question": "Fire is",
        "choices": {"text": ["hot", "cold"], "label": ["1", "2"]},
        "answerKey": "1",
    },
]
GSM8K_ROWS = [
    {
        "question": f"How much is {i} and {i}?",
        "answer": f"It is {i}+{i}=<<{i}+{i}={i + i}>>{i + i}.\n#### {i + i}",
    }
    for i in range(12)
]
CHAT = [
    {"content": "Be brief.", "role": "system"},
    {"content": "Hi", "role": "user"},
    {"content": "Yo", "role": "assistant"},
]
HUMANEVAL_ROW = {
    "task_id": "T/0",
    "prompt": "def one():\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(f):\n    assert f() == 1\n",
    "entry_point": "one",
}
WORDS = ["".join(random.Random(i).choices("abcdefg", k=4)) for i in range(60)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NANOLAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("NANOLAB_DATA", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    """Every request fails at once, as on a machine without a network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that holds a few rows of every data set, in both file formats."""
    root = tmp_path_factory.mktemp("data")
    write_parquet(root / "mmlu/all/test.parquet", MMLU_ROWS)
    write_parquet(root / "mmlu/all/auxiliary_train.parquet", [{**row, "subject": ""} for row in MMLU_ROWS])
    for subset in ("ARC-Easy", "ARC-Challenge"):
        for split in ("train", "test"):
            write_jsonl(root / "ai2_arc" / subset / f"{split}.jsonl", ARC_ROWS)
    write_parquet(root / "gsm8k/main/train.parquet", GSM8K_ROWS)
    write_jsonl(root / "gsm8k/main/test.json", GSM8K_ROWS[:3])
    for split in ("train", "test"):
        write_jsonl(root / f"smol-smoltalk/{split}.jsonl", [{"messages": CHAT, "source": "s"}] * 4)
    write_jsonl(root / "openai_humaneval/test.jsonl", [HUMANEVAL_ROW])
    write_jsonl(
        root / "pretrain_text/train.jsonl",
        [{"text": f"Text {i}.", "source": "s", "title": "t"} for i in range(5)],
    )
    write_jsonl(root / "identity_conversations.jsonl", [CHAT[1:], CHAT])
    (root / "words_alpha.txt").write_bytes("\r\n".join(WORDS).encode())
    return root


class Numbers(Task):
    """A task whose row i says i."""

    name = "Numbers"

    def __init__(self, size, **view):
        super().__init__(**view)
        self.size = size

    def num_examples(self):
        return self.size

    def get_example(self, index):
        assert 0 <= index < self.size
        return {"messages": [{"role": "user", "content": str(index)}]}


def said(task):
    return [int(conversation["messages"][0]["content"]) for conversation in task]


# --- views -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 35), st.none() | st.integers(0, 20), st.integers(1, 7))
def test_a_view_shows_the_rows_that_a_list_slice_shows(size, start, length, step):
    stop = None if length is None else start + length
    task = Numbers(size, start=start, stop=stop, step=step)
    expected = list(range(size))[start:stop:step]
    assert said(task) == expected
    assert len(task) == len(expected)


def test_negative_row_numbers_count_from_the_end_and_rows_beyond_raise():
    task = Numbers(10, start=2, stop=8, step=2)  # rows 2, 4, 6
    assert task[-1]["messages"][0]["content"] == "6"
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"Numbers has 3 rows; row {index} does not exist"):
            task[index]


def test_a_slice_is_refused_with_a_hint():
    with pytest.raises(TypeError, match="start=, stop=, step="):
        Numbers(10)[2:4]


@pytest.mark.parametrize("view", [{"start": -1}, {"step": 0}, {"start": 5, "stop": 4}, {"stop": -1}])
def test_a_view_that_makes_no_sense_is_refused_in_words(view):
    with pytest.raises(ValueError, match="=-?[0-9]"):
        Numbers(10, **view)


def test_the_same_row_through_a_view_is_the_same_conversation(directory):
    whole = GSM8K("main", "train", data=directory)
    view = GSM8K("main", "train", data=directory, start=3, stop=9, step=2)
    assert view[1] == whole[5]
    assert view[1]["where"] == "GSM8K main/train row 5"


def test_a_task_without_a_grade_says_so():
    with pytest.raises(NotImplementedError, match="Numbers has no grade"):
        Numbers(1).evaluate({}, "reply")


# --- mixtures --------------------------------------------------------------------------------------------------------

SFT_LENGTHS = (2251, 1119, 7473, 10000, 996, 300, 300)


def test_the_sft_mixture_of_the_real_lengths_has_nanochats_order():
    mixture = TaskMixture([range(length) for length in SFT_LENGTHS])
    assert len(mixture) == 22_439
    assert mixture.index_map[:4] == [(2, 3979), (3, 483), (3, 3399), (1, 971)]


def test_a_mixture_holds_every_row_once_and_keeps_where_it_is_from():
    mixture = TaskMixture([Numbers(5), Numbers(7, start=2)])
    assert sorted(said(mixture)) == sorted([*range(5), *range(2, 7)])
    number, row = mixture.index_map[0]
    assert mixture[0] == mixture.tasks[number][row]
    assert mixture[0]["where"].startswith("Numbers row")


def test_a_mixture_takes_plain_lists_and_says_where_their_rows_are():
    mixture = TaskMixture([[{"messages": CHAT}]])
    assert mixture[0] == {"messages": CHAT, "where": "mixture row 0"}


def test_a_view_of_a_mixture_shows_rows_of_the_same_order():
    whole, view = (TaskMixture([Numbers(9), Numbers(9)], start=start) for start in (0, 4))
    assert said(view) == said(whole)[4:]


def test_the_order_of_a_mixture_does_not_disturb_the_global_generator():
    random.seed(1)
    expected = random.Random(1).random()
    TaskMixture([range(10)])
    assert random.random() == expected


def test_the_sft_mixture_lists_nanochats_tasks_in_its_order(directory):
    rows = describe(sft_mixture(data=directory))
    names = ["ARC-Easy", "ARC-Challenge", "GSM8K", "SmolTalk", "Identity", "SimpleSpelling", "SpellingBee"]
    assert [row["task"] for row in rows] == names
    assert [row["rows"] for row in rows] == [2, 2, 12, 4, 2, 300, 300]
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_the_mid_mixture_shows_identity_twice_and_much_spelling(directory):
    mixture = mid_mixture(data=directory)
    assert [len(task) for task in mixture.tasks] == [4, 8, 12, 2, 2, 200_000, 80_000]
    assert len(mixture) == 280_028


def test_the_toy_mixtures_are_not_drowned_in_spelling():
    mid, sft = describe(mid_mixture(data="toy")), describe(sft_mixture(data="toy"))
    assert [row["rows"] for row in mid[-2:]] == [6_000, 3_000]
    assert [row["rows"] for row in sft[-2:]] == [1_800, 600]
    assert sum(row["share"] for row in mid[-2:]) < 0.6
    assert sum(row["share"] for row in sft[-2:]) < 0.3


def test_the_sft_validation_rows_are_smoltalks_test_split(directory):
    assert sft_validation(data=directory)[0]["where"] == "SmolTalk test row 0"


# --- multiple choice -------------------------------------------------------------------------------------------------


def test_the_multiple_choice_prompt_is_nanochats_to_the_letter():
    assert choice_prompt("What is ice?", ["A", "B"], ["hot", "cold"]) == (
        "Multiple Choice question: What is ice?\n- hot=A\n- cold=B\n\n"
        "Respond only with the letter of the correct answer."
    )


def test_an_arc_row_is_answered_with_its_own_label(directory):
    by_question = {row["messages"][0]["content"][26:30]: row for row in ARC("ARC-Easy", "train", data=directory)}
    ice, fire = by_question["Ice "], by_question["Fire"]
    assert ice["letters"] == ["A", "B", "C"] and ice["messages"][1]["content"] == "B"
    assert fire["letters"] == ["1", "2"] and fire["messages"][1]["content"] == "1"
    assert "- hot=1\n- cold=2\n" in fire["messages"][0]["content"]


def test_a_choice_is_right_if_it_is_the_letter_and_nothing_else(directory):
    task = MMLU("all", "test", data=directory)
    right = task[0]["messages"][1]["content"]
    wrong = next(letter for letter in "ABCD" if letter != right)
    assert task.evaluate(task[0], right) and task.evaluate(task[0], f" {right}\n")
    assert not any(task.evaluate(task[0], reply) for reply in (wrong, "", right * 2, right.lower(), f"{right}."))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"answerKey": "E"}, "ARC-Easy train row 0: the answer 'E' is not among the letters A, B, C"),
     ({"choices": {"text": ["hot"], "label": ["A", "B"]}}, "ARC-Easy train row 0: 1 choices but 2 letters")],
)  # fmt: skip
def test_a_broken_arc_row_is_named(tmp_path, change, message):
    write_jsonl(tmp_path / "ai2_arc/ARC-Easy/train.jsonl", [{**ARC_ROWS[0], **change}])
    with pytest.raises(ValueError, match=message):
        ARC("ARC-Easy", "train", data=tmp_path)[0]


@pytest.mark.parametrize("answer", [-1, 4])
def test_a_broken_mmlu_row_is_named(tmp_path, answer):
    write_parquet(tmp_path / "mmlu/all/test.parquet", [{**MMLU_ROWS[0], "answer": answer}])
    with pytest.raises(ValueError, match=f"MMLU all/test row 0: answer {answer} is not the number"):
        MMLU("all", "test", data=tmp_path)[0]


def test_mmlu_can_be_narrowed_to_a_subject(directory):
    whole = [row for row in MMLU("all", "test", data=directory) if row["subject"] == "logic"]
    subject = list(MMLU("logic", "test", data=directory))
    assert len(subject) == 4
    assert [row["messages"] for row in subject] == [row["messages"] for row in whole]
    with pytest.raises(ValueError, match="choose one of: all, auxiliary_train, logic, maths"):
        MMLU("cooking", "test", data=directory)


def test_mmlu_auxiliary_train_has_one_split(directory):
    assert len(MMLU("auxiliary_train", "train", data=directory)) == 8
    with pytest.raises(ValueError, match="choose one of: train"):
        MMLU("auxiliary_train", "test", data=directory)
    with pytest.raises(ValueError, match="choose one of: test, validation, dev"):
        MMLU("all", "train", data=directory)


# --- GSM8K -----------------------------------------------------------------------------------------------------------

MARKS = {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}


def joined(parts):
    """Write parts back as GSM8K writes them."""
    return "".join(MARKS[part["type"]].format(part["text"]) for part in parts)


def test_a_calculation_becomes_python_and_its_output():
    assert answer_parts("She earned 12/60 = $<<12/60=0.2>>0.2 per minute.\n#### 10") == [
        {"type": "text", "text": "She earned 12/60 = $"},
        {"type": "python", "text": "12/60"},
        {"type": "python_output", "text": "0.2"},
        {"type": "text", "text": "0.2 per minute.\n#### 10"},
    ]


def test_calculations_at_the_ends_and_side_by_side_leave_no_empty_text():
    types = [part["type"] for part in answer_parts("<<1+1=2>><<2+2=4>>")]
    assert types == ["python", "python_output", "python", "python_output"]


@pytest.mark.parametrize("text", ["<<5+5>>10", "<<=5>>", "a << b", "<<>>", "x <<3+4=>> y"])
def test_a_mark_that_calculates_nothing_stays_text(text):
    assert answer_parts(text) == [{"type": "text", "text": text}]


def test_the_last_equals_sign_parts_expression_and_result():
    assert [part["text"] for part in answer_parts("<<a=2+3=5>>")] == ["a=2+3", "5"]


@given(
    st.text(alphabet="<>=1+ #\na", max_size=40) | st.lists(st.sampled_from(["<<", ">>", "=", "1", "+"])).map("".join)
)
def test_joining_the_parts_gives_the_answer_back(answer):
    assert joined(answer_parts(answer)) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 72", 72), ("#### 1,200", 1200), ("#### -3", -3), ("#### 18.", 18), ("#### 2.50", "2.5"),
     ("a\n#### 5\n#### 6", 5), ("#### 5 apples", 5), ("5", None), ("####5", None), ("#### five", None),
     ("#### .", None), ("#### 1.2.3", None), ("#### -", None), ("", None)],
)  # fmt: skip
def test_the_final_number_is_the_one_after_the_first_mark(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_gsm8k_grades_by_the_value_of_the_final_number(directory):
    task = GSM8K("main", "train", data=directory)
    right = int(final_number(joined(task[0]["messages"][1]["content"])))
    for reply in (f"So.\n#### {right}", f"#### {right}.0", f"#### {right}."):
        assert task.evaluate(task[0], reply)
    for reply in (f"#### {right + 1}", f"{right}", "", "#### "):
        assert not task.evaluate(task[0], reply)


def test_a_reference_without_a_number_is_an_error_and_not_a_point_for_everyone(tmp_path):
    write_jsonl(tmp_path / "gsm8k/main/test.jsonl", [{"question": "Why?", "answer": "Because."}])
    task = GSM8K("main", "test", data=tmp_path)
    with pytest.raises(ValueError, match="GSM8K main/test row 0: its own answer has no number"):
        task.evaluate(task[0], "no number here")


# --- the other tasks -------------------------------------------------------------------------------------------------


def test_smoltalk_keeps_the_messages_and_drops_the_rest(directory):
    conversation = SmolTalk("train", data=directory)[0]
    assert conversation == {"messages": CHAT, "where": "SmolTalk train row 0"}
    assert list(conversation["messages"][0]) == ["role", "content"]


def test_a_humaneval_reply_is_the_whole_program_which_passes_its_own_test(directory):
    conversation = HumanEval(data=directory)[0]
    names = {}
    exec(conversation["messages"][1]["content"] + conversation["test"], names)  # our own row, written above
    names["check"](names[conversation["entry_point"]])
    assert conversation["messages"][0]["content"] == "def one():\n"
    assert conversation["messages"][1]["content"] == "def one():\n\n    return 1\n"


PROGRAM = "def one():\n    return 1\n"


@pytest.mark.parametrize(
    "reply",
    [PROGRAM, f"```python\n{PROGRAM}```", f"Sure!\n\n```\n{PROGRAM}\n```\nThis returns 1.", f"```python\n{PROGRAM}",
     f"```python\nx = 1\n```\nor rather\n```python\n{PROGRAM}```", f"  ```py\n{PROGRAM}  ```"]
)  # fmt: skip
def test_a_humaneval_program_is_found_in_the_reply_and_passes(directory, reply):
    task = HumanEval(data=directory)
    assert task.evaluate(task[0], reply) is True


@pytest.mark.parametrize(
    "reply, reason, detail",
    [("def one(): return 2", "exception", "AssertionError at: assert f() == 1"),
     ("def two(): return 1", "exception", "NameError: the program does not define 'one'"),
     ("I do not know.", "exception", "SyntaxError: "), ("", "exception", "NameError: "),
     ("def one(): raise SystemExit(0)", "exit", "SystemExit: 0"),
     ("import os\ndef one():\n    os.remove('/nowhere')\n    return 1", "forbidden", "os.remove ('/nowhere',)")]
)  # fmt: skip
def test_a_wrong_humaneval_reply_says_why(directory, reply, reason, detail):
    task = HumanEval(data=directory)
    outcome = task.verdict(task[0], reply)
    assert (outcome.passed, outcome.reason) == (False, reason)
    assert outcome.detail.startswith(detail)
    assert task.evaluate(task[0], reply) is False


def test_a_humaneval_reply_may_use_the_prompts_imports_and_cannot_replace_the_tests_helpers():
    prompt = "import math\nfrom typing import List\n\ndef helper(x):\n    return 2 * x\n\n"
    prompt += "def f(x: List) -> float:\n    'The root of the first.'\n"
    test = "def check(candidate):\n    assert candidate([4]) == helper(1) == f([4])\n"
    row = {"messages": [{"role": "user", "content": prompt}], "entry_point": "f", "test": test}
    task = HumanEval(data="toy")
    assert task.evaluate(row, "def f(x: List) -> float:\n    return math.sqrt(x[0])\n")
    assert not task.evaluate(row, "def helper(x): return 9\ndef f(x): return 9")


def test_all_built_in_solutions_pass_and_all_bare_heads_fail():
    task = HumanEval(data="toy")
    rows = list(task)
    assert all(outcome.passed for outcome in task.verdicts(rows, [row["messages"][1]["content"] for row in rows]))
    heads = [f"{row['messages'][0]['content']}    pass\n" for row in rows]
    assert {outcome.reason for outcome in task.verdicts(rows, heads)} == {"exception"}


def test_a_file_of_conversations_keeps_its_order_and_names_its_lines(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        f"{json.dumps(CHAT)}\n\n  \n{json.dumps({'messages': CHAT[1:], 'note': 1})}\n", encoding="utf-8-sig"
    )
    assert list(CustomJSON(path)) == [
        {"messages": CHAT, "where": "CustomJSON mine.jsonl line 1"},
        {"messages": CHAT[1:], "where": "CustomJSON mine.jsonl line 4"},
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON"),
        (b'["\xff"]', "not JSON"),
        (b"3", "not a list of messages .found int"),
        (b'{"text": "x"}', "not a list of messages .found NoneType"),
        (b"[]", "it is empty"),
        (b'["hi"]', "message 0 is not an object with role and content"),
        (
            b'[{"role": "human", "content": "x"}]',
            "message 0 has the role 'human', not one of system, user, assistant",
        ),
        (
            b'[{"role": "user", "content": "x"}, {"role": "user", "content": 3}]',
            "the content of message 1 is neither",
        ),
        (b'[{"role": "user", "content": [{"type": "image"}]}]', "the content of message 0 is neither"),
    ],
)
def test_a_bad_line_is_found_at_once_and_named(tmp_path, line, fault):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(CHAT).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"mine.jsonl line 3: .*{fault}"):
        CustomJSON(path)


def test_a_missing_file_of_conversations_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl does not exist"):
        CustomJSON(tmp_path / "nowhere.jsonl")


def test_identity_comes_from_the_directory_or_the_toy_rows(directory):
    assert Identity(data=directory)[1] == {
        "messages": CHAT,
        "where": "Identity identity_conversations.jsonl line 2",
    }
    toy = Identity(data="toy", start=3)
    assert toy[0]["where"] == "Identity toy line 4" and len(toy) > 100


def test_base_text_is_a_dataset_with_a_text_column(directory):
    rows = load_text("train", data=directory)
    assert sorted(rows["text"]) == [f"Text {i}." for i in range(5)]
    with pytest.raises(ValueError, match="text split 'test' does not exist; choose one of: train, validation"):
        load_text("test", data=directory)


# --- spelling --------------------------------------------------------------------------------------------------------


def test_spelling_is_word_colon_letters(directory):
    for conversation in SimpleSpelling(50, "train", data=directory):
        user, assistant = (message["content"] for message in conversation["messages"])
        word = user.removeprefix("Spell the word: ")
        assert assistant == word + ":" + ",".join(word)


def test_train_and_test_words_are_disjoint_and_together_all(directory):
    train, test = (words.load_words(split, directory) for split in ("train", "test"))
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(set(WORDS))
    assert len(test) == len(set(WORDS)) // 10


def test_no_spelled_word_of_the_test_is_spelled_in_training(directory):
    spelled = {
        split: {row["messages"][1]["content"] for row in SimpleSpelling(300, split, data=directory)}
        for split in ("train", "test")
    }
    assert len(spelled["train"]) > 20 and spelled["test"]
    assert not spelled["train"] & spelled["test"]


def test_too_few_words_are_an_error(tmp_path):
    (tmp_path / "words_alpha.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="2 words are too few"):
        SimpleSpelling(5, data=tmp_path)


def test_the_count_is_said_by_hand_by_python_and_at_the_end():
    parts = spelling.count_parts("apple", "p")
    assert [part["type"] for part in parts] == ["text", "python", "python_output", "text"]
    assert parts[0]["text"] == (
        "apple:a,p,p,l,e\n\nCount p:\n1:a\n2:p hit! count=1\n3:p hit! count=2\n4:l\n5:e\n\nBy hand: 2. With Python: "
    )
    assert [part["text"] for part in parts[1:]] == ["'apple'.count('p')", "2", "\n\n#### 2"]


def test_every_spelling_bee_answer_is_what_its_python_gives(directory):
    task = SpellingBee(300, "train", data=directory)
    zero = 0
    for conversation in task:
        parts = conversation["messages"][1]["content"]
        word, letter = (ast.literal_eval(text) for text in parts[1]["text"].rstrip(")").split(".count("))
        assert parts[2]["text"] == str(word.count(letter))
        assert word in conversation["messages"][0]["content"]
        assert task.evaluate(conversation, parts[-1]["text"])
        assert not task.evaluate(conversation, f"#### {word.count(letter) + 1}")
        zero += word.count(letter) == 0
    assert 5 <= zero <= 60  # about one row in ten asks for a letter at random


def test_the_questions_vary(directory):
    asked = [row["messages"][0]["content"] for row in SpellingBee(400, "train", data=directory)]
    assert len(set(spelling.PHRASINGS)) >= 20
    assert 100 < sum(question.endswith("?") for question in asked) < 300
    assert 60 < sum(question == question.lower() for question in asked) < 260
    assert any('"' in question for question in asked) and any("'" in question for question in asked)


def test_a_spelling_row_depends_on_its_number_alone(directory):
    small, large = (SpellingBee(size, "train", data=directory) for size in (20, 2000))
    assert list(small) == [large[i] for i in range(20)]
    assert small[3] == SpellingBee(5, "train", data=directory, start=3)[0]


def test_spelling_rows_are_the_same_in_another_process(directory):
    program = "import sys; from nanolab.tasks import SpellingBee; print(SpellingBee(9, data=sys.argv[1])[7])"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(SpellingBee(9, data=directory)[7])


def test_a_spelling_reply_is_judged_letter_for_letter(directory):
    task = SimpleSpelling(3, "test", data=directory)
    right = task[0]["messages"][1]["content"]
    assert task.evaluate(task[0], f" {right}\n")
    assert not task.evaluate(task[0], right[:-1]) and not task.evaluate(task[0], right.replace(",", ", "))


# --- sources ---------------------------------------------------------------------------------------------------------


def test_the_source_is_the_argument_then_the_environment_then_toy(directory, monkeypatch):
    assert resolve_data() == "toy"
    monkeypatch.setenv("NANOLAB_DATA", str(directory))
    assert resolve_data() == directory
    assert resolve_data("hub") == "hub"
    monkeypatch.setenv("NANOLAB_DATA", "hub")
    assert resolve_data() == "hub"
    assert resolve_data(str(directory)) == directory


def test_a_directory_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither 'hub', 'toy' nor an existing directory"):
        resolve_data(tmp_path / "nowhere")


def test_a_missing_split_lists_what_was_tried_and_what_exists(directory):
    with pytest.raises(FileNotFoundError) as caught:
        load_rows("gsm8k", "socratic", "test", directory)
    for ending in (".parquet", ".jsonl", ".json"):
        assert str(directory / f"gsm8k/socratic/test{ending}") in str(caught.value)
    assert "\n  gsm8k/main/train.parquet" in str(caught.value)


def test_missing_words_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="words_alpha.txt does not exist; it should hold one word a line"):
        SpellingBee(5, data=tmp_path)


def test_rows_are_shuffled_with_seed_42_by_datasets(directory):
    expected = datasets.Dataset.from_list(GSM8K_ROWS).shuffle(seed=42)["question"]
    assert load_rows("gsm8k", "main", "train", directory)["question"] == expected
    assert list(expected) != [row["question"] for row in GSM8K_ROWS]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_changed_file_gives_the_new_rows_and_an_old_one_is_not_copied_again(tmp_path, write):
    path = tmp_path / f"gsm8k/main/test.{write.__name__.removeprefix('write_')}"
    for rows in (GSM8K_ROWS[:2], GSM8K_ROWS[3:5]):
        write(path, rows)
        loaded = [load_rows("gsm8k", "main", "test", tmp_path) for _ in range(2)]
        assert sorted(loaded[0]["question"]) == sorted(row["question"] for row in rows)
        assert loaded[0].cache_files == loaded[1].cache_files


def test_another_directory_with_the_same_times_gives_its_own_rows(tmp_path):
    for name, rows in (("a", GSM8K_ROWS[:2]), ("b", GSM8K_ROWS[3:5])):
        path = write_jsonl(tmp_path / name / "gsm8k/main/test.jsonl", rows)
        os.utime(path, (1_000_000, 1_000_000))
    asked = [sorted(load_rows("gsm8k", "main", "test", tmp_path / name)["question"]) for name in "ab"]
    assert asked[0] != asked[1]


def test_built_rows_lie_in_the_cache_of_the_lab(directory):
    files = load_rows("gsm8k", "main", "train", directory).cache_files
    assert files and all(Path(file["filename"]).is_relative_to(paths.cache_dir() / "hub") for file in files)


def test_the_cache_is_the_environments_then_the_clones_then_the_current_folders(tmp_path, monkeypatch):
    assert paths.cache_dir() == Path(os.environ["NANOLAB_CACHE"])
    monkeypatch.delenv("NANOLAB_CACHE")
    monkeypatch.setattr(paths, "CLONE", tmp_path)
    assert paths.cache_dir() == Path("data_cache")
    (tmp_path / "data_cache").mkdir()
    assert paths.cache_dir() == tmp_path / "data_cache"


@pytest.mark.parametrize(
    "make",
    [lambda: SmolTalk("train", data="hub"), lambda: SpellingBee(data="hub"), lambda: Identity(data="hub")],
)
def test_an_unreachable_hub_is_one_clear_error_that_names_the_other_sources(no_network, make):
    with pytest.raises(DataUnavailable, match='data="toy".*data="<a directory>"') as caught:
        make()
    assert isinstance(caught.value, RuntimeError)
    assert not datasets.config.HF_HUB_OFFLINE  # the setting of the process is as it was


def test_offline_mode_asks_nobody(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("asked the network"))
    with pytest.raises(DataUnavailable, match="openai/gsm8k"):
        GSM8K("main", "test", data="hub")
    with pytest.raises(DataUnavailable, match="HF_HUB_OFFLINE is set"):
        SimpleSpelling(data="hub")


def test_what_is_asked_of_the_hub(monkeypatch):
    asked = []

    def record(**arguments):
        asked.append(arguments)
        return datasets.Dataset.from_list([{"text": "x", "messages": CHAT, **MMLU_ROWS[0]}])

    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", record)
    for row in (
        ("mmlu", "all", "test"),
        ("smol-smoltalk", None, "train"),
        ("pretrain_text", None, "validation"),
    ):
        load_rows(*row, data="hub")
    cache = str(paths.cache_dir() / "hub")
    shard = {"data_files": "shard_01822.parquet", "verification_mode": "no_checks"}
    assert asked == [
        {"path": "cais/mmlu", "name": "all", "split": "test", "cache_dir": cache},
        {"path": "HuggingFaceTB/smol-smoltalk", "name": None, "split": "train", "cache_dir": cache},
        {
            "path": "karpathy/fineweb-edu-100b-shuffle",
            "name": None,
            "split": "train",
            "cache_dir": cache,
            **shard,
        },
    ]


def test_the_nested_rows_of_mmlus_auxiliary_train_are_lifted_in_their_order():
    nested = datasets.Dataset.from_list([{"train": row} for row in MMLU_ROWS])
    lifted = hub.unnest(nested)
    assert sorted(lifted.column_names) == ["answer", "choices", "question", "subject"]
    assert list(lifted) == MMLU_ROWS
    expected = datasets.Dataset.from_list(MMLU_ROWS).shuffle(seed=42)["question"]
    assert lifted.shuffle(seed=42)["question"] == expected
    flat = datasets.Dataset.from_list(MMLU_ROWS)
    assert hub.unnest(flat) is flat


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_not_asked_for_again(tmp_path):
    source, path = tmp_path / "source.txt", tmp_path / "deep/copy.txt"
    source.write_bytes(b"one")
    assert download.download(source.as_uri(), path).read_bytes() == b"one"
    source.write_bytes(b"two")
    assert download.download(source.as_uri(), path).read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_download_is_not_kept(tmp_path):
    source, path = tmp_path / "words.txt", tmp_path / "kept/words.txt"
    source.write_text("not the words we know")
    with pytest.raises(DataUnavailable, match="checksum .* the file was not kept"):
        download.download(source.as_uri(), path, words.check_words)
    assert not path.exists()


def test_a_failed_write_leaves_no_file_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        download.write_whole(tmp_path / "file", b"bytes")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_of_words_ignores_line_ends_and_nothing_else(monkeypatch):
    monkeypatch.setattr(words, "WORDS_SHA256", hashlib.sha256(b"a\nb\nc").hexdigest())
    for content in (b"a\nb\nc", b"a\r\nb\r\nc", b"a\nb\nc\n"):
        words.check_words(content)
    with pytest.raises(DataUnavailable):
        words.check_words(b"a\nc\nb")


# --- tasks by name, and the toy rows ---------------------------------------------------------------------------------

EVAL_TYPES = {
    "ARC-Easy": "categorical",
    "ARC-Challenge": "categorical",
    "MMLU": "categorical",
    "GSM8K": "generative",
    "HumanEval": "generative",
    "SpellingBee": "generative",
    "SimpleSpelling": "generative",
    "SmolTalk": None,
}


@pytest.mark.parametrize("name", EVAL_TYPES)
def test_a_task_made_by_name_has_that_name_its_kind_and_toy_rows(name):
    task = make_task(name, data="toy", stop=5)
    assert (task.name, task.eval_type, len(task)) == (name, EVAL_TYPES[name], 5)
    for conversation in task:
        assert conversation["where"].startswith(f"{name} ")
        assert conversation["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize("name", [name for name, kind in EVAL_TYPES.items() if kind])
def test_the_toy_rows_own_answers_are_right_and_an_empty_reply_is_wrong(name):
    task = make_task(name, data="toy", stop=30)
    for conversation in task:
        content = conversation["messages"][-1]["content"]
        assert task.evaluate(conversation, content if isinstance(content, str) else joined(content))
        assert not task.evaluate(conversation, "")


def test_an_unknown_task_lists_the_names():
    with pytest.raises(ValueError, match="task 'ARC' does not exist; choose one of: ARC-Easy, ARC-Challenge, MMLU"):
        make_task("ARC")


@pytest.mark.parametrize(
    "make", [lambda: ARC("ARC-Hard", "test"), lambda: ARC("ARC-Easy", "dev"), lambda: GSM8K("main", "dev"),
             lambda: GSM8K("other", "test"), lambda: SmolTalk("dev"), lambda: HumanEval("train"),
             lambda: SpellingBee(5, "dev")]
)  # fmt: skip
def test_a_subset_or_split_that_does_not_exist_lists_those_that_do(make):
    with pytest.raises(ValueError, match="does not exist; choose one of: "):
        make()


def test_the_built_in_default_needs_no_network(no_network):
    assert len(sft_mixture()) > 3000


MODULES = ("answer", "base", "choice", "customjson", "gsm8k", "humaneval", "mixtures", "mmlu", "arc", "smoltalk",
           "spelling", "text", "words", "schema", "jsonfile")  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "mine.jsonl", [CHAT])
    module = importlib.import_module(f"nanolab.tasks.{name}")
    result = doctest.testmod(module, extraglobs={key: getattr(tasks, key) for key in tasks.__all__})
    assert result.attempted and not result.failed


# --- real rows -------------------------------------------------------------------------------------------------------


@real
def test_the_first_row_of_the_real_sft_mixture_is_nanochats():
    parts = [range(length) for length in SFT_LENGTHS]
    parts[2] = GSM8K("main", "train", data=REAL)
    assert len(parts[2]) == SFT_LENGTHS[2]
    first = TaskMixture(parts)[0]
    assert first["where"] == "GSM8K main/train row 3979"
    question = first["messages"][0]["content"]
    assert question.startswith("A woman is trying to decide whether it will be quicker")


@real
def test_real_tasks_have_the_lengths_that_the_order_rests_on():
    lengths = [
        len(ARC("ARC-Easy", "train", data=REAL)),
        len(ARC("ARC-Challenge", "train", data=REAL)),
        len(GSM8K("main", "train", data=REAL)),
        len(Identity(data=REAL)),
    ]
    assert lengths == [2251, 1119, 7473, 996]


@real
@pytest.mark.parametrize("split", ["train", "test"])
def test_real_gsm8k_answers_split_and_join_and_grade_themselves(split):
    for row in load_rows("gsm8k", "main", split, REAL):
        parts = answer_parts(row["answer"])
        assert joined(parts) == row["answer"]
        assert not any("<<" in part["text"] or ">>" in part["text"] for part in parts)
        assert final_number(row["answer"]) is not None


@real
@pytest.mark.parametrize("subset", ["ARC-Easy", "ARC-Challenge"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_real_arc_row_is_a_conversation_and_some_are_not_a_to_d(subset, split):
    letters = Counter("".join(row["letters"]) for row in ARC(subset, split, data=REAL))
    assert letters["ABCD"] > 250 and letters["1234"] > 3
    assert set(map(len, letters)) == {3, 4, 5}


@real
def test_every_real_row_of_the_other_tasks_is_a_conversation():
    for task in (
        MMLU("all", "test", data=REAL),
        HumanEval(data=REAL),
        SmolTalk("test", data=REAL),
        Identity(data=REAL),
    ):
        for conversation in task:
            assert conversation["messages"] and conversation["where"]


@real
@pytest.mark.slow
def test_all_164_real_solutions_pass_and_the_bare_prompts_fail():
    task = HumanEval(data=REAL)
    rows = list(task)
    outcomes = task.verdicts(rows, [row["messages"][1]["content"] for row in rows])
    assert [(row["entry_point"], o) for row, o in zip(rows, outcomes, strict=True) if not o.passed] == []
    assert len(outcomes) == 164
    heads = [f"{row['messages'][0]['content']}\n    pass\n" for row in rows]
    assert not any(outcome.passed for outcome in task.verdicts(rows, heads))


@real
def test_the_real_words_are_those_of_the_checksum():
    words.check_words(Path(REAL, "words_alpha.txt").read_bytes())
    train = words.load_words("train", REAL)
    assert len(train) + len(words.load_words("test", REAL)) == 370_099
