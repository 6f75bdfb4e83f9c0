"""Checks of notebook 02: parts of an answer, a prompt with the row's own letters, its grade, a row made by rule.

`row_alone` and `pick` are what two of the exercises ask for; the others ask for functions of nanolab.tasks.
"""

import random
from collections.abc import Callable, Sequence

import torch

from nanolab.tasks.choice import choice_conversation
from nanolab.tasks.gsm8k import answer_parts
from nanolab.tokenizer import Tokenizer

ANSWERS = (  # each with its parts, by hand: t text, p python, o python_output
    ("Nothing to calculate.\n#### 7", [("t", "Nothing to calculate.\n#### 7")]),
    ("$<<12/60=0.2>>0.2 a minute", [("t", "$"), ("p", "12/60"), ("o", "0.2"), ("t", "0.2 a minute")]),
    ("<<2*3=6>><<6-1=5>>5 left", [("p", "2*3"), ("o", "6"), ("p", "6-1"), ("o", "5"), ("t", "5 left")]),
    ("So <<3*4=2*6=12>>", [("t", "So "), ("p", "3*4=2*6"), ("o", "12")]),
)
KINDS = {"t": "text", "p": "python", "o": "python_output"}
QUESTIONS = (  # question, letters, choices, answer
    ("Which is a fruit?", list("ABCD"), ["stone", "apple", "shoe", "rain"], "B"),
    ("What do bees make?", list("1234"), ["milk", "steel", "honey", "sand"], "3"),
    ("Which is hot?", list("ABC"), ["ice", "snow", "fire"], "C"),
    ("What falls?", list("ABCDE"), ["rain", "hills", "light", "songs", "names"], "A"),
)
WORDS = ("apple", "pear", "plum", "fig", "lemon", "quince", "grape")
ROWS = (*range(40), 123_456_789)
ENOUGH = 3  # different words among the rows: fewer come by chance less than once in 10^20


def row_alone(index: int, words: Sequence[str]) -> list[dict]:
    """The two messages of a spelling row; the word is drawn by the row's number and nothing else.

    >>> row_alone(7, ["egg"])[1]["content"]
    'egg:e,g,g'
    """
    word = random.Random(index).choice(words)
    return _spelling(word)


def pick(logits: torch.Tensor, letters: Sequence[str], tokenizer: Tokenizer) -> str:
    """Of a row's own letters the one with the highest logit; `logits` (V,) stand behind the prompt's last token.

    >>> pick(torch.arange(265.0), ["1", "2", "3"], tokenizer)
    '3'
    """
    ids = [tokenizer.encode(letter)[0] for letter in letters]
    return letters[int(logits[ids].argmax())]


def choice_messages(question: str, letters: Sequence[str], choices: Sequence[str], answer: str) -> list[dict]:
    """The messages of a multiple-choice row, the package's way.

    >>> choice_messages("What is 1+1?", ["A", "B"], ["2", "3"], "A")[1]["content"]
    'A'
    """
    return choice_conversation(question, letters, choices, answer)["messages"]


def check_parts(my_parts: Callable[[str], list[dict]], answers: Sequence[str] = ()) -> None:
    """Check `my_parts(answer)`: text, python and python_output parts, none empty; also of `answers`, if given.

    Raises AssertionError with the answer, its parts and what was given.

    >>> check_parts(answer_parts)
    my_parts is right for 4 answers.
    """
    cases = [(answer, [{"type": KINDS[kind], "text": text} for kind, text in parts]) for answer, parts in ANSWERS]
    cases += [(answer, answer_parts(answer)) for answer in answers]
    for answer, expected in cases:
        got = my_parts(answer)
        assert got == expected, (
            f"{answer!r} has the parts {_short(expected)}, my_parts says {_short(got)}. No part is empty, and the last "
            '"=" of a mark parts the expression from the result.'
        )
    print(f"my_parts is right for {len(cases)} answers.")


def check_choice(my_choice: Callable[[str, Sequence[str], Sequence[str], str], list[dict]]) -> None:
    """Check `my_choice(question, letters, choices, answer)`: the user's and the assistant's message.

    Raises AssertionError with the first line that differs.

    >>> check_choice(choice_messages)
    my_choice is right for 4 questions.
    """
    for question, letters, choices, answer in QUESTIONS:
        got = my_choice(question, list(letters), list(choices), answer)
        expected = choice_messages(question, letters, choices, answer)
        assert [message["role"] for message in got] == ["user", "assistant"], (
            "A question and its reply are two messages, the first of role 'user', the second of role 'assistant'."
        )
        prompt, said = got[0]["content"], got[1]["content"]
        line, wanted = _first_difference(prompt, expected[0]["content"])
        assert prompt == expected[0]["content"], (
            f"{question} The prompt has the line {line!r} where {wanted!r} was expected. The letter is the row's own, "
            "follows its choice, and has no space before it."
        )
        assert said == answer, f"{question} The reply is {said!r}, it should be the row's letter alone, {answer!r}."
    print(f"my_choice is right for {len(QUESTIONS)} questions.")


