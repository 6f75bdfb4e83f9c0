"""Files of plain text that are read a block at a time: a parquet file's row group, or a thousand lines of JSON."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanolab.tasks.base import DataError
from nanolab.tasks.jsonfile import ROWS_A_BATCH, checked_row, json_rows
from nanolab.tasks.schema import COLUMNS, FETCH_AGAIN, type_fault

NAME, COLUMN = "pretrain_text", "text"
ENDINGS = (".parquet", ".jsonl")


@dataclass
class Block:
    """Some rows of a file, {"text": ...} each; the first is the file's row `first`. Without rows, it is the end."""

    first: int
    rows: Sequence[dict]

    def __contains__(self, row: int) -> bool:
        return self.first <= row < self.first + len(self.rows)


class TextColumn(Sequence):
    """The column of texts of some rows in Arrow's memory, read as rows."""

    def __init__(self, column: pa.ChunkedArray):
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> dict:
        return {COLUMN: self.column[index].as_py()}


class ParquetShard:
    """A parquet file with a column of texts; a block is a row group, and the only one in memory."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = pq.ParquetFile(path)
            groups = self.file.metadata.num_row_groups
            self.ends = list(accumulate(self.file.metadata.row_group(group).num_rows for group in range(groups)))
            schema = self.file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unreadable(error) from None
        if COLUMN not in schema.names:
            wrong = f"there is no column {COLUMN!r}, its columns are {', '.join(schema.names)[:200]}"
        else:
            wrong = type_fault(schema.field(COLUMN).type, str, COLUMN)
        if wrong:
            raise DataError(f"{path}: {wrong}. {FETCH_AGAIN}")

    def block(self, row: int) -> Block:
        """The row group that holds a row; DataError if it is damaged."""
        group = bisect_right(self.ends, row)
        if group == len(self.ends):
            return Block(row, [])
        try:
            column = self.file.read_row_group(group, columns=[COLUMN], use_threads=False).column(0)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unreadable(error) from None
        return Block(self.ends[group - 1] if group else 0, TextColumn(column))

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def _unreadable(self, error: Exception) -> DataError:
        told = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return DataError(f"{self.path} cannot be read as parquet ({told}). {FETCH_AGAIN}")


class JSONShard:
    """A file with a JSON object a line; a block is the next thousand of them. Going back reads from the beginning."""

    def __init__(self, path: Path):
        self.path = path
        self._begin()

    def block(self, row: int) -> Block:
        """The lines among which a row is; DataError, naming the line, if one on the way is no JSON."""
        if row < self._last.first:
            self._begin()
        while row not in self._last:
            lines = islice(self._lines, ROWS_A_BATCH)
            rows = [checked_row(where, line, COLUMNS[NAME]) for where, line in lines]
            self._last = Block(self._last.first + len(self._last.rows), rows)
            if not rows:
                break
        return self._last

    def _begin(self):
        self._lines, self._last = json_rows(self.path), Block(0, [])

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()


def open_shard(path: Path) -> ParquetShard | JSONShard:
    """The file, ready to be read; DataError if it cannot be."""
    return ParquetShard(path) if path.suffix == ".parquet" else JSONShard(path)
