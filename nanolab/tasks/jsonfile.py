"""JSON files, read line by line with `json`, so that an error names the line.

`datasets` reads JSON too, but guesses the types: texts that all look like dates become dates, a whole number that is
too large becomes infinity, and some thousand open brackets end the process (datasets 5.2, pyarrow 26). Here a file is
read as what schema.COLUMNS declares.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import pyarrow as pa

from nanolab.tasks.base import DataError
from nanolab.tasks.schema import COLUMNS, FAULT, FETCH_AGAIN, Kind, fault

ROWS_A_BATCH = 1_000  # how many rows are Python objects at a time
ARROW_TYPES = {str: pa.string(), int: pa.int64()}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins


@contextmanager
def opened(path: Path, holds: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; FileNotFoundError says what it should hold, DataError why it cannot be read."""
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {found}; it should hold {holds}")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check who may read it, and its disk.") from None


def json_lines(path: Path, holds: str = "one JSON object a line") -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of each line that is not blank; DataError names the first that is not JSON.

    >>> from pathlib import Path
    >>> list(json_lines(Path("mine.jsonl")))[0][0]  # doctest: +SKIP
    1
    """
    with opened(path, holds) as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(UTF_16):
                raise DataError(f"{path} is UTF-16. Save it as UTF-8.")
            if line.strip():
                yield number, parsed(line, f"{path} line {number}")


def parsed(content: bytes, where: object) -> Any:
    """Return the value of some JSON; DataError, with `where` in front, if it is none."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad JSON, bytes that are not UTF-8; brackets a thousand deep
        raise DataError(f"{where}: not JSON ({error}). {FETCH_AGAIN}") from None


def json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield (where, row) of a file of objects, one a line or in one array; DataError names one that is no object."""
    for where, row in array_items(path) if begins_an_array(path) else named_lines(path):
        if not isinstance(row, dict):
            raise DataError(f"{path} {where}: not an object but {type(row).__name__}. {FETCH_AGAIN}")
        yield where, row


def named_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Return pairs ("line 3", value) of a file with one value a line."""
    return ((f"line {number}", row) for number, row in json_lines(path))


def begins_an_array(path: Path) -> bool:
    """Return whether the first character of a file that is no white space opens an array."""
    with opened(path, "rows as JSON") as file:
        return next((line for line in file if line.strip()), b"").lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def array_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Return pairs ("item 3", value) of a file that is one array."""
    with opened(path, "rows as JSON") as file:
        items = parsed(file.read(), path)
    return ((f"item {number}", item) for number, item in enumerate(items, start=1))


def load_json(path: Path, name: str) -> datasets.Dataset:
    """Return the rows of a JSON file as a `datasets.Dataset` with the columns declared for `name`, all in memory.

    A row with a fault stays, with empty cells and the fault in a further column, so that it can be named, and skipped,
    when it is read. DataError if there is no row without one, or something is not a JSON object.

        >>> load_json(Path("gsm8k/main/train.jsonl"), "gsm8k").column_names  # doctest: +SKIP
        ['question', 'answer']
    """
    columns, faults, batches = COLUMNS[name], [], []
    schema = pa.schema({column: arrow_type(kind) for column, kind in columns.items()} | {FAULT: pa.string()})
    rows = json_rows(path)
    while batch := list(islice(rows, ROWS_A_BATCH)):
        checked = [checked_row(where, row, columns) for where, row in batch]
        faults += [row[FAULT] for row in checked if FAULT in row]
        batches.append(pa.RecordBatch.from_pylist(checked, schema))
    table = pa.Table.from_batches(batches, schema)
    if faults and len(faults) == len(table):
        raise DataError(f"{path}: none of its {len(table):,} rows can be used, the first: {faults[0]}. {FETCH_AGAIN}")
    return datasets.Dataset(datasets.table.InMemoryTable(table if faults else table.drop_columns([FAULT])))


def checked_row(where: str, row: dict, columns: dict[str, Kind]) -> dict:
    """Return the declared cells of a row, or what is wrong with it and where it is, as {FAULT: ...}."""
    wrong = fault(row, columns)
    return {FAULT: f"{where}: {wrong}"} if wrong else {column: row[column] for column in columns}


def arrow_type(kind: Kind) -> pa.DataType:
    """Return the Arrow type of a declared kind.

    >>> str(arrow_type({"role": str}))
    'struct<role: string>'
    """
    if isinstance(kind, dict):
        return pa.struct({name: arrow_type(inner) for name, inner in kind.items()})
    return pa.list_(arrow_type(kind[0])) if isinstance(kind, list) else ARROW_TYPES[kind]
