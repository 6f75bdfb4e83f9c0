"""Facts about countries, tools, jobs, the body, and other things people deal with."""

from nanolab.tasks.toy.relation import Relation

CAPITAL = Relation(
    name="capitals",
    kind="city",
    about="country",
    pairs="""France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; England:
    London; Poland: Warsaw; Austria: Vienna; Greece: Athens; Norway: Oslo; Sweden: Stockholm; Denmark:
    Copenhagen; Ireland: Dublin; Russia: Moscow; Hungary: Budapest; Turkey: Ankara; Egypt: Cairo; Kenya:
    Nairobi; Ghana: Accra; Senegal: Dakar; Japan: Tokyo; China: Beijing; Thailand: Bangkok; Vietnam:
    Hanoi; Cuba: Havana; Canada: Ottawa; Peru: Lima; Chile: Santiago; Brazil: Brasilia; Australia:
    Canberra; Iraq: Baghdad; Iran: Tehran; Nepal: Kathmandu""",
    questions=(
        "What is the capital of {s}?",
        "Which city is the capital of {s}?",
        "{s} has which capital?",
        "What is the name of the capital of {s}?",
        "Which capital belongs to {s}?",
    ),
    statements=(
        "The capital of {s} is {o}.",
        "{o} is the capital of {s}.",
        "{s} has the capital {o}.",
        "{o} is a city, and it is the capital of {s}.",
    ),
    reverse=(
        "{o} is the capital of which country?",
        "Which country has the capital {o}?",
        "{o} is the capital of what?",
    ),
    follow_up="What is its capital?",
)

CONTINENT = Relation(
    name="continents",
    kind="continent",
    about="country",
    pairs="""France: Europe; Germany: Europe; Italy: Europe; Poland: Europe; Austria: Europe; Greece:
    Europe; Norway: Europe; Sweden: Europe; Ireland: Europe; Hungary: Europe; Kenya: Africa; Ghana:
    Africa; Senegal: Africa; Japan: Asia; China: Asia; Thailand: Asia; Vietnam: Asia; Iraq: Asia; Iran:
    Asia; Nepal: Asia; Canada: North America; Cuba: North America; Mexico: North America; Peru: South
    America; Chile: South America; Brazil: South America""",
    questions=(
        "On which continent is {s}?",
        "Which continent does {s} belong to?",
        "{s} is a country on which continent?",
        "Where in the world is {s}?",
    ),
    statements=(
        "{s} is in {o}.",
        "{s} is a country in {o}.",
        "{s} belongs to the continent {o}.",
        "In {o} there is a country called {s}.",
    ),
    reverse=(
        "Which of these countries is in {o}?",
        "Which country belongs to {o}?",
        "Find the country in {o}.",
    ),
    extra="Antarctica",
    follow_up="On which continent is it?",
)

LANGUAGE = Relation(
    name="languages",
    kind="language",
    about="country",
    pairs="""France: French; Germany: German; Italy: Italian; Spain: Spanish; Portugal: Portuguese;
    Brazil: Portuguese; Mexico: Spanish; Japan: Japanese; China: Chinese; Russia: Russian; Poland: Polish;
    Greece: Greek; Sweden: Swedish; Denmark: Danish; Turkey: Turkish; Egypt: Arabic; England: English;
    Cuba: Spanish; Hungary: Hungarian; Thailand: Thai; Vietnam: Vietnamese; Chile: Spanish; Austria:
    German; Australia: English""",
    questions=(
        "What language do people speak in {s}?",
        "Which language is spoken in {s}?",
        "People in {s} speak which language?",
        "What is the main language of {s}?",
    ),
    statements=("People in {s} speak {o}.", "{o} is spoken in {s}.", "The main language of {s} is {o}."),
    reverse=(
        "In which country do people speak {o}?",
        "Where is {o} spoken?",
        "Which country has the main language {o}?",
    ),
    follow_up="What language do people speak there?",
)

