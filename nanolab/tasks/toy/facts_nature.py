"""Facts about animals, food, colors, the sky and what things are made of."""

from nanolab.tasks.toy.relation import Relation

ANIMAL_CLASS = Relation(
    name="animal_class",
    kind="class",
    about="animal",
    pairs="""cat: mammal; dog: mammal; horse: mammal; cow: mammal; sheep: mammal; pig: mammal; lion:
    mammal; wolf: mammal; bear: mammal; elephant: mammal; whale: mammal; mouse: mammal; rabbit: mammal;
    giraffe: mammal; eagle: bird; owl: bird; duck: bird; goose: bird; hen: bird; swan: bird; sparrow:
    bird; penguin: bird; frog: amphibian; toad: amphibian; newt: amphibian; snake: reptile; lizard:
    reptile; turtle: reptile; crocodile: reptile; salmon: fish; tuna: fish; trout: fish; cod: fish; ant:
    insect; bee: insect; fly: insect; beetle: insect; butterfly: insect; spider: arachnid; scorpion:
    arachnid""",
    questions=(
        "What kind of animal is {a_s}?",
        "Which group of animals does {a_s} belong to?",
        "{a_s} is what kind of animal?",
        "To which group do {p_s} belong?",
        "How do we class {a_s}?",
    ),
    statements=(
        "{a_s} is {a_o}.",
        "The {s} is {a_o}.",
        "The {s} is a kind of {o}.",
        "{a_s} is one of the {p_o}.",
    ),
    reverse=(
        "Which of these animals is {a_o}?",
        "Which animal is {a_o}?",
        "Find the {o}.",
        "Which one of these is {a_o}?",
    ),
    follow_up="What kind of animal is it?",
)

SOUND = Relation(
    name="animal_sounds",
    kind="sound",
    about="animal",
    pairs="""dog: bark; cat: meow; cow: moo; duck: quack; lion: roar; horse: neigh; pig: oink; rooster:
    crow; owl: hoot; snake: hiss; bee: buzz; frog: croak; wolf: howl; sparrow: chirp; mouse: squeak;
    goose: honk; donkey: bray; elephant: trumpet; pigeon: coo; sheep: bleat""",
    questions=(
        "What sound does {a_s} make?",
        "How does {a_s} sound?",
        "What do {p_s} do when they make a noise?",
        "Which sound comes from {a_s}?",
        "What can you hear {a_s} do?",
    ),
    statements=(
        "{p_s} {o}.",
        "{a_s} can {o}.",
        "You can hear {a_s} {o}.",
        "The sound that {a_s} makes is called {o}.",
    ),
    reverse=("Which animal can {o}?", "Which of these can {o}?", "Which animal makes a sound called {o}?"),
    also="""cat: hiss; cat: howl; dog: howl; wolf: bark; goose: hiss; owl: hiss; lion: bark; pig: squeak;
    frog: chirp; elephant: roar; owl: chirp; mouse: chirp; duck: honk; owl: bark; pigeon: chirp; horse:
    squeak; goose: trumpet; swan: trumpet; elephant: bark; frog: bark; owl: coo; duck: coo; rooster: coo;
    snake: squeak; owl: squeak; pig: bark; wolf: squeak; dog: squeak; pig: roar; sparrow: squeak""",
    follow_up="What sound does it make?",
)

YOUNG = Relation(
    name="young_animals",
    kind="young",
    about="animal",
    pairs="""dog: puppy; cat: kitten; cow: calf; horse: foal; sheep: lamb; pig: piglet; goat: kid; duck:
    duckling; hen: chick; goose: gosling; bear: cub; lion: cub; tiger: cub; deer: fawn; frog: tadpole;
    kangaroo: joey; swan: cygnet; elephant: calf; whale: calf; seal: pup; butterfly: caterpillar""",
    questions=(
        "What is a young {s} called?",
        "What do you call a young {s}?",
        "What is the young of {a_s}?",
        "The young of {a_s} is called what?",
        "Which word names a young {s}?",
    ),
    statements=(
        "A young {s} is {a_o}.",
        "A young {s} is called {a_o}.",
        "{a_o} is a young {s}.",
        "{a_o} will grow up to be {a_s}.",
    ),
    reverse=(
        "{a_o} is the young of which animal?",
        "Which animal was {a_o} when it was young?",
        "{a_o} will grow up to be which animal?",
    ),
    also="""dog: pup; duck: chick; goose: chick; swan: chick; deer: calf; deer: kid; dog: whelp""",
    alike=("puppy, pup, cub, kitten", "chick, duckling, gosling, cygnet"),
    follow_up="What is its young called?",
)

