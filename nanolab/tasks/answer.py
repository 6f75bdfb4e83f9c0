"""Numbers in replies: how results are written, and how the number after "####" is read and graded."""

import re
from decimal import Decimal, InvalidOperation, localcontext
from fractions import Fraction

from nanolab.tasks.base import DataError

SIGNIFICANT_DIGITS = 10  # of a result that is not whole

# As in the data set's own code: openai/grade-school-math, grade_school_math/dataset.py (ANS_RE).
FINAL_NUMBER = re.compile(r"#### (-?[0-9.,]+)")


def format_number(value: int | float | Fraction) -> str:
    """Return a result as the data and the calculator both write it: `10`, not `10.0` or `1e+01`.

    Whole numbers in full, others with ten significant digits, and at least two behind the point. `value` is an int,
    a Fraction or a float, which counts as the decimal number that Python prints for it.

        >>> format_number(10.0), format_number(Fraction(1, 3)), format_number(1e-7)
        ('10', '0.3333333333', '0.0000001')
    """
    exact = Fraction(str(value))
    if exact.denominator == 1:
        return str(exact.numerator)
    with localcontext() as context:
        whole_digits = len(str(abs(exact.numerator) // exact.denominator))
        context.prec = max(SIGNIFICANT_DIGITS, whole_digits + 2)
        text = f"{Decimal(exact.numerator) / Decimal(exact.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def final_number(text: str) -> Decimal | None:
    """Return the number after the first "#### " as a Decimal, or None if there is none.

    Thousands commas and a full stop at the end do not count. Numbers are compared by value, so 18.00
    is 18; the original code compares texts, and would call that wrong.

        >>> final_number("She has 1,200 pens. #### 1,200.")
        Decimal('1200')
    """
    match = FINAL_NUMBER.search(text)
    if match is None:
        return None
    try:
        return Decimal(match.group(1).replace(",", "").rstrip("."))
    except InvalidOperation:  # such as "1.2.3" or "-"
        return None


def same_final_number(conversation: dict, reply: str) -> bool:
    """Return whether the reply ends on the number that the conversation's own last message ends on.

    A reply without a number is wrong; a reference without one is a ValueError, not a point for everyone.
    """
    reference = final_number(message_text(conversation["messages"][-1]))
    if reference is None:
        where = conversation.get("where", "the conversation")
        raise DataError(f"{where}: its own answer has no number after '#### ', so no reply can be graded")
    return final_number(reply) == reference


def message_text(message: dict) -> str:
    """Return a message's content as one text; the parts of a list are joined.

    >>> message_text({"content": [{"type": "text", "text": "3*4="}, {"type": "python_output", "text": "12"}]})
    '3*4=12'
    """
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