USE = Relation(
    name="tools",
    kind="use",
    pairs="""hammer: hit nails; key: open a lock; broom: sweep the floor; pen: write; oven: bake bread;
    towel: dry hands; needle: sew clothes; clock: tell the time; thermometer: measure heat; telescope:
    look at stars; microscope: see tiny things; ladder: climb up; shovel: dig a hole; camera: take
    pictures; lamp: light a room; bed: sleep; cup: drink tea; compass: find north; kettle: boil water;
    fridge: keep food cold; axe: chop wood; net: catch fish; drum: make music; mirror: see a face;
    calculator: do sums; ruler: measure length; soap: wash hands; toothbrush: clean teeth""",
    questions=(
        "What is {a_s} used for?",
        "What can you do with {a_s}?",
        "What do people use {a_s} for?",
        "Why would you need {a_s}?",
        "What is the use of {a_s}?",
    ),
    statements=(
        "You can use {a_s} to {o}.",
        "{a_s} is used to {o}.",
        "To {o}, you need {a_s}.",
        "People use {a_s} to {o}.",
    ),
    reverse=(
        "What do you use to {o}?",
        "Which thing helps you to {o}?",
        "What do you need to {o}?",
        "If you want to {o}, what should you take?",
    ),
    alike=(
        "hit nails, chop wood, dig a hole",
        "look at stars, see tiny things, see a face, take pictures",
        "dry hands, wash hands, clean teeth, sweep the floor",
        "bake bread, boil water, light a room",
        "measure heat, measure length, tell the time",
        "boil water, drink tea",
        "measure length, write",
        "hit nails, make music",
    ),
)

BODY = Relation(
    name="body",
    kind="use",
    pairs="""eyes: see; ears: hear; nose: smell; tongue: taste; skin: feel; legs: walk; hands: hold
    things; teeth: chew; heart: pump blood; lungs: breathe; brain: think; stomach: digest food""",
    questions=(
        "What do we do with the {s}?",
        "What is the job of the {s}?",
        "Your {s} can help you to do what?",
        "What does the body use the {s} for?",
    ),
    statements=("We {o} with the {s}.", "The body uses the {s} to {o}.", "The job of the {s} is to {o}."),
    reverse=(
        "Which part of the body do we use to {o}?",
        "What do you {o} with?",
        "Which part of you can {o}?",
    ),
    alike=("smell, breathe", "taste, chew, feel", "hold things, feel", "see, hear, think, smell, taste"),
)

JOB = Relation(
    name="jobs",
    kind="use",
    pairs="""teacher: teach children; doctor: help sick people; baker: bake bread; farmer: grow food;
    pilot: fly planes; sailor: sail ships; firefighter: put out fires; dentist: fix teeth; barber: cut
    hair; painter: paint pictures; singer: sing songs; writer: write books; plumber: repair pipes; tailor:
    make clothes; vet: help sick animals; astronaut: travel to space; librarian: lend books; waiter: serve
    meals; mechanic: repair cars; miner: dig for coal; butcher: sell meat; florist: sell flowers; judge:
    decide cases; actor: play a part; drummer: play the drums""",
    questions=(
        "What does {a_s} do?",
        "What is the work of {a_s}?",
        "What is the job of {a_s}?",
        "What do {p_s} do all day?",
        "What will you do if you become {a_s}?",
    ),
    statements=(
        "{a_s} has to {o}.",
        "The work of {a_s} is to {o}.",
        "{p_s} {o}.",
        "If you want to {o}, become {a_s}.",
    ),
    reverse=(
        "Who has to {o}?",
        "Whose job is it to {o}?",
        "Whose work is it to {o}?",
        "Which person has the job to {o}?",
    ),
    alike=(
        "help sick people, help sick animals, fix teeth",
        "write books, lend books, teach children",
        "bake bread, serve meals, sell meat, grow food",
        "play a part, sing songs, play the drums",
    ),
)

