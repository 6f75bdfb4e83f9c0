"""The built-in rows: right, well-formed, reproducible, and with test questions that training never saw."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

from nanolab.tasks.toy import ROWS, toy_rows, toy_words
from nanolab.tasks.toy.facts import RELATIONS, questions, too_close, true_answers
from nanolab.tasks.toy.questions import foreign_objects
from nanolab.tasks.toy.relation import fill, plural, with_article
from nanolab.tasks.toy.word_problems import PROBLEMS, calculate

COUNTS = {
    ("smol-smoltalk", None, "train"): 2500,
    ("smol-smoltalk", None, "test"): 250,
    ("mmlu", "all", "auxiliary_train"): 3000,
    ("mmlu", "all", "test"): 400,
    ("mmlu", "all", "validation"): 100,
    ("mmlu", "all", "dev"): 40,
    ("ai2_arc", "ARC-Easy", "train"): 1200,
    ("ai2_arc", "ARC-Easy", "validation"): 150,
    ("ai2_arc", "ARC-Easy", "test"): 400,
    ("ai2_arc", "ARC-Challenge", "train"): 500,
    ("ai2_arc", "ARC-Challenge", "validation"): 60,
    ("ai2_arc", "ARC-Challenge", "test"): 200,
    ("gsm8k", "main", "train"): 1500,
    ("gsm8k", "main", "test"): 200,
    ("identity_conversations", None, "train"): 300,
}
COLUMNS = {
    "smol-smoltalk": {"messages", "source"},
    "mmlu": {"question", "subject", "choices", "answer"},
    "ai2_arc": {"id", "question", "choices", "answerKey"},
    "gsm8k": {"question", "answer"},
    "openai_humaneval": {"task_id", "prompt", "canonical_solution", "test", "entry_point"},
    "identity_conversations": {"messages"},
    "pretrain_text": {"text", "source", "title"},
}
TRAINING = [
    ("mmlu", "all", "auxiliary_train"),
    ("ai2_arc", "ARC-Easy", "train"),
    ("ai2_arc", "ARC-Challenge", "train"),
]
CHOICE_SETS = [key for key in ROWS if key[0] in ("mmlu", "ai2_arc")]
HELD_OUT = [key for key in CHOICE_SETS if key not in TRAINING]


def choices_and_place(row):
    """The choices of an MMLU or ARC row and the place of the right one."""
    if "subject" in row:
        return row["choices"], row["answer"]
    return row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])


def strings(value):
    """Every string inside a row."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("key", ROWS, ids=str)
def test_every_row_has_exactly_the_columns_of_the_hub_set(key):
    assert all(set(row) == COLUMNS[key[0]] for row in toy_rows(*key))


def test_every_split_has_its_number_of_rows():
    assert {key: len(toy_rows(*key)) for key in COUNTS} == COUNTS
    assert len(toy_rows("openai_humaneval", None, "test")) >= 40


@pytest.mark.parametrize("key", ROWS, ids=str)
def test_all_text_is_ascii_and_nothing_is_left_unfilled(key):
    for text in (text for row in toy_rows(*key) for text in strings(row)):
        assert text.isascii()
        assert not re.search(r"\{\w*\}", text)


def test_an_unknown_name_subset_or_split_is_answered_with_what_exists():
    for key in (("mmlu", "all", "train"), ("gsm8k", None, "train"), ("squad", None, "train")):
        with pytest.raises(ValueError, match="auxiliary_train"):
            toy_rows(*key)


def test_rows_are_fresh_so_that_changing_one_changes_no_other():
    toy_rows("mmlu", "all", "dev")[0]["choices"].clear()
    assert len(toy_rows("mmlu", "all", "dev")[0]["choices"]) == 4


def test_another_interpreter_with_another_hash_seed_makes_the_same_rows():
    expression = "repr([[toy_rows(*key) for key in ROWS], toy_words()])"
    here = hashlib.sha256(eval(expression).encode()).hexdigest()
    program = f"""import hashlib; from nanolab.tasks.toy import ROWS, toy_rows, toy_words
print(hashlib.sha256({expression}.encode()).hexdigest())"""
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == here


# Facts


def test_there_are_hundreds_of_facts_and_none_stands_twice():
    facts = [(relation.name, s, o) for relation in RELATIONS for s, o in relation.facts]
    assert len(facts) == len(set(facts)) >= 300
    assert all(" ".join(word.split()) == word for fact in facts for word in fact)
    assert len({(name, s) for name, s, _ in facts}) == len(facts)  # one answer a subject
    assert len({relation.name for relation in RELATIONS}) == len(RELATIONS)