LEGS = Relation(
    name="animal_legs",
    kind="count",
    about="animal",
    pairs="""cat: four; dog: four; horse: four; cow: four; frog: four; lion: four; elephant: four; hen:
    two; duck: two; owl: two; penguin: two; ant: six; bee: six; fly: six; beetle: six; butterfly: six;
    spider: eight; scorpion: eight; crab: ten; snake: zero; worm: zero; whale: zero""",
    questions=(
        "How many legs does {a_s} have?",
        "{a_s} has how many legs?",
        "How many legs do {p_s} have?",
        "What is the number of legs of {a_s}?",
        "How many legs can you count on {a_s}?",
    ),
    statements=(
        "{a_s} has {o} legs.",
        "The {s} has {o} legs.",
        "{p_s} have {o} legs.",
        "There are {o} legs on {a_s}.",
    ),
    reverse=("Which animal has {o} legs?", "Which of these has {o} legs?", "Find the animal with {o} legs."),
    follow_up="How many legs does it have?",
)

HOME = Relation(
    name="animal_homes",
    kind="home",
    about="animal",
    pairs="""bee: hive; sparrow: nest; spider: web; dog: kennel; horse: stable; lion: den; rabbit: burrow;
    pig: sty; hen: coop; beaver: lodge; cow: barn; ant: anthill; snail: shell""",
    also="ant: nest; bee: nest; hen: nest; ant: hive; spider: burrow; snail: burrow; lion: lodge; pig: stable",
    questions=(
        "What is the home of {a_s} called?",
        "Where does {a_s} live?",
        "Which home does {a_s} have?",
        "What is the right home for {a_s}?",
    ),
    statements=(
        "{a_s} lives in {a_o}.",
        "The home of {a_s} is {a_o}.",
        "{a_o} is the home of {a_s}.",
        "{a_s} has a home called {a_o}.",
    ),
    reverse=("Which animal lives in {a_o}?", "{a_o} is the home of which animal?", "Who lives in {a_o}?"),
    alike=("kennel, den, burrow, lodge, anthill", "stable, barn, sty, coop, nest, hive", "web, nest, burrow"),
    follow_up="Where does it live?",
)

DIET = Relation(
    name="animal_food",
    kind="food",
    about="animal",
    pairs="""cow: grass; horse: grass; sheep: grass; panda: bamboo; koala: leaves; giraffe: leaves;
    caterpillar: leaves; squirrel: nuts; lion: meat; tiger: meat; wolf: meat; seal: fish; penguin: fish;
    spider: insects; frog: insects; owl: mice; bee: nectar""",
    questions=(
        "What does {a_s} eat?",
        "What do {p_s} like to eat?",
        "What is the food of {a_s}?",
        "Which food is right for {a_s}?",
        "What would you give {a_s} to eat?",
    ),
    statements=("{p_s} eat {o}.", "{a_s} eats {o}.", "The food of {a_s} is {o}.", "{p_s} like to eat {o}."),
    reverse=("Which animal eats {o}?", "Which of these animals likes to eat {o}?", "Who eats {o}?"),
    also="squirrel: insects",
    alike=("grass, leaves, bamboo, nuts, nectar", "meat, fish, mice, insects"),
    follow_up="What does it eat?",
)

COLOR = Relation(
    name="colors",
    kind="color",
    pairs="""grass: green; snow: white; coal: black; blood: red; a ripe banana: yellow; a lemon: yellow; a
    carrot: orange; milk: white; a ripe tomato: red; a ripe strawberry: red; milk chocolate: brown; a
    crow: black; a flamingo: pink; a polar bear: white; an elephant: gray; a pumpkin: orange; a cucumber:
    green; a pea: green; a blueberry: blue; salt: white; a ruby: red; an emerald: green; broccoli: green;
    spinach: green; an eggplant: purple; lavender: purple; mud: brown; lettuce: green; an egg yolk:
    yellow; a stop sign: red; the clear sky: blue; soot: black""",
    questions=(
        "What color is {s}?",
        "Which color does {s} have?",
        "What is the color of {s}?",
        "{s} has which color?",
        "When you look at {s}, what color do you see?",
    ),
    statements=(
        "{s} is {o}.",
        "The color of {s} is {o}.",
        "{s} has the color {o}.",
        "As you can see, {s} is {o}.",
    ),
    reverse=("Which of these is {o}?", "Which of these has the color {o}?", "Find the thing that is {o}."),
    also="""a polar bear: yellow; soot: brown; coal: brown; blood: brown; an elephant: brown; a ripe
    tomato: yellow; a ripe tomato: green; a ripe banana: brown; a carrot: purple; a carrot: red; lettuce:
    red; lettuce: purple; broccoli: purple; an eggplant: white; salt: pink; salt: gray; mud: black; mud:
    gray; mud: red; a pumpkin: green; a pumpkin: white; lavender: white; lavender: pink; a stop sign:
    white; a flamingo: white; a ripe strawberry: white; the clear sky: white; snow: blue; a cucumber:
    yellow; grass: brown; grass: yellow; spinach: red""",
    alike=("orange, yellow", "purple, blue, black", "pink, red, orange", "gray, black"),
)

