"""Step 9, the calculator: arithmetic, and counting letters in a quoted text. Nothing is ever evaluated as a program.

    calculate("12*(3+4)")                 -> "84"
    calculate("'strawberry'.count('r')")  -> "3"
    calculate("__import__('os')")         -> None

The expression is parsed, and only the few node types below are walked; anything else gives None, and generation goes
on without an output.
"""

import ast
import math
import operator
import re
import warnings
from decimal import Decimal

MAX_LENGTH = 200  # characters of an expression
MAX_MAGNITUDE = 1e15  # of every intermediate number, so that no power grows for ever

SIGNIFICANT_DIGITS = 10

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # the comma of 1,200

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

    Thousands separators are allowed: `1,200*2` is 2400.

    >>> calculate("20/2"), calculate("1/0"), calculate("open('x')")
    ('10', None, None)
    """
    expression = expression.strip()
    if len(expression) > MAX_LENGTH:
        return None
    if "'" not in expression and '"' not in expression:
        expression = THOUSANDS.sub("", expression)
    try:
        with warnings.catch_warnings():  # what is odd about it ('\\d', "1if") is nobody's concern here
            warnings.simplefilter("ignore")
            tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    count = _count_call(tree)
    if count is not None:
        return str(count)
    try:
        return format_number(_value(tree))
    except (_NotArithmetic, ArithmeticError, RecursionError):
        return None


def format_number(value: float) -> str:
    """A number as GSM8K writes it: `10`, not `10.0` or `1e-07`; at most ten significant digits.

    >>> format_number(10.0), format_number(0.1 + 0.2), format_number(1e-7)
    ('10', '0.3', '0.0000001')
    """
    if isinstance(value, int) or float(value).is_integer():
        return str(int(value))
    rounded = f"{Decimal(f'{value:.{SIGNIFICANT_DIGITS}g}'):f}"
    return rounded.rstrip("0").rstrip(".") if "." in rounded else rounded


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        value = SIGNS[type(node.op)](_value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        value = OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    else:
        raise _NotArithmetic(type(node).__name__)
    if not math.isfinite(value) or abs(value) > MAX_MAGNITUDE:
        raise _NotArithmetic("number too large")
    return value


def _count_call(node: ast.AST) -> int | None:
    """The value of `'text'.count('x')`, or None if the node is anything else."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count"
    if not is_call or node.keywords or len(node.args) != 1:
        return None
    texts = [part.value for part in (node.func.value, node.args[0]) if isinstance(part, ast.Constant)]
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        return None
    return texts[0].count(texts[1])
