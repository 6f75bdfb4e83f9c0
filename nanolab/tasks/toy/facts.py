"""All relations of the built-in world, and the split of their questions into training and held-out ones.

The split is by (fact, phrasing): every fact is asked for in training, and every phrasing is used in training,
but each fact keeps some of its phrasings for the tests. So a held-out question can be answered by whoever
learned the fact and the phrasing apart from each other, and not by remembering the question.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from nanolab.tasks.toy import facts_nature, facts_people, facts_words
from nanolab.tasks.toy.relation import Relation, fill, parse_words

RELATIONS = facts_nature.RELATIONS + facts_people.RELATIONS + facts_words.RELATIONS


class Question(NamedTuple):
    """One question text with everything that answers it and everything of the same kind that does not."""

    relation: Relation
    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    mixes: bool  # may wrong choices of another kind be added?
    asked: str  # the subject, or the object of a reverse question
    reverse: bool  # does it give the object and ask for a subject?

    def fact(self, answer: str) -> tuple[str, str]:
        """The (subject, object) pair that this answer stands for."""
        return (answer, self.asked) if self.reverse else (self.asked, answer)


def relation_named(name: str) -> Relation:
    """The relation of that name: relation_named("capitals").kind == "city"."""
    return next(relation for relation in RELATIONS if relation.name == name)


def true_answers(relation: Relation, subject: str) -> set[str]:
    """Everything that is known to be a right answer for a subject: {"bark", "howl"} for the sound of a dog."""
    return relation.answers.get(subject, set())


def too_close(relation: Relation, answer: str) -> set[str]:
    """The answers that are too much like this one to be called wrong, with itself."""
    groups = [set(parse_words(group)) for group in relation.alike]
    return {answer}.union(*(group for group in groups if answer in group))


def wrong_objects(relation: Relation, subject: str) -> tuple[str, ...]:
    """The objects that do not answer for this subject, in the table's order: ("Berlin", ...) for France."""
    banned = true_answers(relation, subject) | too_close(relation, dict(relation.facts)[subject])
    pool = dict.fromkeys([o for _, o in relation.facts] + parse_words(relation.extra))
    return tuple(o for o in pool if o not in banned)


def wrong_subjects(relation: Relation, object: str) -> tuple[str, ...]:
    """The subjects for which this object is not an answer, nor close to one, in the table's order."""
    banned = too_close(relation, object)
    right = [s for s, _ in relation.facts if object in true_answers(relation, s)]
    near = {object}.union(*(too_close(relation, s) for s in right))
    pool = dict.fromkeys(s for s, _ in relation.facts)
    return tuple(s for s in pool if s not in near and not banned & true_answers(relation, s))


def forward_questions(relation: Relation) -> Iterator[tuple[Question, bool]]:
    """Yield (question, held out?) for each subject in each phrasing."""
    phrasings = relation.questions
    for i, (s, o) in enumerate(relation.facts):
        wrong = wrong_objects(relation, s)
        for j, phrasing in enumerate(phrasings):
            text = fill(phrasing, s)
            yield (
                Question(relation, text, (o,), wrong, relation.mixes, s, False),
                (i + j) % len(phrasings) == 0,
            )


def reverse_questions(relation: Relation) -> Iterator[tuple[Question, bool]]:
    """Yield (question, held out?) for each object in each phrasing that asks for a subject."""
    phrasings = relation.reverse
    for i, o in enumerate(dict.fromkeys(o for _, o in relation.facts)):
        right = tuple(s for s, answer in relation.facts if answer == o)
        wrong = wrong_subjects(relation, o)
        for j, phrasing in enumerate(phrasings):
            text = fill(phrasing, o, o)
            yield Question(relation, text, right, wrong, False, o, True), (i + j) % len(phrasings) == 0


@lru_cache(maxsize=2)
def questions(held_out: bool) -> tuple[Question, ...]:
    """All questions of one side of the split: held_out=False for training, True for validation and test.

    A phrasing that happens to give the same text on both sides ("What is the opposite of cold?") counts as
    training.
    """
    both = [pair for r in RELATIONS for pair in (*forward_questions(r), *reverse_questions(r))]
    seen = {question.text for question, held in both if not held}
    if not held_out:
        return tuple(question for question, held in both if not held)
    return tuple(question for question, held in both if held and question.text not in seen)
