"""Chats in SmolTalk's schema: about the facts, small talk, working with words, and choosing among letters."""

import random
from functools import lru_cache

from nanolab.tasks.toy.facts import RELATIONS, Question, questions, relation_named
from nanolab.tasks.toy.prose import COLORS, NAMES, SPELLED, THINGS
from nanolab.tasks.toy.relation import Relation, capitalize, fill, plural, with_article

SPLITS = {"train": 2500, "test": 250}
ASK = (
    "{}",
    "{}",
    "{}",
    "{}",
    "Please tell me: {}",
    "I have a question. {}",
    "Do you know this? {}",
    "Hello! {}",
    "Quick: {}",
)
THANKS = ("Thank you!", "Thanks!", "Thanks a lot.", "Great, thank you.", "That helps, thanks.")
WELCOME = ("You are welcome!", "My pleasure.", "Any time!", "Glad to help.")
LIST_OPENINGS = (
    "Name three {}.",
    "List three {}.",
    "Give me three {}.",
    "Can you name three {}?",
    "I need three {}.",
)
GREETINGS = ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Hi there", "Hello there")

SMALL_TALK = (
    ("How are you?", "I am fine, thank you. What can I do for you?"),
    ("How are you today?", "I am well. I have no moods, but the numbers are good."),
    ("Can you help me?", "I will try. What do you want to know?"),
    ("Do you sleep?", "No, I only wait for the next question."),
    ("Are you awake?", "Yes, I am. What can I do for you?"),
    ("What can we talk about?", "We can talk about animals, countries, words and small sums."),
    ("Tell me something.", "Bees have six legs, and spiders have eight."),
    ("Tell me a joke.", "What do you call a bear without teeth? A gummy bear!"),
    ("I am bored.", "Then ask me about an animal or a country."),
    ("Do you like music?", "I have no ears, but I know that a drum makes music."),
    ("Do you like cats?", "I know a lot about cats. A cat is a mammal, and it can meow."),
    ("What is the weather like?", "I cannot look outside. Is there a window near you?"),
)
CLAIMS = (
    (relation_named("animal_class"), "Is {a_s} {a_o}?"),
    (relation_named("food_groups"), "Does {s} belong to the food group {o}?"),
    (relation_named("continents"), "Is {s} in {o}?"),
)
# How to ask for three subjects that share an object.
GROUPS = (
    (relation_named("animal_class"), "animals of the group {o}"),
    (relation_named("food_groups"), "foods of the group {o}"),
    (relation_named("continents"), "countries in {o}"),
    (relation_named("colors"), "things that are {o}"),
)

# (what the system message says, what a long answer and a short one become)
STYLES = (
    ("You answer in one short sentence.", lambda sentence, word: sentence),
    ("You answer with one word or a few, never with a sentence.", lambda sentence, word: capitalize(word)),
    ("You answer in capital letters.", lambda sentence, word: sentence.upper()),
    ("You are a pirate. You begin every answer with Arr!", lambda sentence, word: f"Arr! {sentence}"),
    (
        "You are very polite and call the user my friend.",
        lambda sentence, word: f"My friend, {lower_first(sentence)}",
    ),
    ("You end every answer with the word over.", lambda sentence, word: f"{sentence} Over."),
)


