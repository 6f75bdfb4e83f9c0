"""The checks of notebook 02 accept right answers and refuse planted wrong ones, with a sentence that helps."""

import itertools
import random

import pytest

from nanolab.exercises.rows import (
    check_choice,
    check_parts,
    check_pick,
    check_row,
    choice_messages,
    pick,
    row_alone,
)
from nanolab.tasks.gsm8k import answer_parts
from nanolab.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def spaced_tokenizer():
    """Bytes, and the letters A to E with a space before them as one token each."""
    return Tokenizer([bytes([b]) for b in range(256)] + [f" {letter}".encode() for letter in "ABCDE"])


# Parts of an answer


def parts_by_partition(answer, last_equals=True, keep_empty=False):
    parts = []
    while answer:
        text, _, rest = answer.partition("<<")
        call, _, answer = rest.partition(">>")
        expression, _, result = call.rpartition("=") if last_equals else call.partition("=")
        parts += [("text", text), ("python", expression), ("python_output", result)]
    return [{"type": kind, "text": text} for kind, text in parts if text or keep_empty]


def without_the_text_that_repeats(answer):
    parts = answer_parts(answer)
    repeats = [i > 0 and part["type"] == "text" for i, part in enumerate(parts)]
    return [part for part, repeat in zip(parts, repeats, strict=True) if not repeat]


def test_partition_alone_finds_the_parts(capsys):
    check_parts(parts_by_partition, ["<<1+1=2>>2", "no marks"])
    assert capsys.readouterr().out == "my_parts is right for 6 answers.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda answer: parts_by_partition(answer, last_equals=False),
        lambda answer: parts_by_partition(answer, keep_empty=True),
        without_the_text_that_repeats,
        lambda answer: [part for part in answer_parts(answer) if part["type"] != "python_output"],
        lambda answer: [{"type": "text", "text": answer}],
        lambda answer: None,
    ],
)
def test_wrong_parts_are_refused(wrong):
    with pytest.raises(AssertionError, match="has the parts .* my_parts says"):
        check_parts(wrong)


def test_an_answer_of_the_learners_own_is_checked_too():
    with pytest.raises(AssertionError, match="'<<7-7=0>>' has the parts"):
        check_parts(lambda answer: [] if answer == "<<7-7=0>>" else answer_parts(answer), ["<<7-7=0>>"])


# A prompt with the row's own letters


def messages_of(form, said=lambda letters, choices, answer: answer):
    """A learner's function that writes each choice in its own way."""

    def my_choice(question, letters, choices, answer):
        lines = [form(letter, choice) for letter, choice in zip(letters, choices, strict=True)]
        prompt = f"Multiple Choice question: {question}\n" + "\n".join(lines)
        prompt += "\n\nRespond only with the letter of the correct answer."
        return [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": said(letters, choices, answer)},
        ]

    return my_choice


def by_position(question, letters, choices, answer):
    return choice_messages(question, list("ABCDE")[: len(letters)], choices, "ABCDE"[letters.index(answer)])


def always_four(question, letters, choices, answer):
    return choice_messages(question, letters[:3], choices[:3], letters[0])


def test_the_packages_and_a_handwritten_prompt_are_accepted(capsys):
    check_choice(choice_messages)
    check_choice(messages_of(lambda letter, choice: f"- {choice}={letter}"))
    assert capsys.readouterr().out == "my_choice is right for 4 questions.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (messages_of(lambda letter, choice: f"{letter}. {choice}"), "'A. stone' where '- stone=A' was expected"),
        (messages_of(lambda letter, choice: f"- {choice}= {letter}"), "no space before it"),
        (messages_of(lambda letter, choice: f"- {letter}={choice}"), "follows its choice"),
        (by_position, "'- milk=A' where '- milk=1' was expected"),
        (always_four, "has the line '' where '- rain=D' was expected"),
        (
            messages_of(
                lambda letter, choice: f"- {choice}={letter}",
                said=lambda letters, choices, answer: choices[letters.index(answer)],
            ),
            "should be the row's letter alone, 'B'",
        ),
        (
            messages_of(
                lambda letter, choice: f"- {choice}={letter}",
                said=lambda letters, choices, answer: "ABCDE"[letters.index(answer)],
            ),
            "should be the row's letter alone, '3'",
        ),
        (lambda *row: choice_messages(*row)[:1], "two messages"),
    ],
)
def test_other_prompts_and_replies_are_refused(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_choice(wrong)


# The grade


def best_of(letters, logits, id_of):
    return max(letters, key=lambda letter: float(logits[id_of(letter)]))


def test_the_letter_with_the_highest_logit_among_the_rows_own_is_accepted(byte_tokenizer, spaced_tokenizer, capsys):
    for tokenizer in (byte_tokenizer, spaced_tokenizer):
        check_pick(pick, tokenizer)
        check_pick(lambda logits, letters, t: best_of(letters, logits, lambda a: t.encode(a)[0]), tokenizer)
    assert capsys.readouterr().out == "my_pick is right for 16 rows of logits.\n" * 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits, letters, t: t.decode([int(logits.argmax())]),  # of all ids
        lambda logits, letters, t: best_of("ABCD", logits, lambda a: t.encode(a)[0]),  # whatever the row's letters are
        lambda logits, letters, t: best_of(letters, logits, lambda a: t.encode(f" {a}")[0]),  # with a space
        lambda logits, letters, t: "ABCD"[pick_number(logits, letters, t)],  # the letter of the same place
        lambda logits, letters, t: pick_number(logits, letters, t),  # a number, not the letter
    ],
)
def test_grades_by_other_ids_are_refused(wrong, byte_tokenizer, spaced_tokenizer):
    for tokenizer in (byte_tokenizer, spaced_tokenizer):
        with pytest.raises(AssertionError, match="has the highest logit, my_pick says"):
            check_pick(wrong, tokenizer)


def pick_number(logits, letters, tokenizer):
    return min(letters.index(pick(logits, letters, tokenizer)), 3)


# A row made by rule


def spelling(word):
    return [
        {"role": "user", "content": f"Spell the word: {word}"},
        {"role": "assistant", "content": f"{word}:{','.join(word)}"},
    ]


def row_after_row():
    """Draws from a generator that all rows share: the order of reading decides."""
    rng = random.Random(42)
    return lambda index, words: spelling(rng.choice(words))


def numbered_row_after_row():
    counter = itertools.count()
    return lambda index, words: spelling(words[next(counter) % len(words)])


def test_rows_made_from_their_number_are_accepted(capsys):
    check_row(row_alone)
    check_row(lambda index, words: spelling(words[index % len(words)]))
    assert capsys.readouterr().out == "my_row makes 41 rows, the same ones in any order.\n" * 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (row_after_row(), "another one when it is read again"),
        (numbered_row_after_row(), "another one when it is read again"),
        (lambda index, words: spelling(random.choice(words)), "another one when it is read again"),
        (lambda index, words: spelling(words[index]), "There is no row 7"),
        (lambda index, words: spelling(random.Random(42).choice(words)), "1 different words out of 7"),
        (lambda index, words: spelling(f"{index}"), "one of the words"),
        (lambda index, words: row_alone(index, words)[:1], "expected"),
        (
            lambda index, words: [
                {**message, "content": message["content"].replace(",", ", ")} for message in row_alone(index, words)
            ],
            "expected",
        ),
    ],
)
def test_rows_that_depend_on_more_or_on_nothing_are_refused(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_row(wrong)