PLACE = Relation(
    name="places",
    kind="use",
    pairs="""library: borrow books; bakery: buy bread; school: learn to read; hospital: get well; airport:
    catch a plane; train station: catch a train; cinema: watch a film; bank: save money; zoo: look at
    lions; gym: do sports; pharmacy: buy medicine; post office: send a letter; bookshop: buy books; farm:
    milk cows; barber shop: get a haircut""",
    questions=(
        "Why do people go to the {s}?",
        "What can you do at the {s}?",
        "What is the {s} good for?",
        "What do people do at the {s}?",
    ),
    statements=("At the {s} you can {o}.", "People go to the {s} to {o}.", "To {o}, go to the {s}."),
    reverse=("Where can you {o}?", "Where do people go to {o}?", "Which place is good if you want to {o}?"),
    also="school: do sports; post office: save money; farm: buy bread",
    alike=(
        "borrow books, buy books, learn to read",
        "catch a plane, catch a train",
        "get well, buy medicine, do sports",
    ),
)

WORN_ON = Relation(
    name="clothes",
    kind="body part",
    pairs="""hat: head; helmet: head; crown: head; cap: head; shoe: foot; sock: foot; boot: foot; slipper:
    foot; glove: hand; mitten: hand; ring: finger; scarf: neck; necklace: neck; watch: wrist; bracelet:
    wrist; belt: waist""",
    questions=(
        "On which part of the body do you wear {a_s}?",
        "Where do you wear {a_s}?",
        "{a_s} goes on which part of the body?",
        "For which part of the body is {a_s}?",
    ),
    statements=("You wear {a_s} on the {o}.", "{a_s} goes on the {o}.", "On the {o} you can wear {a_s}."),
    reverse=(
        "What do you wear on the {o}?",
        "Which of these goes on the {o}?",
        "Which thing can you wear on the {o}?",
    ),
    also="scarf: head; boot: knee",
    alike=("hand, finger, wrist",),
    extra="nose, knee",
)

HOW_MANY = Relation(
    name="numbers",
    kind="count",
    pairs="""days in a week: 7; months in a year: 12; hours in a day: 24; minutes in an hour: 60; seconds
    in a minute: 60; fingers on a hand: 5; letters in the English alphabet: 26; cents in a dollar: 100;
    eggs in a dozen: 12; centimeters in a meter: 100; meters in a kilometer: 1000; years in a century:
    100; years in a decade: 10; seasons in a year: 4; wheels on a bicycle: 2; wheels on a tricycle: 3;
    wheels on a car: 4; faces on a cube: 6; planets around the sun: 8; players on the field in a soccer
    team: 11; strings on a violin: 4; keys on a piano: 88; weeks in a year: 52; squares on a chessboard:
    64; days in June: 30; days in March: 31""",
    questions=(
        "How many {s} are there?",
        "What is the number of {s}?",
        "Can you count the {s}?",
        "How many are the {s}?",
    ),
    statements=("There are {o} {s}.", "The number of {s} is {o}.", "If you count the {s}, you get {o}."),
)

SIDES = Relation(
    name="shapes",
    kind="count",
    pairs="triangle: three; square: four; rectangle: four; pentagon: five; hexagon: six; octagon: eight; decagon: ten",
    questions=(
        "How many sides does {a_s} have?",
        "{a_s} has how many sides?",
        "What is the number of sides of {a_s}?",
        "Count the sides of {a_s}: how many are there?",
    ),
    statements=(
        "{a_s} has {o} sides.",
        "There are {o} sides on {a_s}.",
        "Count the sides of {a_s} and you get {o}.",
    ),
    reverse=(
        "Which shape has {o} sides?",
        "What do you call a shape with {o} sides?",
        "Find the shape with {o} sides.",
    ),
)

RELATIONS = (CAPITAL, CONTINENT, LANGUAGE, USE, BODY, JOB, PLACE, WORN_ON, HOW_MANY, SIDES)
