"""A relation: a small table of true facts, the ways to ask for them and the ways to state them."""

from dataclasses import dataclass
from functools import cached_property

IRREGULAR_PLURALS = {
    "mouse": "mice", "goose": "geese", "wolf": "wolves", "calf": "calves", "sheep": "sheep", "deer": "deer",
    "fish": "fish", "salmon": "salmon", "trout": "trout", "tuna": "tuna", "cod": "cod", "fly": "flies",
    "butterfly": "butterflies", "firefly": "fireflies", "octopus": "octopuses",
}  # fmt: skip
# Spelled with a vowel, spoken without one ("a unicycle"), and the other way round ("an hour").
SPOKEN_CONSONANT = ("uni", "eu", "one")
SPOKEN_VOWEL = ("hour", "honest", "8", "11", "18")


@dataclass(frozen=True)
class Relation:
    """One kind of fact, for example "the capital of a country".

    `pairs` is the table as text, "France: Paris; Italy: Rome". In `questions` and `statements`, {s} is the
    subject and {o} the object, {a_s} and {a_o} the same with "a" or "an", {p_s} and {p_o} their plurals.
    `reverse` are questions that give the object and ask for a subject. `also` lists further true answers, and
    `alike` groups of answers too close to each other to be told apart: neither is ever offered as a wrong
    choice. `extra` are wrong choices beyond the table.
    """

    name: str
    kind: str  # what the objects are; wrong choices from elsewhere are always of another kind
    pairs: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    reverse: tuple[str, ...] = ()
    also: str = ""
    alike: tuple[str, ...] = ()
    extra: str = ""
    about: str = ""  # "animal" or "country" where a chat can go on about the same subject
    follow_up: str = ""  # a question about the subject that was just talked about ("it")
    mixes: bool = True  # may wrong choices come from another relation?

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """The table as (subject, object) pairs: [("France", "Paris"), ...]."""
        return parse_pairs(self.pairs)

    @cached_property
    def answers(self) -> dict[str, set[str]]:
        """Every right answer for a subject, `also` included: {"dog": {"bark", "howl"}, ...}."""
        found = {}
        for subject, answer in self.facts + parse_pairs(self.also):
            found.setdefault(subject, set()).add(answer)
        return found


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Text "a: b; c: d", also over several lines, as a list of pairs: [("a", "b"), ("c", "d")]."""
    text = " ".join(text.split())
    return [tuple(part.strip() for part in pair.split(":")) for pair in text.split(";") if pair.strip()]


def parse_words(text: str) -> list[str]:
    """Text "red, light blue" as a list: ["red", "light blue"]."""
    return [word.strip() for word in text.split(",") if word.strip()]


def word_list(text: str) -> list[str]:
    """Text "red blue" as a list: ["red", "blue"]."""
    return text.split()


def with_article(noun: str) -> str:
    """A noun with its article: "a cat", "an owl", "a unicycle"."""
    vowel = noun.startswith(SPOKEN_VOWEL) or (noun[0] in "aeiou" and not noun.startswith(SPOKEN_CONSONANT))
    return f"{'an' if vowel else 'a'} {noun}"


def plural(noun: str) -> str:
    """More than one of a noun: "cats", "foxes", "mice"."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def capitalize(sentence: str) -> str:
    """The sentence with a capital first letter, the rest unchanged: "paris is in France." -> "Paris is ..."."""
    return sentence[:1].upper() + sentence[1:]


def fill(template: str, subject: str, object: str = "") -> str:
    """A phrasing with its subject and object put in: fill("{a_s} is {a_o}.", "owl", "bird") -> "An owl is a bird."."""
    names = {"s": subject, "p_s": plural(subject), "a_s": with_article(subject)}
    if object:
        names |= {"o": object, "p_o": plural(object), "a_o": with_article(object)}
    return capitalize(template.format(**names))