def check_pick(my_pick: Callable[[torch.Tensor, Sequence[str], Tokenizer], str], tokenizer: Tokenizer) -> None:
    """Check `my_pick(logits, letters, tokenizer)`: the row's own letter with the highest logit.

    Beside it the logits of other ids are higher: of letters that the row has not, of " A" with a space, of specials.
    Raises AssertionError with the letters and what was picked.

    >>> check_pick(pick, tokenizer)
    my_pick is right for 16 rows of logits.
    """
    cases = [(letters, letter) for _, letters, _, _ in QUESTIONS for letter in letters]
    for letters, letter in cases:
        got = my_pick(_tempting_logits(letters, letter, tokenizer), list(letters), tokenizer)
        assert got == letter, (
            f"Of the letters {', '.join(letters)} {letter} has the highest logit, my_pick says {got!r}. Only the ids "
            "of the row's own letters count, as they stand in the reply: without a space."
        )
    print(f"my_pick is right for {len(cases)} rows of logits.")


def check_row(my_row: Callable[[int, Sequence[str]], list[dict]]) -> None:
    """Check `my_row(index, words)`: the messages of a spelling row that is made from its number alone.

    Raises AssertionError if a row is misspelled, depends on what was read before, or is always the same.

    >>> check_row(row_alone)
    my_row makes 41 rows, the same ones in any order.
    """
    forward = {index: _made(my_row, index) for index in ROWS}
    for index, messages in forward.items():
        word = messages[0]["content"].removeprefix("Spell the word: ")
        assert word in WORDS, f"Row {index} asks {messages[0]['content']!r}: 'Spell the word: ' and one of the words."
        assert messages == _spelling(word), f"Row {index} is {messages}, expected {_spelling(word)}."
    for index in reversed(ROWS):
        assert _made(my_row, index) == forward[index], (
            f"Row {index} is another one when it is read again. It must depend on its number alone, not on a generator "
            "that all rows share."
        )
    number = len({messages[0]["content"] for messages in forward.values()})
    assert number >= ENOUGH, f"{len(ROWS)} rows ask for {number} different words out of {len(WORDS)}: too few."
    print(f"my_row makes {len(ROWS)} rows, the same ones in any order.")


def _made(my_row: Callable[[int, Sequence[str]], list[dict]], index: int) -> list[dict]:
    """A row of the learner's; a number beyond the words is no reason to fail."""
    try:
        return my_row(index, list(WORDS))
    except IndexError:
        raise AssertionError(
            f"There is no row {index:,}: a task made by rule has as many rows as one likes, also more than words."
        ) from None


def _spelling(word: str) -> list[dict]:
    spelled = {"role": "assistant", "content": f"{word}:{','.join(word)}"}
    return [{"role": "user", "content": f"Spell the word: {word}"}, spelled]


def _tempting_logits(letters: Sequence[str], best: str, tokenizer: Tokenizer) -> torch.Tensor:
    """(V,) logits that are highest, of the letters' ids, at `best`, and still higher at others."""
    logits = torch.zeros(tokenizer.vocab_size)
    for other in "ABCDE1234":
        logits[tokenizer.encode(other)[0]] = 5.0
    for letter in letters:
        logits[tokenizer.encode(letter)[0]] = 2.0 if letter == best else 1.0
    wrong = next(letter for letter in letters if letter != best)
    spaced = tokenizer.encode(f" {wrong}")[0]  # one id, or a space: neither is the reply's
    logits[[spaced, tokenizer.special("assistant_end")]] = 9.0
    return logits


def _first_difference(got: str, expected: str) -> tuple[str, str]:
    """The first lines that differ; "" where one text has ended."""
    ours, theirs = got.split("\n"), expected.split("\n")
    length = max(len(ours), len(theirs))
    pairs = zip(ours + [""] * (length - len(ours)), theirs + [""] * (length - len(theirs)), strict=True)
    return next(((one, other) for one, other in pairs if one != other), ("", ""))


def _short(parts: object) -> object:
    """Parts as (type, text) pairs, which are easier to compare by eye; anything else as it is."""
    is_parts = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
    return [(part.get("type"), part.get("text")) for part in parts] if is_parts else parts
