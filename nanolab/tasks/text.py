"""Plain text for base training and for the tokenizer: one file as a whole, or shards read as they are reached."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from nanolab.tasks import hub
from nanolab.tasks.base import RowError, Task, check_one_of
from nanolab.tasks.rows import find_file, load_rows, resolve_data
from nanolab.tasks.schema import read_row
from nanolab.tasks.shards import ENDINGS, NAME, Block, open_shard

SPLITS = ("train", "validation")
ROWS_A_SHARD = 2**32  # numbers that each shard has for its rows: more than any has rows


class Text(Task):
    """The documents of a split, each {"text", ..., "where"}, shuffled with seed 42; split is train or validation.

    `text["text"]` is the column of that name. On the hub this is one shard each of karpathy/fineweb-edu-100b-shuffle,
    nanochat's base text.

        >>> sorted(Text("validation", data="toy")[0])
        ['source', 'text', 'title', 'where']
    """

    name = "text"

    def __init__(self, split: str = "train", data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of("text split", split, SPLITS)
        self.part = split
        self.ds = load_rows(NAME, None, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        return read_row(self.ds, index, NAME)

    def __getitem__(self, index: int | str) -> Any:
        return self.ds[index] if isinstance(index, str) else super().__getitem__(index)

    def described(self) -> str:
        """How much it is, in words.

        >>> Text("validation", data="toy").described().endswith(" documents")
        True
        """
        return f"{len(self):,} documents"

    def counts(self) -> dict[str, int]:
        """Numbers that would be others if the text was another: a checkpoint keeps them."""
        return {"text": len(self)}


class TextShards:
    """The documents of several files, one file after the other, in their order; of any number of files.

    A file is opened, and on the hub downloaded, when its first document is reached, and let go behind its last; a block
    of its rows (a parquet file's row group) is in memory, no more. With `ahead` the file after it is fetched meanwhile,
    in a thread. How many documents there are is never asked.

    Document `row` of shard `n` has the number n * ROWS_A_SHARD + row, so that going on from a number needs no shard
    before it. Between the last row of a shard and the first of the next numbers are free; `stretch` finds the way.

    Args:
        names: of the files, in their order.
        fetch: name -> path of a file on this machine; DataUnavailable if it cannot be had.
        ahead: fetch the next file while one is read; for files that must be downloaded.
        size: bytes of all files, where that is known.

    Raises DataUnavailable for a file that cannot be had, DataError for one that is damaged, when it is reached; and
    RowError for a row that holds no text.

        >>> shards = TextShards(["a.jsonl", "b.jsonl"], fetch=Path)        # doctest: +SKIP
        >>> shards[shards.stretch(0)[0]]        # doctest: +SKIP
        {'text': 'Once upon a time', 'where': 'text a.jsonl row 0'}
    """

    def __init__(
        self, names: Sequence[str], fetch: Callable[[str], Path], ahead: bool = False, size: int | None = None
    ):
        self.names, self.fetch, self.ahead, self.size = list(names), fetch, ahead, size
        self._forget()

    def _forget(self):
        self._number, self._shard, self._block, self._process = -1, None, Block(0, []), os.getpid()
        self._fetching: _Fetching | None = None

    def __getstate__(self) -> dict:
        """For a worker process that is given a copy: open files and threads stay behind."""
        return {name: getattr(self, name) for name in ("names", "fetch", "ahead", "size")}

    def __setstate__(self, state: dict):
        self.__dict__.update(state)
        self._forget()

    def stretch(self, index: int) -> range:
        """Numbers of the documents in memory, from `index` or, if it has no document, the next one that has.

        Empty behind the last document of the last shard.
        """
        number, row = divmod(index, ROWS_A_SHARD)
        while number < len(self.names):
            block = self._block_of(number, row)
            if block.rows:
                start = number * ROWS_A_SHARD
                return range(start + row, start + block.first + len(block.rows))
            number, row = number + 1, 0
        return range(0)

    def __getitem__(self, index: int | str) -> Any:
        """The document of a number that `stretch` gave; or all texts as a list, with "text"."""
        if index == "text":
            return [row["text"] for row in self]
        number, row = divmod(index, ROWS_A_SHARD)
        if not 0 <= number < len(self.names) or row not in (block := self._block_of(number, row)):
            raise IndexError(f"no document has the number {index}; stretch(index) gives those that there are")
        where = f"text {Path(self.names[number]).name} row {row}"
        try:
            found = read_row(block.rows, row - block.first, NAME)
        except ValueError as error:
            raise RowError(f"{where}: {error}") from None
        return {**found, "where": where}

    def __iter__(self) -> Iterator[dict]:
        index = 0
        while stretch := self.stretch(index):
            for index in stretch:
                yield self[index]
            index += 1

    def described(self) -> str:
        """How much it is, in words.

        >>> TextShards(["a.jsonl", "b.jsonl"], Path).described()
        '2 files, read when reached'
        """
        files = "1 file" if len(self.names) == 1 else f"{len(self.names):,} files"
        return f"{files}, read when reached"

    def counts(self) -> dict[str, int]:
        """Numbers that would be others if the text was another: a checkpoint keeps them."""
        return {"text files": len(self.names)} | ({} if self.size is None else {"bytes": self.size})

    def _block_of(self, number: int, row: int) -> Block:
        """The block of a shard that holds a row; one without rows behind its last."""
        if self._process != os.getpid():  # a forked worker: the parent reads on in the same open file
            self._forget()
        try:
            if self._number != number:
                self._open(number)
            if row not in self._block:
                self._block = Block(0, [])  # before the next is read, not after
                self._block = self._shard.block(row)
        except BaseException:  # also an interrupt, which may leave a file half read
            self._forget()
            raise
        return self._block

    def _open(self, number: int):
        if self._shard is not None:
            self._shard.close()
        fetching, self._number, self._shard, self._block = self._fetching, -1, None, Block(0, [])
        path = fetching.result() if fetching is not None and fetching.name == self.names[number] else None
        self._shard, self._number = open_shard(path or self.fetch(self.names[number])), number
        self._fetching = None
        if self.ahead and number + 1 < len(self.names):
            self._fetching = _Fetching(self.fetch, self.names[number + 1])


class _Fetching:
    """A file on its way, in a thread that does not keep the program from ending."""

    def __init__(self, fetch: Callable[[str], Path], name: str):
        self.name, self._fetch, self._path = name, fetch, None
        self._thread = Thread(target=self._run, name=f"fetch {name}", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._path = self._fetch(self.name)
        except (hub.DataUnavailable, OSError):
            self._path = None  # it is asked for again when it is needed, and then the error is told

    def result(self) -> Path | None:
        """Wait for the file; None if it did not come."""
        self._thread.join()
        return self._path


def load_text(
    split: str = "train", data: str | Path | None = None, num_shards: int = 1, ahead: bool = True
) -> Text | TextShards:
    """Return the documents of a split: Text of one file, TextShards of several and of the hub's text to train on.

    `num_shards`: how many of the hub's files, -1 for all; `ahead`: download the next one while one is read. In a
    directory, `pretrain_text/train.parquet` (or .jsonl, .json) is one file; of several, `pretrain_text/train/` holds
    .parquet and .jsonl files, taken in the order of their names. ValueError if both are there.

    >>> load_text("validation", data="toy")[0]["where"]
    'text validation row 0'
    """
    check_one_of("text split", split, SPLITS)
    source = resolve_data(data)
    if source == "hub" and split == "train":
        return TextShards(hub.text_shards(num_shards), hub.fetch_text_shard, ahead)
    paths = shard_paths(source, split) if isinstance(source, Path) else []
    if paths:
        return TextShards([str(path) for path in paths], Path, size=sum(path.stat().st_size for path in paths))
    return Text(split, data=data)


def shard_paths(directory: Path, split: str) -> list[Path]:
    """Return the files of a directory's split that comes in several, in the order of their names; [] where it is one.

    >>> shard_paths(Path("data"), "train")
    []
    """
    folder = directory / NAME / split
    paths = sorted(path for path in folder.glob("*") if path.suffix in ENDINGS and path.is_file())
    if paths and any(folder.with_name(f"{split}{ending}").is_file() for ending in (*ENDINGS, ".json")):
        one = find_file(directory, NAME, None, split)
        raise ValueError(f"{one} and {len(paths)} files in {folder} are both there; take one of the two away.")
    return paths
