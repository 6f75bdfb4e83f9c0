"""Plain text for base training and for the tokenizer."""

from pathlib import Path
from typing import Any

from nanolab.tasks.base import Task, check_one_of
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_row

SPLITS = ("train", "validation")


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
        self.ds = load_rows("pretrain_text", None, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        return read_row(self.ds, index, "pretrain_text")

    def __getitem__(self, index: int | str) -> Any:
        return self.ds[index] if isinstance(index, str) else super().__getitem__(index)


def load_text(split: str = "train", data: str | Path | None = None) -> Text:
    """Return the documents of a split; see Text.

    >>> load_text("validation", data="toy")[0]["where"]
    'text validation row 0'
    """
    return Text(split, data=data)
