"""Facts about words: opposites, rhymes, forms, and what comes next."""

from nanolab.tasks.toy.relation import Relation, word_list

OPPOSITE = Relation(
    name="opposites",
    kind="word",
    pairs="""hot: cold; big: small; up: down; day: night; wet: dry; open: closed; fast: slow; full: empty;
    happy: sad; left: right; on: off; early: late; high: low; near: far; rich: poor; clean: dirty; loud:
    quiet; strong: weak; first: last; black: white; true: false; thick: thin; wide: narrow; love: hate;
    win: lose; push: pull; buy: sell; give: take; laugh: cry; awake: asleep; inside: outside; before:
    after; always: never; front: back; summer: winter; north: south; east: west; good: bad; deep: shallow;
    smooth: rough""",
    questions=(
        "What is the opposite of {s}?",
        "Which word is the opposite of {s}?",
        "Which word means the opposite of {s}?",
        "{s} is the opposite of which word?",
        "If it is not {s}, what is it?",
    ),
    statements=(
        "The opposite of {s} is {o}.",
        "{o} is the opposite of {s}.",
        "{s} and {o} are opposites.",
        "What is not {s} is {o}.",
    ),
    reverse=(
        "What is the opposite of {o}?",
        "Which word is the opposite of {o}?",
        "Which word means the opposite of {o}?",
        "{o} is the opposite of which word?",
    ),
    alike=(
        "cold, winter, dry",
        "small, low, thin, narrow, shallow, weak, poor",
        "down, low, below, back, off, after, south, west, right",
        "night, white, asleep, dark",
        "slow, late, last, after, never, back",
        "closed, off, outside, empty, never, far",
        "sad, bad, cry, hate, poor, lose, false, dirty, weak, rough",
        "quiet, asleep, slow",
        "sell, take, lose, pull, push, give",
        "loud, strong, fast",
        "good, true, right, happy, white, love, win, clean, rich",
        "big, high, wide, thick, deep, full, strong, rich",
        "up, high, north, front, first, on, before, early, near",
        "day, summer, hot, awake",
        "open, inside, on, awake",
        "smooth, clean, good",
        "laugh, happy, love, win, good",
    ),
)

RHYME = Relation(
    name="rhymes",
    kind="rhyme",
    pairs="""cat: hat; dog: frog; sun: run; tree: bee; house: mouse; moon: spoon; star: car; cake: lake;
    ring: king; boat: goat; ball: wall; bed: red; box: fox; night: light; rain: train; book: hook; pen:
    ten; bug: rug; nose: rose; fish: dish; pig: wig; duck: truck; sock: clock; chair: bear""",
    questions=(
        "Which word rhymes with {s}?",
        "What rhymes with {s}?",
        "Find a word that rhymes with {s}.",
        "Which word ends with the same sound as {s}?",
    ),
    statements=(
        "{s} rhymes with {o}.",
        "The words {s} and {o} rhyme.",
        "A word that rhymes with {s} is {o}.",
    ),
    reverse=("Which word rhymes with {o}?", "What rhymes with {o}?", "Find a word that rhymes with {o}."),
    mixes=False,  # a word from another table might rhyme by accident
)

PAST = Relation(
    name="past_tense",
    kind="past",
    pairs="""go: went; see: saw; eat: ate; run: ran; take: took; write: wrote; sing: sang; fly: flew;
    swim: swam; give: gave; come: came; buy: bought; bring: brought; think: thought; teach: taught; catch:
    caught; drink: drank; sleep: slept; break: broke; speak: spoke; know: knew; find: found; make: made;
    tell: told; sit: sat; win: won; fall: fell""",
    questions=(
        "What is the past tense of {s}?",
        "Today I {s}, yesterday I what?",
        "Which word is the past of {s}?",
        "How do you say {s} in the past?",
    ),
    statements=(
        "The past tense of {s} is {o}.",
        "Today I {s}, yesterday I {o}.",
        "In the past, {s} becomes {o}.",
    ),
    reverse=(
        "{o} is the past tense of which word?",
        "Which word has the past tense {o}?",
        "{o} comes from which word?",
    ),
)

