"""Word problems in GSM8K's style, every step with its calculator annotation <<3*4=12>>.

A problem is a template. Letters a to d are numbers; [a*b] in the answer becomes "3*4=<<3*4=12>>12", and r is
the result of the last step (q of the one before).
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from nanolab.tasks.answer import format_number
from nanolab.tasks.toy.prose import NAMES
from nanolab.tasks.toy.relation import word_list

SPLITS = {"train": 1500, "test": 200}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
THINGS = word_list(
    "apples pens books eggs cards cookies balls marbles stickers coins pears stones buttons shells cakes stamps "
    "flowers carrots nuts toys"
)
BOXES = word_list("boxes bags baskets jars drawers")


class Problem(NamedTuple):
    """A template: where the numbers come from, the question in one or more wordings, the lines of the answer."""

    numbers: str  # "a=2..9 b=3..12"
    questions: tuple[str, ...]
    answer: tuple[str, ...]
    condition: Callable[..., bool] = lambda **numbers: True  # keeps results positive, and divisions even


PROBLEMS = (
    Problem(
        "a=2..12 b=2..12",
        (
            "{N} has {a} {boxes} of {b} {things}. How many {things} does {N} have?",
            "There are {b} {things} in each of the {a} {boxes} of {N}. How many {things} are there?",
        ),
        ("{N} has [{a}*{b}] {things}.",),
    ),
    Problem(
        "a=2..60 b=2..39",
        (
            "{N} has {a} {things}. {N} gets {b} more. How many {things} does {N} have now?",
            "{N} finds {a} {things} in the morning and {b} in the evening. How many {things} does {N} find?",
        ),
        ("{N} has [{a}+{b}] {things}.",),
    ),
    Problem(
        "a=8..90 b=2..60",
        (
            "{N} has {a} {things}. {N} gives {b} of them to {M}. How many {things} does {N} have left?",
            "{N} had {a} {things} and lost {b} of them. How many {things} are left?",
        ),
        ("{N} has [{a}-{b}] {things} left.",),
        lambda a, b: a > b,
    ),
    Problem(
        "a=6..96 b=2..12",
        (
            "{N} shares {a} {things} among {b} friends. How many {things} does each friend get?",
            "{b} friends share {a} {things} from {N}. How many {things} are there for each of them?",
        ),
        ("Each friend gets [{a}/{b}] {things}.",),
        lambda a, b: a % b == 0 and a > b,
    ),
    Problem(
        "a=2..9 b=2..9 c=2..20",
        ("{N} has {a} {boxes} of {b} {things} and {c} more {things}. How many {things} does {N} have in all?",),
        ("The {boxes} hold [{a}*{b}] {things}.", "In all, {N} has [{r}+{c}] {things}."),
    ),
    Problem(
        "a=2..9 b=3..12 c=2..20",
        ("{N} buys {a} {boxes} of {b} {things} and gives away {c} {things}. How many {things} are left?",),
        ("{N} buys [{a}*{b}] {things}.", "Then [{r}-{c}] {things} are left."),
        lambda a, b, c: a * b > c,
    ),
    Problem(
        "a=5..50 b=2..20",
        ("{N} has {a} {things}. {M} has {b} more than {N}. How many {things} do they have together?",),
        ("{M} has [{a}+{b}] {things}.", "Together they have [{r}+{a}] {things}."),
    ),
    Problem(
        "a=10..50 b=2..20",
        ("{N} has {a} {things}. {M} has {b} fewer than {N}. How many {things} do they have together?",),
        ("{M} has [{a}-{b}] {things}.", "Together they have [{r}+{a}] {things}."),
        lambda a, b: a > b,
    ),
    Problem(
        "a=2..30 b=2..5",
        (
            "{N} has {a} {things}. {M} has {b} times as many. How many {things} does {M} have?",
            "{M} has {b} times as many {things} as {N}. {N} has {a}. How many does {M} have?",
        ),
        ("{M} has [{a}*{b}] {things}.",),
    ),
    Problem(
        "a=2..20 b=2..4",
        ("{N} has {a} {things} and {M} has {b} times as many. How many {things} do they have together?",),
        ("{M} has [{a}*{b}] {things}.", "Together they have [{r}+{a}] {things}."),
    ),
    Problem(
        "a=2..12 b=2..9",
        (
            "One cake costs ${a}. How much do {b} cakes cost?",
            "{N} buys {b} cakes for ${a} each. How much does {N} pay?",
        ),
        ("The cakes cost [{a}*{b}] dollars.",),
    ),
    Problem(
        "a=2..9 b=2..9 c=20..100",
        ("{N} has ${c} and buys {b} books for ${a} each. How much money is left?",),
        ("The books cost [{a}*{b}] dollars.", "So [{c}-{r}] dollars are left."),
        lambda a, b, c: c > a * b and c % 5 == 0,
    ),
    Problem(
        "a=2..9 b=2..12",
        (
            "{N} walks {a} miles a day. How many miles does {N} walk in {b} days?",
            "Every day {N} runs {a} miles. How many miles is that in {b} days?",
        ),
        ("In {b} days it is [{a}*{b}] miles.",),
    ),
    Problem(
        "a=2..9 b=2..8",
        ("{N} reads {a} pages a day. How many pages does {N} read in {b} weeks of 7 days?",),
        ("That is [{b}*7] days.", "In this time {N} reads [{r}*{a}] pages."),
    ),
    Problem(
        "a=20..90 b=2..10",
        ("A book has {a} pages. {N} reads {b} pages a day. How many days does {N} need for the book?",),
        ("{N} needs [{a}/{b}] days.",),
        lambda a, b: a % b == 0,
    ),
    Problem(
        "a=20..90 b=2..10 c=2..18",
        ("A book has {a} pages. {N} has read {c} pages and reads {b} a day now. How many more days does {N} need?",),
        ("There are [{a}-{c}] pages left.", "{N} needs [{r}/{b}] more days."),
        lambda a, b, c: (a - c) % b == 0,
    ),
    Problem(
        "a=4..40 b=2..30",
        (
            "{N} is {a} years old. How old will {N} be in {b} years?",
            "{N} is {a} now. What is the age of {N} after {b} years?",
        ),
        ("{N} will be [{a}+{b}] years old.",),
    ),
    Problem(
        "a=6..40 b=2..20",
        ("{N} is {a} years old. {M} is {b} years younger. How old is {M}?",),
        ("{M} is [{a}-{b}] years old.",),
        lambda a, b: a > b,
    ),
    Problem(
        "a=2..9 b=2..9 c=2..9",
        (
            "A farm has {a} cows, {b} pigs and {c} hens. How many animals are there?",
            "{N} sees {a} birds, {b} cats and {c} dogs. How many animals does {N} see?",
        ),
        ("Two groups have [{a}+{b}] animals.", "All together there are [{r}+{c}] animals."),
    ),
    Problem(
        "a=2..20",
        (
            "A dog has 4 legs. How many legs do {a} dogs have?",
            "{N} has {a} dogs with 4 legs each. How many legs are there?",
        ),
        ("The dogs have [{a}*4] legs.",),
    ),
    Problem(
        "a=2..12 b=2..12",
        ("A farm has {a} cows with 4 legs and {b} hens with 2 legs. How many legs are there?",),
        ("The cows have [{a}*4] legs.", "The hens have [{b}*2] legs.", "There are [{q}+{r}] legs."),
    ),
    Problem(
        "a=2..12 b=2..12",
        (
            "A garden has {a} rows with {b} flowers in each row. How many flowers are there?",
            "{N} plants {a} rows of {b} carrots. How many carrots are there?",
        ),
        ("There are [{a}*{b}] in the rows.",),
    ),
    Problem(
        "a=4..80",
        (
            "{N} has {a} {things} and loses half of them in a bet. How many are left?",
            "{N} gives half of {a} {things} to {M}. How many {things} does {M} get?",
        ),
        ("Half of that is [{a}/2] {things}.",),
        lambda a: a % 2 == 0,
    ),
    Problem(
        "a=4..80 b=2..20",
        ("{N} had {a} {things}, sold half of them and then found {b} more. How many {things} does {N} have now?",),
        ("After the sale there are [{a}/2] {things}.", "Now there are [{r}+{b}] {things}."),
        lambda a, **_: a % 2 == 0,
    ),
    Problem(
        "a=2..12",
        (
            "{N} buys {a} pens for $1.5 each. How much does {N} pay?",
            "One pen costs $1.5. How much do {a} pens cost?",
        ),
        ("The pens cost [{a}*1.5] dollars.",),
    ),
    Problem(
        "a=2..12 b=2..9",
        ("A cup of tea costs $2.5. {N} buys {a} cups and a cake for ${b}. How much does {N} pay?",),
        ("The tea costs [{a}*2.5] dollars.", "{N} pays [{r}+{b}] dollars."),
    ),
    Problem(
        "a=3..39 b=2..4",
        ("{N} cuts a rope of {a} feet into {b} equal parts. How long is each part?",),
        ("Each part has [{a}/{b}] feet.",),
        lambda a, b: b != 3 and a > b,
    ),
    Problem(
        "a=2..9 b=5..12",
        ("{N} works {a} hours a day and gets ${b} an hour. How much does {N} get in 5 days?",),
        ("In a day {N} gets [{a}*{b}] dollars.", "In 5 days it is [{r}*5] dollars."),
    ),
    Problem(
        "a=10..60 b=2..20 c=2..20",
        ("A bus has {a} people. At the stop {b} get off and {c} get on. How many people are on the bus now?",),
        ("After {b} get off, there are [{a}-{b}] people.", "After {c} get on, there are [{r}+{c}] people."),
        lambda a, b, **_: a > b,
    ),
    Problem(
        "a=2..12 b=2..12",
        ("A room is {a} feet long and {b} feet wide. What is its area in square feet?",),
        ("The area is [{a}*{b}] square feet.",),
    ),
    Problem(
        "a=2..9 b=2..9 c=2..6",
        ("{N} has {a} red {things} and {b} blue {things}. {M} has {c} times as many. How many does {M} have?",),
        ("{N} has [{a}+{b}] {things}.", "{M} has [{r}*{c}] {things}."),
    ),
    Problem(
        "a=2..20 b=2..20 c=2..5",
        ("{N} has {a} {things} and {M} has {b}. They share all among {c} children. How many does each child get?",),
        ("They have [{a}+{b}] {things}.", "Each child gets [{r}/{c}] {things}."),
        lambda a, b, c: (a + b) % c == 0,
    ),
    Problem(
        "a=2..9 b=2..9 c=2..9 d=2..20",
        ("{N} has {a} {boxes} of {b} {things}, loses {c} and finds {d} more. How many {things} does {N} have?",),
        (
            "The {boxes} hold [{a}*{b}] {things}.",
            "Then there are [{r}-{c}] {things}.",
            "Now {N} has [{r}+{d}] {things}.",
        ),
        lambda a, b, c, **_: a * b > c,
    ),
    Problem(
        "a=20..99 b=20..99",
        (
            "{N} counts {a} stars on Monday and {b} stars on Tuesday. How many stars are that?",
            "There are {a} red and {b} blue {things} in a shop. How many {things} is that?",
        ),
        ("That is [{a}+{b}] in all.",),
    ),
)


def calculate(expression: str) -> Fraction:
    """The exact value of a sum, as a Fraction: calculate("3*1.5") == Fraction(9, 2); ValueError if it is not one."""

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return Fraction(str(node.value))
        raise ValueError(f"{expression!r} is not made of numbers and + - * / alone")

    return value(ast.parse(expression, mode="eval").body)


def draw_numbers(problem: Problem, rng: random.Random) -> dict[str, int]:
    """Numbers that fit the problem: {"a": 12, "b": 3}."""
    ranges = re.findall(r"(\w)=(\d+)\.\.(\d+)", problem.numbers)
    while True:
        numbers = {letter: rng.randint(int(low), int(high)) for letter, low, high in ranges}
        if problem.condition(**numbers):
            return numbers


def draw_words(rng: random.Random) -> dict[str, str]:
    """Two people, a thing and what it is kept in: {"N": "Tom", "M": "Mia", "things": "pens", "boxes": "bags"}."""
    first, second = rng.sample(NAMES, 2)
    return {"N": first, "M": second, "things": rng.choice(THINGS), "boxes": rng.choice(BOXES)}


def solve(lines: Iterable[str], names: dict) -> str:
    """The lines of the answer with every [step] worked out, and "#### result" at the end."""
    names, results, text = dict(names), [], []
    for line in lines:
        names["r"], names["q"] = [*results[:-3:-1], "", ""][:2]
        before, step, after = re.fullmatch(r"(.*)\[(.*)\](.*)", line.format(**names)).groups()
        results.append(format_number(calculate(step)))
        text.append(f"{before}{step}=<<{step}={results[-1]}>>{results[-1]}{after}")
    return "\n".join([*text, f"#### {results[-1]}"])


@lru_cache(maxsize=1)
def gsm8k() -> dict[str, list[dict]]:
    """Both splits of the built-in GSM8K, no question twice: {"train": [{"question": ..., "answer": ...}, ...], ...}."""
    rng, seen, rows = random.Random("gsm8k"), set(), []
    while len(rows) < sum(SPLITS.values()):
        problem = PROBLEMS[len(rows) % len(PROBLEMS)]
        names = draw_words(rng) | draw_numbers(problem, rng)
        question = rng.choice(problem.questions).format(**names)
        answer = solve(problem.answer, names)
        if question not in seen and "=1>>" not in answer:  # the plurals of the templates would read "1 pens"
            seen.add(question)
            rows.append({"question": question, "answer": answer})
    rng.shuffle(rows)
    return {"train": rows[: SPLITS["train"]], "test": rows[SPLITS["train"] :]}
