"""Two made-up tasks that teach what a word is made of.

A model reads tokens, not letters: nothing tells it that the token "apple" holds two p. SimpleSpelling teaches
the letters of words, SpellingBee asks to count one of them ("How many p are in apple?"). Both are nanochat's
ideas (tasks/spellingbee.py); row `i` is made from `i` alone, so a task of any size costs nothing to keep.
"""

import random
import string
from pathlib import Path

from nanolab.tasks.answer import same_final_number
from nanolab.tasks.base import Task, check_one_of
from nanolab.tasks.words import load_words

SPLITS = ("train", "test")
ABSENT_SHARE = 0.1  # rows that ask for any letter, mostly one that is not in the word: zero is an answer too
LOWER_SHARE = 0.3  # rows whose user does not bother with capitals
QUESTION_MARK_SHARE = 0.5  # rows whose user ends on a question mark
QUOTES = ("", "'", '"')
PHRASINGS = (
    "How many {letter} are there in {word}",
    "How often does {letter} occur in {word}",
    "How often do you see {letter} in {word}",
    "How many times is the letter {letter} used in {word}",
    "How many times do I write {letter} when I write {word}",
    "How many letters of {word} are {letter}",
    "Count the letter {letter} in {word}",
    "Count {letter} in the word {word}",
    "Please count every {letter} in {word}",
    "Could you count {letter} in {word} for me",
    "Take the word {word} and count {letter}",
    "Look at {word}: how many {letter} are in it",
    "In {word}, how many times does {letter} come up",
    "Inside {word}, how many {letter} can you find",
    "Find all {letter} in {word}; how many are there",
    "Spell {word} and tell me how many {letter} it has",
    "What number of {letter} does {word} have",
    "What is the number of times {letter} stands in {word}",
    "The word is {word} and the letter is {letter}. How many",
    "Does {word} have {letter} in it, and how many",
    "I am looking for {letter} in {word}. How many are there",
    "Tell me how many {letter} you need to spell {word}",
    "Say how often {letter} is in {word}",
    "Number of {letter} in the word {word}",
    "{letter} in {word}: how many",
    "{word} contains how many {letter}",
)


class SpellingTask(Task):
    """Rows made by rule: row `i` is drawn from a generator seeded by task, split and `i` alone."""

    eval_type = "generative"

    def __init__(self, size: int = 1000, split: str = "train", data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of(f"{self.name} split", split, SPLITS)
        self.part, self.size = split, size
        self.words = load_words(split, data)

    def num_examples(self) -> int:
        return self.size

    def row_rng(self, index: int) -> random.Random:
        """Return the random generator of a row.

        The seed is a text, which `random` takes through SHA-512: the same on every machine. A number could
        not be told from its negative (Random(-5) is Random(5)), so -(i + 1) for test row i repeats train rows.
        """
        return random.Random(f"{self.name} {self.part} {index}")


class SimpleSpelling(SpellingTask):
    """Spell a word: "Spell the word: apple" is answered "apple:a,p,p,l,e".

    Commas and no spaces, so that each letter is the token it is on its own line or between quotes elsewhere.

        >>> task = SimpleSpelling(10, "train", data="toy")
        >>> task.evaluate(task[0], task[0]["messages"][1]["content"])
        True
    """

    name = "SimpleSpelling"

    def get_example(self, index: int) -> dict:
        word = self.row_rng(index).choice(self.words)
        user = {"role": "user", "content": f"Spell the word: {word}"}
        return {"messages": [user, {"role": "assistant", "content": spelled(word)}]}

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether the reply is the spelling, letter for letter; white space around it is forgiven."""
        return reply.strip() == conversation["messages"][-1]["content"]


class SpellingBee(SpellingTask):
    """Count a letter in a word: spelled, counted by hand, checked with Python, "#### 2" at the end.

    >>> task = SpellingBee(10, "train", data="toy")
    >>> task.evaluate(task[0], task[0]["messages"][1]["content"][-1]["text"])
    True
    """

    name = "SpellingBee"

    def get_example(self, index: int) -> dict:
        rng = self.row_rng(index)
        word = rng.choice(self.words)
        letter = rng.choice(string.ascii_lowercase if rng.random() < ABSENT_SHARE else word)
        user = {"role": "user", "content": ask(word, letter, rng)}
        return {"messages": [user, {"role": "assistant", "content": count_parts(word, letter)}]}

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether the number after "#### " in the reply is the count."""
        return same_final_number(conversation, reply)


def spelled(word: str) -> str:
    """Return a word and its letters.

    >>> spelled("apple")
    'apple:a,p,p,l,e'
    """
    return f"{word}:{','.join(word)}"


def ask(word: str, letter: str, rng: random.Random) -> str:
    """Return one of many ways to ask for a count: with or without capitals, quotes, question mark."""
    phrasing = rng.choice(PHRASINGS)
    if rng.random() < LOWER_SHARE:
        phrasing = phrasing.lower()
    question = phrasing.format(letter=quoted(letter, rng), word=quoted(word, rng))
    return question + ("?" if rng.random() < QUESTION_MARK_SHARE else "")


def quoted(text: str, rng: random.Random) -> str:
    """Return a text in single quotes, double quotes or none."""
    quote = rng.choice(QUOTES)
    return f"{quote}{text}{quote}"


def count_parts(word: str, letter: str) -> list[dict]:
    r"""Return the reply as parts: spell, count by hand, let Python count, say the number.

    Every step is one that the step before has prepared, so that no single token needs a leap: the letters in
    a row, then a letter a line with its number, then the running count where it changes.

        >>> [part["text"] for part in count_parts("egg", "g")][1:]
        ["'egg'.count('g')", '2', '\n\n#### 2']
    """
    count = str(word.count(letter))
    by_hand = f"{spelled(word)}\n\nCount {letter}:\n{counted(word, letter)}\n\nBy hand: {count}."
    return [
        {"type": "text", "text": f"{by_hand} With Python: "},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": count},
        {"type": "text", "text": f"\n\n#### {count}"},
    ]


def counted(word: str, letter: str) -> str:
    r"""Return a line a letter, with the running count where the letter is the one looked for.

    No space after the colon: " g" and "g" are different tokens, and the spelling just above has "g".

        >>> counted("egg", "g")
        '1:e\n2:g hit! count=1\n3:g hit! count=2'
    """
    lines, count = [], 0
    for number, here in enumerate(word, start=1):
        count += here == letter
        lines.append(f"{number}:{here} hit! count={count}" if here == letter else f"{number}:{here}")
    return "\n".join(lines)
