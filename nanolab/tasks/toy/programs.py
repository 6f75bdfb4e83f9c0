"""Small programs in HumanEval's schema: a signature with its docstring, a body, and asserts."""

from functools import lru_cache
from typing import NamedTuple


class Program(NamedTuple):
    """A function: "add(a, b)", what it does, its body (one statement a line) and cases "2, 3 -> 5"."""

    signature: str
    purpose: str
    body: tuple[str, ...]
    cases: tuple[str, ...]


PROGRAMS = (
    Program("add(a, b)", "Return the sum of a and b.", ("return a + b",), ("2, 3 -> 5", "0, 0 -> 0", "-1, 1 -> 0")),
    Program("subtract(a, b)", "Return a minus b.", ("return a - b",), ("5, 3 -> 2", "0, 4 -> -4")),
    Program("multiply(a, b)", "Return a times b.", ("return a * b",), ("2, 3 -> 6", "7, 0 -> 0")),
    Program("double(x)", "Return twice x.", ("return 2 * x",), ("4 -> 8", "0 -> 0", "-3 -> -6")),
    Program("square(x)", "Return x times x.", ("return x * x",), ("3 -> 9", "-2 -> 4")),
    Program("half(x)", "Return x divided by 2.", ("return x / 2",), ("8 -> 4", "5 -> 2.5")),
    Program("is_even(n)", "Return True if n is even.", ("return n % 2 == 0",), ("4 -> True", "7 -> False")),
    Program("is_odd(n)", "Return True if n is odd.", ("return n % 2 == 1",), ("3 -> True", "8 -> False")),
    Program("is_positive(x)", "Return True if x is more than 0.", ("return x > 0",), ("3 -> True", "0 -> False")),
    Program(
        "larger(a, b)",
        "Return the larger of a and b.",
        ("return a if a > b else b",),
        ("2, 5 -> 5", "9, 1 -> 9"),
    ),
    Program(
        "smaller(a, b)",
        "Return the smaller of a and b.",
        ("return a if a < b else b",),
        ("2, 5 -> 2", "9, 1 -> 1"),
    ),
    Program(
        "largest(numbers)",
        "Return the largest number of a list.",
        ("return max(numbers)",),
        ("[3, 8, 5] -> 8", "[-1] -> -1"),
    ),
    Program(
        "smallest(numbers)",
        "Return the smallest number of a list.",
        ("return min(numbers)",),
        ("[3, 8, 5] -> 3", "[-1] -> -1"),
    ),
    Program("total(numbers)", "Return the sum of a list.", ("return sum(numbers)",), ("[1, 2, 3] -> 6", "[] -> 0")),
    Program(
        "count_items(items)",
        "Return how many items a list has.",
        ("return len(items)",),
        ("[1, 2, 3] -> 3", "[] -> 0"),
    ),
    Program(
        "mean(numbers)",
        "Return the mean of a list.",
        ("return sum(numbers) / len(numbers)",),
        ("[2, 4] -> 3", "[5] -> 5"),
    ),
    Program(
        "first(items)",
        "Return the first item of a list.",
        ("return items[0]",),
        ("[7, 8, 9] -> 7", "['a'] -> 'a'"),
    ),
    Program(
        "last(items)",
        "Return the last item of a list.",
        ("return items[-1]",),
        ("[7, 8, 9] -> 9", "['a'] -> 'a'"),
    ),
    Program(
        "reverse_list(items)",
        "Return a list backwards.",
        ("return items[::-1]",),
        ("[1, 2, 3] -> [3, 2, 1]", "[] -> []"),
    ),
    Program(
        "reverse_word(word)",
        "Return a word backwards.",
        ("return word[::-1]",),
        ("'cat' -> 'tac'", "'' -> ''"),
    ),
    Program(
        "shout(text)",
        "Return the text in capital letters.",
        ("return text.upper()",),
        ("'hello' -> 'HELLO'", "'' -> ''"),
    ),
    Program(
        "whisper(text)",
        "Return the text in small letters.",
        ("return text.lower()",),
        ("'HELLO' -> 'hello'", "'Hi' -> 'hi'"),
    ),
    Program(
        "greet(name)",
        "Return a greeting for a name.",
        ("return 'Hello, ' + name + '!'",),
        ("'Tom' -> 'Hello, Tom!'", "'Mia' -> 'Hello, Mia!'"),
    ),
    Program(
        "join_words(words)",
        "Join words with a space.",
        ("return ' '.join(words)",),
        ("['a', 'cat'] -> 'a cat'", "[] -> ''"),
    ),
    Program(
        "split_words(text)",
        "Split a text into its words.",
        ("return text.split()",),
        ("'a red cat' -> ['a', 'red', 'cat']", "'' -> []"),
    ),
    Program(
        "count_letter(word, letter)",
        "Count a letter in a word.",
        ("return word.count(letter)",),
        ("'banana', 'a' -> 3", "'cat', 'x' -> 0"),
    ),
    Program(
        "starts_with(word, letter)",
        "Return True if the word starts with the letter.",
        ("return word[0] == letter",),
        ("'cat', 'c' -> True", "'dog', 'c' -> False"),
    ),
    Program(
        "is_palindrome(word)",
        "Return True if the word reads the same backwards.",
        ("return word == word[::-1]",),
        ("'anna' -> True", "'cat' -> False"),
    ),
    Program(
        "spell(word)",
        "Return the letters of a word with commas.",
        ("return ','.join(word)",),
        ("'cat' -> 'c,a,t'", "'a' -> 'a'"),
    ),
    Program(
        "sort_numbers(numbers)",
        "Return the numbers in order.",
        ("return sorted(numbers)",),
        ("[3, 1, 2] -> [1, 2, 3]", "[] -> []"),
    ),
    Program(
        "unique(items)",
        "Return the items in order without repeats.",
        ("return sorted(set(items))",),
        ("[2, 1, 2] -> [1, 2]", "[] -> []"),
    ),
    Program(
        "contains(items, item)",
        "Return True if the item is in the list.",
        ("return item in items",),
        ("[1, 2], 2 -> True", "[1, 2], 5 -> False"),
    ),
    Program(
        "evens(numbers)",
        "Return the even numbers of a list.",
        ("return [n for n in numbers if n % 2 == 0]",),
        ("[1, 2, 4] -> [2, 4]", "[3] -> []"),
    ),
    Program(
        "double_all(numbers)",
        "Return a list with every number doubled.",
        ("return [2 * n for n in numbers]",),
        ("[1, 2] -> [2, 4]", "[] -> []"),
    ),
    Program(
        "count_up(n)",
        "Return the numbers from 1 to n.",
        ("return list(range(1, n + 1))",),
        ("3 -> [1, 2, 3]", "0 -> []"),
    ),
    Program(
        "factorial(n)",
        "Return 1 * 2 * ... * n.",
        ("result = 1", "for i in range(1, n + 1):", "    result = result * i", "return result"),
        ("4 -> 24", "0 -> 1"),
    ),
    Program("sum_to(n)", "Return 1 + 2 + ... + n.", ("return n * (n + 1) // 2",), ("4 -> 10", "0 -> 0")),
    Program(
        "fahrenheit(celsius)",
        "Turn degrees Celsius into Fahrenheit.",
        ("return celsius * 9 / 5 + 32",),
        ("100 -> 212", "0 -> 32"),
    ),
    Program(
        "area(width, height)",
        "Return the area of a rectangle.",
        ("return width * height",),
        ("3, 4 -> 12", "5, 5 -> 25"),
    ),
    Program("distance(a, b)", "Return how far a is from b.", ("return abs(a - b)",), ("3, 10 -> 7", "10, 3 -> 7")),
    Program(
        "repeat(word, n)",
        "Return the word n times in a row.",
        ("return word * n",),
        ("'ha', 3 -> 'hahaha'", "'x', 0 -> ''"),
    ),
    Program(
        "initials(first, last)",
        "Return the first letters of two names.",
        ("return first[0] + last[0]",),
        ("'Ada', 'Lovelace' -> 'AL'", "'Alan', 'Turing' -> 'AT'"),
    ),
)


def program_row(index: int, program: Program) -> dict:
    """One row in HumanEval's schema, with the first case as the docstring's example."""
    name = program.signature.split("(")[0]
    cases = [case.split(" -> ") for case in program.cases]
    example, result = cases[0]
    prompt = f'def {program.signature}:\n    """ {program.purpose}\n    >>> {name}({example})\n    {result}\n    """\n'
    asserts = [f"    assert candidate({arguments}) == {expected}\n" for arguments, expected in cases]
    return {
        "task_id": f"Toy/{index}",
        "prompt": prompt,
        "canonical_solution": "".join(f"    {line}\n" for line in program.body),
        "test": "def check(candidate):\n" + "".join(asserts),
        "entry_point": name,
    }


@lru_cache(maxsize=1)
def humaneval() -> list[dict]:
    """The built-in HumanEval, one row a program: [{"task_id": "Toy/0", "entry_point": "add", ...}, ...]."""
    return [program_row(index, program) for index, program in enumerate(PROGRAMS)]