def test_a_fact_is_put_into_words_with_the_right_articles_and_plurals():
    assert fill("{a_s} is {a_o}.", "owl", "bird") == "An owl is a bird."
    assert fill("{p_s} {o}.", "wolf", "howl") == "Wolves howl."
    assert [with_article(w) for w in ("hour", "unicycle", "egg", "octagon")] == [
        "an hour",
        "a unicycle",
        "an egg",
        "an octagon",
    ]
    assert [plural(w) for w in ("fox", "bench", "goose", "key", "fly")] == [
        "foxes",
        "benches",
        "geese",
        "keys",
        "flies",
    ]


def test_no_wrong_choice_is_also_right_or_too_close_to_tell():
    for question in questions(False) + questions(True):
        assert not set(question.right) & set(question.wrong)
        for answer in question.wrong:
            s, o = question.fact(answer)
            assert o not in true_answers(question.relation, s)
        if not question.reverse:
            close = set().union(*(too_close(question.relation, answer) for answer in question.right))
            assert not close & set(question.wrong)


def test_choices_from_elsewhere_are_never_of_the_answers_kind():
    colors = {o for relation in RELATIONS if relation.kind == "color" for _, o in relation.facts}
    assert not colors & (set(foreign_objects("color")) - {"orange"})
    assert "Paris" in foreign_objects("color") and "Paris" not in foreign_objects("city")


def test_every_fact_is_asked_for_in_training_in_some_phrasing():
    asked = {(q.relation.name, q.asked) for q in questions(False) if not q.reverse}
    assert asked == {(relation.name, s) for relation in RELATIONS for s, _ in relation.facts}


# Multiple choice


@pytest.mark.parametrize("key", CHOICE_SETS, ids=str)
def test_choices_differ_and_the_answer_is_a_true_one(key):
    known = {q.text: set(q.right) for q in questions(False) + questions(True)}
    for row in toy_rows(*key):
        choices, place = choices_and_place(row)
        assert len(set(choices)) == len(choices) and 0 <= place < len(choices)
        assert known[row["question"]] & set(choices) == {choices[place]}


def test_no_question_of_a_test_is_asked_in_training():
    trained = {row["question"] for key in TRAINING for row in toy_rows(*key)}
    tested = {row["question"] for key in HELD_OUT for row in toy_rows(*key)}
    assert not trained & tested


def test_no_chat_and_no_prose_asks_a_question_of_a_test():
    tested = {row["question"] for key in HELD_OUT for row in toy_rows(*key)}
    for row in toy_rows("smol-smoltalk", None, "train"):
        assert not any(question in row["messages"][-2]["content"].splitlines() for question in tested)
    sentences = {
        sentence + "?"
        for row in toy_rows("pretrain_text", None, "train")
        for sentence in re.findall(r"([A-Z][^.?!]*)\?", row["text"])
    }
    assert not tested & sentences


def test_no_row_stands_in_two_splits_of_a_set():
    for name in (("mmlu", "all"), ("ai2_arc", "ARC-Easy"), ("ai2_arc", "ARC-Challenge")):
        rows = [
            (row["question"], frozenset(choices_and_place(row)[0]))
            for key in CHOICE_SETS
            if key[:2] == name
            for row in toy_rows(*key)
        ]
        assert len(rows) == len(set(rows))


@pytest.mark.parametrize("key", CHOICE_SETS, ids=str)
def test_the_right_answer_is_at_each_of_four_places_about_equally_often(key):
    rows = toy_rows(*key)
    places = Counter(choices_and_place(row)[1] for row in rows)
    assert all(0.20 * len(rows) <= places[place] <= 0.30 * len(rows) for place in range(4))


def test_mmlu_has_subjects_except_in_auxiliary_train_as_on_the_hub():
    assert {row["subject"] for row in toy_rows("mmlu", "all", "auxiliary_train")} == {""}
    names = {relation.name for relation in RELATIONS}
    assert {row["subject"] for row in toy_rows("mmlu", "all", "test")} <= names
    assert all(len(row["choices"]) == 4 for key in CHOICE_SETS if key[0] == "mmlu" for row in toy_rows(*key))


def test_a_few_arc_rows_have_digits_or_three_or_five_choices():
    rows = [row for key in CHOICE_SETS if key[0] == "ai2_arc" for row in toy_rows(*key)]
    labels = Counter("".join(row["choices"]["label"]) for row in rows)
    assert {"ABCD", "ABC", "ABCDE", "1234"} <= set(labels)
    assert 0.01 < 1 - labels["ABCD"] / len(rows) < 0.08
    assert len({row["id"] for row in rows}) == len(rows)


def test_easy_rows_mix_kinds_and_challenge_rows_do_not():
    def own_kind(row, relations):
        objects = {o for r in relations for _, o in r.facts} | {s for r in relations for s, _ in r.facts}
        return all(choice in objects for choice in choices_and_place(row)[0])

    colors = [relation for relation in RELATIONS if relation.name == "colors"]
    asks_color = [q.text for q in questions(True) if q.relation.name == "colors" and not q.reverse]
    easy = [r for r in toy_rows("ai2_arc", "ARC-Easy", "test") if r["question"] in asks_color]
    hard = [r for r in toy_rows("ai2_arc", "ARC-Challenge", "test") if r["question"] in asks_color]
    assert hard and all(own_kind(row, colors) for row in hard)
    assert easy and not any(own_kind(row, colors) for row in easy)


