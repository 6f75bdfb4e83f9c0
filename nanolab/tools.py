"""Step 9, the calculator: arithmetic, and counting letters in a quoted text. Nothing is ever evaluated as a program.

    calculate("12*(3+4)")                 -> "84"
    calculate("'strawberry'.count('r')")  -> "3"
    calculate("__import__('os')")         -> None

The expression is parsed, and only the few node types below are walked; anything else gives None, and generation goes
on without an output.
"""

import ast
import operator
import re
from fractions import Fraction

from nanolab.tasks.answer import format_number

MAX_LENGTH = 200  # characters of an expression, which also bounds its depth and the time it takes
MAX_MAGNITUDE = 10**15  # of every intermediate number

ARITHMETIC = re.compile(r"[\d+\-*/%().\s]+", re.ASCII)  # what is left once the commas of 1,200 are gone
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Two quoted texts without a backslash. Nothing else reaches the parser, so it has nothing to warn of.
COUNT = re.compile(r"""(?P<text>'[^'\\\n]*'|"[^"\\\n]*")\s*\.\s*count\s*\(\s*(?P<part>'[^'\\\n]*'|"[^"\\\n]*")\s*\)""")

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class _NotArithmetic(ValueError):
    """The expression is something the calculator does not do."""


def calculate(expression: str) -> str | None:
    """The result as the data would write it, or None for everything the calculator does not do.

    Numbers are exact decimal fractions until the result is written: 0.1+0.2 is 0.3, and 1-.9-.1 is 0. Thousands
    separators are allowed: `1,200*2` is 2400.

    >>> calculate("20/2"), calculate("1/0"), calculate("open('x')")
    ('10', None, None)
    """
    expression = expression.strip()
    if len(expression) > MAX_LENGTH:
        return None
    count = COUNT.fullmatch(expression)
    if count is not None:
        return str(count["text"][1:-1].count(count["part"][1:-1]))
    expression = THOUSANDS.sub("", expression)
    if not ARITHMETIC.fullmatch(expression):
        return None
    try:
        return format_number(_value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, MemoryError, RecursionError, _NotArithmetic, ArithmeticError):
        return None


def _value(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = Fraction(str(node.value)) if abs(node.value) <= MAX_MAGNITUDE else None
    elif isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        value = SIGNS[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        value = Fraction(OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    else:
        raise _NotArithmetic(type(node).__name__)
    if value is None or abs(value) > MAX_MAGNITUDE:
        raise _NotArithmetic("number too large")
    return value
