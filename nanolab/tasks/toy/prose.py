"""Plain text for base training: the facts as prose, little stories, sums and spelled words."""

import random
from functools import lru_cache

from nanolab.tasks.toy.facts import RELATIONS, Question, questions
from nanolab.tasks.toy.relation import capitalize, fill, with_article, word_list

CHARACTERS = {"train": 3_000_000, "validation": 100_000}
NAMES = word_list("Tom Mia Ben Anna Sam Lucy Max Emma Leo Nina Jack Rosa Omar Lily Paul Zoe Ali Kate Finn Ida")
THINGS = word_list(
    "ball hat cup book key pen apple shoe coin bell box map drum kite lamp ring spoon stone clock bag egg flower"
)
COLORS = word_list("red blue green yellow white black brown pink orange gray")
PLACES = word_list("garden kitchen school park forest library station market river barn")
NUMBER_LIMIT = 20
SPELLED = word_list(
    "cat dog horse bird fish tree house moon star rain snow book bread milk apple egg king ring boat train door window "
    "hat shoe hand foot small happy music garden river friend water school gold paper salt sugar table chair lamp key"
)


@lru_cache(maxsize=1)
def statements() -> dict[str, list[list[str]]]:
    """Every fact in every way to state it, by relation: {"capitals": [[sentence, ...] per fact, ...], ...}."""
    return {
        relation.name: [[fill(phrasing, s, o) for phrasing in relation.statements] for s, o in relation.facts]
        for relation in RELATIONS
        if relation.statements
    }


@lru_cache(maxsize=1)
def statements_by_subject() -> dict[str, list[list[str]]]:
    """Ways to state each fact about a subject that several relations share: {"cat": [[...], ...], ...}."""
    table = {}
    for relation in RELATIONS:
        if relation.about:
            for (s, _), ways in zip(relation.facts, statements()[relation.name], strict=True):
                table.setdefault(s, []).append(ways)
    return table


def topic(rng: random.Random) -> tuple[str, list[str]]:
    """Facts of one relation: "The capital of France is Paris. Rome is the capital of Italy. ..."."""
    name, facts = rng.choice(list(statements().items()))
    chosen = rng.sample(facts, min(len(facts), rng.randint(4, 8)))
    return name, [rng.choice(ways) for ways in chosen]


def portrait(rng: random.Random) -> tuple[str, list[str]]:
    """Everything about one animal or country: "A cat is a mammal. Cats meow. A young cat is called a kitten. ..."."""
    subject, facts = rng.choice(list(statements_by_subject().items()))
    return subject, [rng.choice(ways) for ways in rng.sample(facts, len(facts))]


def mixed_facts(rng: random.Random) -> tuple[str, list[str]]:
    """Facts about anything."""
    tables = list(statements().values())
    return "facts", [rng.choice(rng.choice(rng.choice(tables))) for _ in range(rng.randint(4, 8))]


def questions_and_answers(rng: random.Random) -> tuple[str, list[str]]:
    """Training questions, each with its answer: "What color is snow? Snow is white. ..."."""
    sentences = []
    for question in rng.sample(fact_questions(), rng.randint(3, 5)):
        answer = rng.choice(question.right)
        full = fill(rng.choice(question.relation.statements), *question.fact(answer))
        sentences += [question.text, rng.choice((full, full, f"{capitalize(answer)}."))]
    return "questions", sentences


@lru_cache(maxsize=1)
def fact_questions() -> list[Question]:
    """The training questions that have statements to answer them."""
    return [question for question in questions(held_out=False) if question.relation.statements]


def owners(rng: random.Random) -> tuple[str, list[str]]:
    """Who has what: a story that can only be finished by looking back at its beginning."""
    count = rng.randint(2, 4)
    people, things = rng.sample(NAMES, count), rng.sample(THINGS, count)
    colors = [rng.choice(COLORS) for _ in things]
    verb = rng.choice(("has", "finds", "holds", "wants"))
    told = [f"{p} {verb} {with_article(c)} {t}." for p, c, t in zip(people, colors, things, strict=True)]
    order = rng.sample(range(count), count)
    asked = [f"Who {verb} the {things[i]}? {people[i]} {verb} the {colors[i]} {things[i]}." for i in order]
    return "owners", told + asked


def walk(rng: random.Random) -> tuple[str, list[str]]:
    """A little story: somebody goes somewhere, meets somebody, and everybody keeps their thing."""
    (a, b), (x, y), place = rng.sample(NAMES, 2), rng.sample(THINGS, 2), rng.choice(PLACES)
    beginning = rng.choice(("One day", "In the morning", "After lunch", "On Sunday", "Late at night"))
    return "story", [
        f"{beginning} {a} goes to the {place}.",
        f"{a} takes {with_article(x)} along.",
        f"In the {place} {a} meets {b}, who has {with_article(y)}.",
        f'"What a nice {y} you have!" says {a}.',
        f'"Thank you," says {b}. "And you have a fine {x}."',
        rng.choice((f"They give each other what they have. Now {a} has the {y} and {b} has the {x}.",
                    f"Then they go home. {a} still has the {x} and {b} still has the {y}.",
                    f"{a} gives the {x} to {b}. Now {b} has the {x} and the {y}.")),
    ]  # fmt: skip


def sums(rng: random.Random) -> tuple[str, list[str]]:
    """Small sums: "3 plus 4 is 7. ..."."""
    sentences = []
    for _ in range(rng.randint(4, 7)):
        a, b = rng.randint(1, NUMBER_LIMIT), rng.randint(1, NUMBER_LIMIT)
        sentences.append(
            rng.choice((f"{a} plus {b} is {a + b}.", f"{a + b} minus {b} is {a}.", f"{a} times {b} is {a * b}."))
        )
    return "sums", sentences


def spelling(rng: random.Random) -> tuple[str, list[str]]:
    """Words letter by letter: "The word cat is spelled c a t. ...".

    Without commas: the tokenizer learns from this text, and would make one token of ",a", while the spelling tasks need
    the letter to be the same token wherever it stands.
    """
    words = rng.sample(SPELLED, rng.randint(3, 5))
    ways = ("The word {w} is spelled {l}.", "You spell {w} like this: {l}.", "The letters of {w} are {l}.")
    return "spelling", [rng.choice(ways).format(w=w, l=" ".join(w)) for w in words]


# What a document is made of, with how often.
KINDS = {
    topic: 8,
    portrait: 5,
    mixed_facts: 8,
    questions_and_answers: 8,
    owners: 5,
    walk: 2,
    sums: 2,
    spelling: 2,
}


def document(rng: random.Random) -> dict:
    """One document: two or three paragraphs, in the schema of the text files ("text", "source", "title")."""
    paragraphs = [kind(rng) for kind in rng.choices(list(KINDS), list(KINDS.values()), k=rng.randint(2, 3))]
    text = "\n\n".join(" ".join(sentences) for _, sentences in paragraphs)
    return {"text": text, "source": "toy", "title": capitalize(paragraphs[0][0].replace("_", " "))}


@lru_cache(maxsize=2)
def pretrain_text(split: str) -> list[dict]:
    """Documents of one split, about `CHARACTERS` in all; no document is in both splits."""
    rng, rows, left = random.Random(f"prose {split}"), [], CHARACTERS[split]
    known = {row["text"] for row in pretrain_text("train")} if split != "train" else set()
    while left > 0:
        row = document(rng)
        if row["text"] not in known:
            rows.append(row)
            left -= len(row["text"])
    return rows