# Word problems


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_annotation_is_exactly_right_and_the_last_is_the_answer(split):
    for row in toy_rows("gsm8k", "main", split):
        *lines, last = row["answer"].split("\n")
        for line in lines:
            step, inside, result, again = re.search(r"(\S+)=<<(.+)=(.+)>>([\d.]+)", line).groups()
            assert step.lstrip("$") == inside and result == again
            assert calculate(inside) == Fraction(result) and 0 < Fraction(result) < 1000
        assert last == f"#### {result}"


def test_the_numbers_of_each_step_stand_in_the_question_or_in_a_step_before():
    common = {"2", "4", "5", "7", "1.5", "2.5"}  # half, legs, days
    for row in toy_rows("gsm8k", "main", "train"):
        known = set(re.findall(r"\d+(?:\.\d+)?", row["question"])) | common
        for inside, result in re.findall(r"<<(.+)=(.+)>>", row["answer"]):
            assert set(re.findall(r"[\d.]+", inside)) <= known
            known.add(result)


def test_word_problems_are_many_and_none_stands_twice():
    assert len(PROBLEMS) >= 25
    rows = [row["question"] for split in ("train", "test") for row in toy_rows("gsm8k", "main", split)]
    assert len(rows) == len(set(rows))


def test_calculate_is_exact_and_takes_nothing_but_sums():
    assert calculate("3*1.5") == Fraction(9, 2)
    assert calculate("(1+2)/3") == 1
    for bad in ("__import__('os')", "2**9", "a+1"):
        with pytest.raises(ValueError, match="numbers"):
            calculate(bad)


# Chats


@pytest.mark.parametrize("name", ["smol-smoltalk", "identity_conversations"])
def test_messages_alternate_between_user_and_assistant_after_a_system_message(name):
    for row in toy_rows(name, None, "train"):
        roles = [message["role"] for message in row["messages"]]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 2 <= len(roles) <= 6
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])


def test_no_chat_of_the_test_is_in_training():
    train, test = ({json.dumps(row) for row in toy_rows("smol-smoltalk", None, s)} for s in ("train", "test"))
    assert not train & test


def test_about_a_tenth_of_the_chats_have_a_system_message_that_the_reply_follows():
    chats = [row["messages"] for row in toy_rows("smol-smoltalk", None, "train")]
    styled = [messages for messages in chats if messages[0]["role"] == "system"]
    assert 0.06 < len(styled) / len(chats) < 0.16
    for system, _, reply in styled:
        if "capital letters" in system["content"]:
            assert reply["content"].isupper()
        if "pirate" in system["content"]:
            assert reply["content"].startswith("Arr! ")
        if "word over" in system["content"]:
            assert reply["content"].endswith(" Over.")


def test_the_model_speaks_of_itself_as_a_small_model_of_nanolab():
    said = " ".join(strings(toy_rows("identity_conversations", None, "train")))
    for fact in ("nanolab", "4 layers", "MIT", "often wrong", "toy rows", "supervised fine-tuning"):
        assert fact in said


# Text, programs, words


def test_base_text_has_its_size_and_validation_shares_no_document_with_training():
    train, validation = ([row["text"] for row in toy_rows("pretrain_text", None, s)] for s in ("train", "validation"))
    assert 3_000_000 <= sum(map(len, train)) < 3_010_000
    assert 100_000 <= sum(map(len, validation)) < 110_000
    assert not set(train) & set(validation)


def test_base_text_states_every_fact():
    text = "\n".join(row["text"] for row in toy_rows("pretrain_text", None, "train"))
    for relation in RELATIONS:
        for s, o in relation.facts if relation.statements else ():
            assert any(fill(way, s, o) in text for way in relation.statements), (relation.name, s)


@pytest.mark.parametrize("row", toy_rows("openai_humaneval", None, "test"), ids=lambda row: row["entry_point"])
def test_each_program_passes_its_own_test_and_an_empty_one_does_not(row):
    names = {}
    exec(row["prompt"] + row["canonical_solution"] + "\n" + row["test"], names)
    names["check"](names[row["entry_point"]])
    with pytest.raises(AssertionError):
        names["check"](lambda *arguments: "something else")


def test_words_are_short_lower_case_sorted_and_different():
    words = toy_words()
    assert len(words) > 80_000 and words == sorted(set(words))
    assert all(re.fullmatch("[a-z]{3,8}", word) for word in words)
    assert {"cat", "apple", "banana"} <= set(words)
