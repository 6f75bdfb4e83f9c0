"""Multiple choice rows made from the facts, in the schemas of MMLU and of ARC."""

import random
from collections.abc import Iterator
from functools import cache, lru_cache

from nanolab.tasks.toy.facts import RELATIONS, Question, questions

ODD_ROWS = 0.04  # share of ARC rows with 3 or 5 choices or with the labels 1, 2, 3, 4, as in the real set
SAME_WORD_ROWS = 0.15  # share of training rows that ask only for finding a word among the choices

# split: (rows, held out?)
MMLU_SPLITS = {
    "auxiliary_train": (3000, False),
    "test": (400, True),
    "validation": (100, True),
    "dev": (40, True),
}
ARC_SPLITS = {
    "ARC-Easy": {"train": (1200, False), "test": (400, True), "validation": (150, True)},
    "ARC-Challenge": {"train": (500, False), "test": (200, True), "validation": (60, True)},
}

# Kinds that are never mixed with each other, because an answer of one may pass for one of the other: a wolf eats meat,
# but also lamb; a lion lives in a den, but also in Africa.
NATURE = ("class", "young", "home", "food", "food group", "sound", "continent", "use", "material")
ONLY_WORDS = ("word", "past", "plural", "rhyme", "any")  # words of any kind; they pass for too much

Drawn = tuple[Question, list[str], int]  # a question, its choices, the place of the right one


@cache
def foreign_objects(kind: str) -> tuple[str, ...]:
    """Objects that cannot be an answer of this kind: cities and numbers for a question about colors."""
    apart = {kind, *ONLY_WORDS, *(NATURE if kind in NATURE else ())}
    own = {o for r in RELATIONS if r.kind == kind for _, o in r.facts}
    return tuple(sorted({o for r in RELATIONS if r.kind not in apart for _, o in r.facts} - own))


def pick_wrong(question: Question, count: int, easy: bool, rng: random.Random) -> list[str] | None:
    """Wrong choices, in easy rows some of them of another kind; None if there are too few."""
    foreign = rng.randint(1, count) if easy and question.mixes else 0
    if len(question.wrong) < count - foreign:
        return None
    known = {*question.right, *question.wrong}
    pool = [o for o in foreign_objects(question.relation.kind) if o not in known] if foreign else []
    return rng.sample(question.wrong, count - foreign) + rng.sample(pool, foreign)


def question_stream(held_out: bool, rng: random.Random) -> Iterator[Question]:
    """Questions of one side of the split without end: all of them in a new order, again and again.

    In training, questions that only ask to find a word come more often (see SAME_WORD_ROWS).
    """
    pool = list(questions(held_out))
    words = [question for question in pool if question.relation.name == "same_word"]
    facts = [question for question in pool if question.relation.name != "same_word"]
    share = len(words) / len(pool) if held_out else SAME_WORD_ROWS
    while True:
        rng.shuffle(facts)
        for question in facts:
            yield rng.choice(words) if rng.random() < share else question


def draw_place(n_choices: int, places: list[int], rng: random.Random) -> int:
    """Where the right choice goes; `places` makes sure that each of four letters comes once in every four rows."""
    if n_choices != 4:
        return rng.randrange(n_choices)
    if not places:
        places.extend(rng.sample(range(4), 4))
    return places.pop()


def draw(
    count: int, held_out: bool, rng: random.Random, seen: set[tuple], easy: bool = False, odd: float = 0.0
) -> list[Drawn]:
    """`count` triples (question, choices, place of the right one), all new to `seen`.

    `easy` rows mix in wrong choices of other kinds; a share of `odd` rows has 3 or 5 choices.
    """
    drawn, places = [], []
    for question in question_stream(held_out, rng):
        if len(drawn) == count:
            return drawn
        n_choices = rng.choice((3, 5)) if rng.random() < odd else 4
        wrong = pick_wrong(question, n_choices - 1, easy, rng)
        if wrong is None:
            continue
        right = rng.choice(question.right)
        key = (question.text, frozenset([right, *wrong]))
        if key in seen:
            continue
        seen.add(key)
        place = draw_place(n_choices, places, rng)
        drawn.append((question, [*wrong[:place], right, *wrong[place:]], place))


def mmlu_row(drawn: Drawn, split: str) -> dict:
    """One row in MMLU's schema; as on the hub, the rows of auxiliary_train have no subject."""
    question, choices, place = drawn
    subject = "" if split == "auxiliary_train" else question.relation.name
    return {"question": question.text, "subject": subject, "choices": choices, "answer": place}


def arc_row(drawn: Drawn, id: str, rng: random.Random) -> dict:
    """One row in ARC's schema, labelled with letters or, now and then, with digits."""
    question, choices, place = drawn
    labels = list("12345" if rng.random() < ODD_ROWS / 2 else "ABCDE")[: len(choices)]
    return {
        "id": id,
        "question": question.text,
        "choices": {"text": choices, "label": labels},
        "answerKey": labels[place],
    }


@lru_cache(maxsize=1)
def mmlu() -> dict[str, list[dict]]:
    """All splits of the built-in MMLU: {"test": [{"question": ..., "answer": 2, ...}, ...], ...}."""
    rng, seen = random.Random("mmlu"), set()
    return {
        split: [mmlu_row(drawn, split) for drawn in draw(count, held_out, rng, seen)]
        for split, (count, held_out) in MMLU_SPLITS.items()
    }


@lru_cache(maxsize=2)
def arc(subset: str) -> dict[str, list[dict]]:
    """All splits of one ARC set; in "ARC-Challenge" all choices are of the answer's own kind."""
    rng, seen, easy = random.Random(subset), set(), subset == "ARC-Easy"
    return {
        split: [
            arc_row(drawn, f"Toy_{subset}_{split}_{i}", rng)
            for i, drawn in enumerate(draw(count, held_out, rng, seen, easy, ODD_ROWS / 2))
        ]
        for split, (count, held_out) in ARC_SPLITS[subset].items()
    }
