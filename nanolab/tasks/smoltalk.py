"""SmolTalk: general chat, made for small models,
https://huggingface.co/datasets/HuggingFaceTB/smol-smoltalk."""

from pathlib import Path

from nanolab.tasks.base import Task, check_one_of
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_row

SPLITS = ("train", "test")


class SmolTalk(Task):
    """Chats of one or more turns, some with a system message first; the hub has 460,341 train rows.

    >>> SmolTalk("test", data="toy")[0]["messages"][-1]["role"]
    'assistant'
    """

    name = "SmolTalk"

    def __init__(self, split: str, data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of("SmolTalk split", split, SPLITS)
        self.part = split
        self.ds = load_rows("smol-smoltalk", None, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        messages = read_row(self.ds, index, "smol-smoltalk")["messages"]
        return {"messages": [{"role": message["role"], "content": message["content"]} for message in messages]}