FOOD_GROUP = Relation(
    name="food_groups",
    kind="food group",
    pairs="""an apple: fruit; a pear: fruit; a banana: fruit; a peach: fruit; a cherry: fruit; a grape:
    fruit; a carrot: vegetable; an onion: vegetable; a cabbage: vegetable; spinach: vegetable; broccoli:
    vegetable; a potato: vegetable; cheese: dairy; milk: dairy; butter: dairy; yogurt: dairy; beef: meat;
    pork: meat; ham: meat; bacon: meat; wheat: grain; rice: grain; oats: grain; barley: grain; a walnut:
    nut; a hazelnut: nut""",
    questions=(
        "What kind of food is {s}?",
        "Which food group does {s} belong to?",
        "To which kind of food does {s} belong?",
        "In which food group is {s}?",
    ),
    statements=(
        "{s} belongs to the food group {o}.",
        "The food group of {s} is {o}.",
        "{s} is in the group {o}.",
        "We put {s} in the group {o}.",
    ),
    reverse=(
        "Which of these foods is in the group {o}?",
        "Which of these belongs to the food group {o}?",
        "Which one is in the group {o}?",
    ),
    alike=("fruit, nut, grain",),
)

MADE_OF = Relation(
    name="materials",
    kind="material",
    pairs="""a window: glass; a car tire: rubber; a candle: wax; a newspaper: paper; a coin: metal; a wool
    sweater: wool; a brick: clay; a pair of jeans: cotton; a snowman: snow; a log: wood; a door key:
    metal; a sandcastle: sand; a saddle: leather; a light bulb: glass; a rubber band: rubber; a tree
    trunk: wood""",
    questions=(
        "What is {s} made of?",
        "Which material is {s} made of?",
        "What material do you need to make {s}?",
        "{s} is made of what?",
    ),
    statements=("{s} is made of {o}.", "You need {o} to make {s}.", "The material of {s} is {o}."),
    reverse=("Which of these is made of {o}?", "What can be made of {o}?", "Which thing is made of {o}?"),
    also="a car tire: metal; a saddle: wood; a sandcastle: clay; a candle: paper",
    alike=(
        "metal, glass",
        "cotton, wool, leather",
        "snow, clay, sand",
        "rubber, cotton",
        "wood, paper",
        "metal, leather",
    ),
)

MADE_FROM = Relation(
    name="cooking",
    kind="food",
    pairs="""cheese: milk; butter: milk; yogurt: milk; an omelet: eggs; a raisin: grapes; red wine:
    grapes; ketchup: tomatoes; tofu: soybeans; popcorn: corn; chocolate: cocoa beans; french fries:
    potatoes; white flour: wheat; apple juice: apples; sushi: rice; cornbread: corn; cider: apples""",
    questions=(
        "What do you need to make {s}?",
        "From what do people make {s}?",
        "Which food do cooks use to make {s}?",
        "To make {s}, what do you need first?",
    ),
    statements=(
        "People make {s} from {o}.",
        "To make {s}, you need {o}.",
        "Cooks use {o} to make {s}.",
    ),
    reverse=("What do people make from {o}?", "Which of these is made from {o}?", "Which food needs {o}?"),
    also="""cornbread: milk; cornbread: eggs; cornbread: wheat; chocolate: milk; an omelet: milk; an omelet: potatoes;
    an omelet: tomatoes; sushi: soybeans""",
    alike=("milk, eggs", "grapes, apples", "corn, wheat, rice"),
)

STATE = Relation(
    name="states_of_matter",
    kind="state",
    pairs="""iron: solid; wood: solid; gold: solid; rock: solid; ice: solid; glass: solid; copper: solid;
    rainwater: liquid; milk: liquid; cooking oil: liquid; orange juice: liquid; vinegar: liquid; oxygen:
    gas; air: gas; helium: gas; hydrogen: gas; nitrogen: gas; steam: gas""",
    questions=(
        "Is {s} a solid, a liquid or a gas?",
        "What is the state of {s}?",
        "In which state of matter is {s}?",
        "Which state of matter does {s} have?",
    ),
    statements=("{s} is a {o}.", "The state of {s} is {o}.", "{s} has the state of matter called {o}."),
    reverse=("Which of these is a {o}?", "Which one has the state {o}?", "Find the {o} in this list."),
    extra="light, sound, plasma",
)

PLANET = Relation(
    name="planets",
    kind="count",
    pairs="""Mercury: first; Venus: second; Earth: third; Mars: fourth; Jupiter: fifth; Saturn: sixth;
    Uranus: seventh; Neptune: eighth""",
    questions=(
        "Counting from the sun, which place does {s} have?",
        "What place does {s} have among the planets?",
        "Which planet from the sun is {s}?",
        "In the order of the planets, where is {s}?",
    ),
    statements=(
        "{s} is the {o} planet from the sun.",
        "The {o} planet from the sun is {s}.",
        "Among the planets, {s} is {o}.",
    ),
    reverse=(
        "Which planet is the {o} from the sun?",
        "What is the name of the {o} planet?",
        "Which planet has the {o} place?",
        "Counting from the sun, which planet is {o}?",
    ),
)

RELATIONS = (
    ANIMAL_CLASS, SOUND, YOUNG, LEGS, HOME, DIET, COLOR, FOOD_GROUP, MADE_OF, MADE_FROM, STATE, PLANET,
)  # fmt: skip