PLURAL = Relation(
    name="plurals",
    kind="plural",
    pairs="""mouse: mice; foot: feet; tooth: teeth; child: children; man: men; woman: women; goose: geese;
    leaf: leaves; knife: knives; wolf: wolves; ox: oxen; shelf: shelves""",
    questions=(
        "What is the plural of {s}?",
        "One {s}, but two what?",
        "Which word means more than one {s}?",
        "How do you say {s} when there are many?",
    ),
    statements=("The plural of {s} is {o}.", "One {s}, two {o}.", "For more than one {s} we say {o}."),
    reverse=("{o} is the plural of which word?", "Two {o}, but one what?", "Which word has the plural {o}?"),
)

NEXT_DAY = Relation(
    name="days",
    kind="time",
    pairs="""Monday: Tuesday; Tuesday: Wednesday; Wednesday: Thursday; Thursday: Friday; Friday: Saturday;
    Saturday: Sunday; Sunday: Monday""",
    questions=(
        "Which day comes after {s}?",
        "What day comes next after {s}?",
        "If today is {s}, what day is tomorrow?",
        "Which day follows {s}?",
    ),
    statements=(
        "{o} comes after {s}.",
        "After {s} comes {o}.",
        "If today is {s}, tomorrow is {o}.",
        "{s} comes before {o}.",
    ),
    reverse=(
        "Which day comes before {o}?",
        "If today is {o}, what day was yesterday?",
        "Which day is just before {o}?",
    ),
)

NEXT_MONTH = Relation(
    name="months",
    kind="time",
    pairs="""January: February; February: March; March: April; April: May; May: June; June: July; July:
    August; August: September; September: October; October: November; November: December; December:
    January""",
    questions=(
        "Which month comes after {s}?",
        "What month comes next after {s}?",
        "Which month follows {s}?",
        "When {s} is over, which month begins?",
    ),
    statements=(
        "{o} comes after {s}.",
        "After {s} comes {o}.",
        "When {s} is over, {o} begins.",
        "{s} comes before {o}.",
    ),
    reverse=(
        "Which month comes before {o}?",
        "Which month is just before {o}?",
        "What comes right before {o}?",
    ),
)

NEXT_NUMBER = Relation(
    name="counting",
    kind="count",
    pairs="""one: two; two: three; three: four; four: five; five: six; six: seven; seven: eight; eight:
    nine; nine: ten; ten: eleven; eleven: twelve; twelve: thirteen""",
    questions=(
        "Which number comes after {s}?",
        "What number comes next after {s}?",
        "What is one more than {s}?",
        "When you count, what comes after {s}?",
    ),
    statements=("After {s} comes {o}.", "The number {o} comes after {s}.", "One more than {s} is {o}."),
    reverse=(
        "Which number comes before {o}?",
        "What is one less than {o}?",
        "What number is just before {o}?",
    ),
)

COPIED = word_list("""
    cat dog horse cow bird fish tree house moon star sun rain snow book pen box red blue green
    yellow bread milk apple egg king ring boat car train door window hat shoe hand foot Paris Rome
    London Tokyo Monday Friday June July two five seven big small fast slow happy music garden river
    sea hill road friend water fire school gold stone wood paper salt sugar
""")

# Questions whose answer stands in the question. They ask only for finding a choice and saying its letter,
# which is the first thing that a small model has to learn about multiple choice.
SAME_WORD = Relation(
    name="same_word",
    kind="any",
    pairs="; ".join(f"{word}: {word}" for word in COPIED),
    questions=(
        "Which of these is the word {s}?",
        "Find the word {s}.",
        "Which choice says {s}?",
        "Where do you read {s}?",
        "Which one of these words is {s}?",
    ),
    statements=(),
    mixes=False,
)

RELATIONS = (OPPOSITE, RHYME, PAST, PLURAL, NEXT_DAY, NEXT_MONTH, NEXT_NUMBER, SAME_WORD)
