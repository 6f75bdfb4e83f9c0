"""What the columns of each data set must hold, and what is said where they do not.

Every check of a row against its data set is here, so that a task may take a row as it is declared:

    COLUMNS["gsm8k"]     {"question": str, "answer": str}
    check_columns        a split as a whole, when it is loaded: are the columns there, and of these types?
    read_row             one row, when it is read: is every cell filled, and filled with that?
"""

import reprlib
from collections.abc import Iterable, Sequence

import pyarrow as pa
from datasets import Dataset

from nanolab.tasks.base import DataError

Kind = type | list | dict  # str, int, a list of one kind, or a dict of kinds by name

# Other columns than these may stand beside them.
COLUMNS: dict[str, dict[str, Kind]] = {
    "smol-smoltalk": {"messages": [{"role": str, "content": str}]},
    "mmlu": {"question": str, "subject": str, "choices": [str], "answer": int},
    "ai2_arc": {"question": str, "choices": {"text": [str], "label": [str]}, "answerKey": str},
    "gsm8k": {"question": str, "answer": str},
    "openai_humaneval": {"prompt": str, "canonical_solution": str, "test": str, "entry_point": str},
    "pretrain_text": {"text": str},
}
LARGEST = 2**63 - 1  # Arrow keeps whole numbers in 64 bits
FAULT = "fault"  # a further column of JSON files with bad rows: what is wrong with the row
NAMES = {
    str: "text",
    int: "a whole number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    float: "a number",
}
FETCH_AGAIN = "Fetch the file again, or take it away and name another source of rows by `data`."
SKIP_IT = 'Correct the row, or skip it (on_bad_row="skip").'


def fault(value: object, kind: Kind, name: str = "") -> str | None:
    """Return what keeps `value` from being of a kind, or None; `name` is where it stands in its row.

    >>> fault({"text": ["a", None], "label": []}, {"text": [str], "label": [str]}, "choices")
    "'choices.text[1]' is null, not text"
    """
    if not isinstance(value, type(kind) if isinstance(kind, (list, dict)) else kind) or isinstance(value, bool):
        return f"{place(name)} is {described(value)}, not {expected(kind)}"
    if isinstance(kind, dict):
        missing = next((key for key in kind if key not in value), None)
        if missing is not None:
            return f"{place(name)} has no {missing!r}"
        return first_fault((value[key], inner, f"{name}.{key}" if name else key) for key, inner in kind.items())
    if isinstance(kind, list):
        return first_fault((item, kind[0], f"{name}[{number}]") for number, item in enumerate(value))
    return text_fault(value, name) if kind is str else number_fault(value, name)


def first_fault(checks: Iterable[tuple]) -> str | None:
    """Return the first fault there is in several values, each with the arguments of `fault`, or None."""
    return next(filter(None, (fault(*check) for check in checks)), None)


def text_fault(text: str, name: str) -> str | None:
    """Return what is wrong with a text, or None: half of a surrogate pair is no character and has no UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{place(name)} holds {text[error.start]!r} at character {error.start}: half of a pair, no text"
    return None


def number_fault(number: int, name: str) -> str | None:
    """Return what is wrong with a whole number, or None."""
    return None if abs(number) <= LARGEST else f"{place(name)} is a number of more than 64 bits"


def place(name: str) -> str:
    """Return the words for a place in a row, "the row" for the whole of it."""
    return repr(name) if name else "the row"


def described(value: object) -> str:
    """Return the words for a value of a wrong kind, the value itself where it is short.

    >>> described(None), described(3.5), described({"a": 1})
    ('null', 'a number (3.5)', 'an object')
    """
    if value is None:
        return "null"
    words = NAMES.get(type(value), type(value).__name__)
    return words if isinstance(value, (list, dict)) else f"{words} ({reprlib.repr(value)})"


def expected(kind: Kind) -> str:
    """Return the words for what a kind asks for."""
    return NAMES[kind if isinstance(kind, type) else type(kind)]


def type_fault(found: pa.DataType, kind: Kind, name: str) -> str | None:
    """Return what keeps a column of an Arrow type from holding values of a kind, or None; rows are not looked at.

    >>> type_fault(pa.list_(pa.int64()), [str], "choices")
    "'choices[]' holds int64, not text"
    """
    types = pa.types
    if types.is_null(found):  # nothing but nulls: every row of it will say so
        return None
    if isinstance(kind, list) and (types.is_list(found) or types.is_large_list(found)):
        return type_fault(found.value_type, kind[0], f"{name}[]")
    if isinstance(kind, dict) and types.is_struct(found):
        missing = next((key for key in kind if found.get_field_index(key) < 0), None)
        if missing is not None:
            return f"{place(name)} has no {missing!r}"
        faults = (type_fault(found.field(key).type, inner, f"{name}.{key}") for key, inner in kind.items())
        return next(filter(None, faults), None)
    text, whole = types.is_string(found) or types.is_large_string(found), types.is_integer(found)
    return None if (kind is str and text) or (kind is int and whole) else wrong_type(found, kind, name)


def wrong_type(found: pa.DataType, kind: Kind, name: str) -> str:
    """Return the words for a column of another type than its kind."""
    return f"{place(name)} holds {found}, not {expected(kind)}"


def check_columns(rows: Dataset, name: str, source: object) -> None:
    """Raise DataError unless a `datasets.Dataset` has rows and the columns declared for `name`, of their types.

    `source` is where the rows are from, for the message: a path, or the words for it.
    """
    if not len(rows):
        raise DataError(f"{source} holds no rows. {FETCH_AGAIN}")
    schema = rows.features.arrow_schema
    for column, kind in COLUMNS[name].items():
        if column not in schema.names:
            wrong = f"there is no column {column!r}, its columns are {', '.join(schema.names)[:200]}"
        else:
            wrong = type_fault(schema.field(column).type, kind, column)
        if wrong:
            raise DataError(f"{source}: {wrong}. The columns of {name} are {columns_in_words(name)}. {FETCH_AGAIN}")


def columns_in_words(name: str) -> str:
    """Return the declared columns of a data set with the kind of each.

    >>> columns_in_words("gsm8k")
    'question (text), answer (text)'
    """
    return ", ".join(f"{column} ({expected(kind)})" for column, kind in COLUMNS[name].items())


def read_row(rows: Dataset | Sequence[dict], index: int, name: str) -> dict:
    """Return row `index` of a split as a dict that holds what is declared for `name`; DataError says what it lacks.

    >>> read_row([{"question": "How much?", "answer": None}], 0, "gsm8k")
    Traceback (most recent call last):
    nanolab.tasks.base.DataError: 'answer' is null, not text. Correct the row, or skip it (on_bad_row="skip").
    """
    try:
        row = rows[index]
    except UnicodeDecodeError as error:  # a parquet file is not asked for that when it is loaded
        raise DataError(f"a text of the row is not UTF-8 ({error.reason}). {SKIP_IT}") from None
    wrong = row.get(FAULT) or fault(row, COLUMNS[name])
    if wrong:
        raise DataError(f"{wrong}. {SKIP_IT}")
    return row


def read_column(rows: Dataset, column: str) -> list:
    """Return a column of a split as a list; DataError if one of its texts is not UTF-8."""
    try:
        return list(rows[column])
    except UnicodeDecodeError as error:
        raise DataError(f"a text of column {column!r} is not UTF-8 ({error.reason}). {FETCH_AGAIN}") from None