def chat(*turns: str, system: str | None = None) -> list[dict]:
    """Messages from turns that alternate between user and assistant, after the system message if there is one."""
    roles = ["user", "assistant"] * (len(turns) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
    return ([{"role": "system", "content": system}] if system else []) + messages


@lru_cache(maxsize=1)
def proper_names() -> set[str]:
    """First words of the names in the facts, which keep their capital: {"France", "Paris", "Monday", ...}."""
    words = {word.split()[0] for relation in RELATIONS for fact in relation.facts for word in fact}
    return {word for word in words if word[0].isupper()}


def lower_first(sentence: str) -> str:
    """The sentence as it goes on after a comma: "A cat is small." -> "a cat is small."; "Rome is ..." stays."""
    return sentence if sentence.split()[0] in proper_names() else sentence[0].lower() + sentence[1:]


@lru_cache(maxsize=2)
def askable(held_out: bool) -> list[Question]:
    """The questions of one side of the split that can be answered with a sentence."""
    return [question for question in questions(held_out) if question.relation.statements]


@lru_cache(maxsize=1)
def facts_by_subject() -> dict[str, list[tuple[Relation, str]]]:
    """Relation and object of each fact about an animal or a country: {"cat": [(SOUND, "meow"), ...], ...}."""
    table = {}
    for relation in RELATIONS:
        if relation.about:
            for s, o in relation.facts:
                table.setdefault(s, []).append((relation, o))
    return {s: known for s, known in table.items() if len(known) > 1}


def stated(question: Question, answer: str, rng: random.Random) -> str:
    """An answer to a question as a sentence: "The capital of France is Paris."."""
    return fill(rng.choice(question.relation.statements), *question.fact(answer))


def ask_fact(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """One question about a fact, sometimes with thanks."""
    question = rng.choice(askable(held_out))
    turns = [rng.choice(ASK).format(question.text), stated(question, rng.choice(question.right), rng)]
    if rng.random() < 0.2:
        turns += [rng.choice(THANKS), rng.choice(WELCOME)]
    return "toy-facts", chat(*turns)


def ask_in_style(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """A question about a fact under a system message that the reply follows."""
    question, (system, style) = rng.choice(askable(held_out)), rng.choice(STYLES)
    answer = rng.choice(question.right)
    return "toy-system", chat(question.text, style(stated(question, answer, rng), answer), system=system)


def ask_more(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Two or three questions about the same animal or country, the later ones with "it"."""
    subject, known = rng.choice(list(facts_by_subject().items()))
    (relation, object), *others = rng.sample(known, min(len(known), rng.choice((2, 2, 3))))
    asked = [q for q in askable(held_out) if q.relation is relation and q.asked == subject and not q.reverse]
    if not asked:
        return ask_fact(held_out, rng)
    question = rng.choice(asked)
    turns = [question.text, stated(question, object, rng)]
    for other, object in others:
        turns += [going_on(other.follow_up, rng), fill(rng.choice(other.statements), subject, object)]
    return "toy-follow-up", chat(*turns)


def going_on(question: str, rng: random.Random) -> str:
    """A question as the next thing that one says: "And what does it eat?"."""
    return rng.choice((question, f"Good. {question}", f"Thanks! {question}", f"And {lower_first(question)}"))


def yes_or_no(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Is it so? The answer says yes or no and then how it is."""
    relation, ask = rng.choice(CLAIMS)
    question = rng.choice([q for q in askable(held_out) if q.relation is relation and not q.reverse])
    subject, truth = question.asked, question.right[0]
    claim = truth if rng.random() < 0.5 else rng.choice(question.wrong)
    reply = f"{'Yes' if claim == truth else 'No'}, {lower_first(fill(relation.statements[0], subject, truth))}"
    return "toy-yes-no", chat(fill(ask, subject, claim), reply)


def small_talk(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Hello, how are you, and goodbye."""
    hello = rng.choice(GREETINGS)
    asked, reply = rng.choice(SMALL_TALK)
    name = rng.choice(NAMES)
    turns = [f"{hello}! {asked}" if rng.random() < 0.5 else f"{hello}, this is {name}. {asked}", reply]
    if rng.random() < 0.4:
        turns += [
            rng.choice(("Bye!", "Goodbye!", "See you later.", "I have to go.")),
            rng.choice(("Goodbye!", "See you soon!", "Bye, take care!")),
        ]
    return "toy-small-talk", chat(*turns)


def remember(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """The user says something about themselves and asks for it later."""
    name, color, thing = rng.choice(NAMES), rng.choice(COLORS), rng.choice(THINGS)
    asked, reply = rng.choice((
        ("What is my name?", f"Your name is {name}."),
        (f"What color is my {thing}?", f"Your {thing} is {color}."),
        ("What do I have?", f"You have {with_article(color)} {thing}."),
    ))  # fmt: skip
    told = f"My name is {name} and I have {with_article(color)} {thing}."
    return "toy-memory", chat(
        f"{rng.choice(GREETINGS)}! {told}", f"Hello {name}! That is a nice {thing}.", asked, reply
    )


def change_word(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Something to do with one word: capitals, letters, spelling, repeating."""
    w = rng.choice(SPELLED)
    return "toy-rewrite", chat(*rng.choice((
        (f"Write the word {w} in capital letters.", w.upper()),
        (f"Put {w} in capitals.", w.upper()),
        (f"Write {w.upper()} in small letters.", w),
        (f"What is the first letter of {w}?", f"The first letter of {w} is {w[0]}."),
        (f"What is the last letter of {w}?", f"The last letter of {w} is {w[-1]}."),
        (f"Say {w} three times.", f"{w} {w} {w}"),
        (f"Repeat the word {w}.", w),
        (f"How many letters are in {w}?", f"{w}:{','.join(w)} has {len(w)} letters."),
        (f"Spell the word: {w}", f"{w}:{','.join(w)}"),
    )))  # fmt: skip


def change_words(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Something to do with a few words: their order, their number, the first of them."""
    words = rng.sample(SPELLED, 3)
    listed = ", ".join(words)
    return "toy-rewrite", chat(*rng.choice((
        (f"Put these words in order: {listed}", ", ".join(sorted(words))),
        (f"Sort these words by the alphabet: {listed}", ", ".join(sorted(words))),
        (f"Say these words backwards, the last one first: {listed}", ", ".join(reversed(words))),
        (f"Make a list of these words: {listed}", "\n".join(f"- {word}" for word in words)),
        (f"What is the first of these words? {listed}", words[0]),
        (f"What is the last of these words? {listed}", words[2]),
        (f"Repeat after me: {listed}", listed),
        (f"Put and between these words: {listed}", " and ".join(words)),
    )))  # fmt: skip


@lru_cache(maxsize=1)
def groups_of_three() -> list[tuple[str, list[str]]]:
    """What to ask for and what to choose from: [("countries in Europe", ["France", "Germany", ...]), ...]."""
    groups = {}
    for relation, ask in GROUPS:
        for s, o in relation.facts:
            groups.setdefault(ask.format(o=o), []).append(s)
    return [(ask, members) for ask, members in groups.items() if len(members) >= 3]


def list_three(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Three things of one group."""
    asked, members = rng.choice(groups_of_three())
    opening = rng.choice(LIST_OPENINGS).format(asked)
    return "toy-list", chat(opening, "\n".join(f"- {member}" for member in rng.sample(members, 3)))


def count_things(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Small sums, and which number is larger."""
    a, b = rng.sample(range(1, 21), 2)
    things = plural(rng.choice(THINGS))
    return "toy-numbers", chat(*rng.choice((
        (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
        (f"How much is {a} and {b}?", f"{a} and {b} is {a + b}."),
        (f"What is {a + b} minus {b}?", f"{a + b} minus {b} is {a}."),
        (f"What is {a} times {b}?", f"{a} times {b} is {a * b}."),
        (f"Which number is larger, {a} or {b}?", f"{max(a, b)} is larger than {min(a, b)}."),
        (f"I have {a} {things} and get {b} more. How many do I have?", f"You have {a + b} {things}."),
    )))  # fmt: skip


def choose_letter(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """Words with letters, and the question which letter a word has: how a multiple choice question is answered."""
    words = rng.sample(SPELLED, rng.choice((3, 4)))
    letters = "ABCD"[: len(words)]
    lines = "\n".join(f"- {word}={letter}" for word, letter in zip(words, letters, strict=True))
    i = rng.randrange(len(words))
    return "toy-letters", chat(*rng.choice((
        (f"{lines}\nWhich letter has {words[i]}?", letters[i]),
        (f"Which letter has the word {words[i]}?\n{lines}", letters[i]),
        (f"Read this list:\n{lines}\nWhat is at {letters[i]}?", words[i]),
        (f"Find {words[i]} and say its letter.\n{lines}", letters[i]),
    )))  # fmt: skip


def choose_answer(held_out: bool, rng: random.Random) -> tuple[str, list[dict]]:
    """A fact question with choices to pick from, answered in words."""
    question = rng.choice([q for q in askable(held_out) if len(q.wrong) >= 2])
    answer = rng.choice(question.right)
    choices = rng.sample([answer, *rng.sample(question.wrong, 2)], 3)
    return "toy-choose", chat(f"{question.text} Choose one: {', '.join(choices)}.", stated(question, answer, rng))


# What a chat is about, with how often. Each of these takes (held_out, rng) and returns (source, messages).
KINDS = {
    ask_fact: 24, ask_more: 16, ask_in_style: 11, yes_or_no: 5, small_talk: 6, remember: 8, change_word: 7,
    change_words: 7, list_three: 3, count_things: 6, choose_letter: 7, choose_answer: 6,
}  # fmt: skip


@lru_cache(maxsize=1)
def smoltalk() -> dict[str, list[dict]]:
    """Both splits, {"train": [...], "test": [...]}; no two chats have the same user messages."""
    rng, seen, splits = random.Random("smoltalk"), set(), {}
    for split, count in SPLITS.items():
        rows = []
        while len(rows) < count:
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            source, messages = kind(split == "test", rng)
            said = tuple(message["content"] for message in messages if message["role"] != "assistant")
            if said not in seen:
                seen.add(said)
                rows.append({"messages": messages, "source": source})
        splits[split] = rows
    return splits
