"""ARC: grade-school science questions, https://huggingface.co/datasets/allenai/ai2_arc."""

from pathlib import Path

from nanolab.tasks.base import check_one_of
from nanolab.tasks.choice import ChoiceTask, choice_conversation
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_row

SUBSETS = ("ARC-Easy", "ARC-Challenge")
SPLITS = ("train", "validation", "test")


class ARC(ChoiceTask):
    """Questions of ARC-Easy or ARC-Challenge.

    Not every row is A to D: about 4 in 100 have the labels 1 to 4, and a few have three or five choices. The
    letters are the row's own labels, so the reply to such a row is "3".

        >>> ARC("ARC-Easy", "train", data="toy").name
        'ARC-Easy'
    """

    def __init__(self, subset: str, split: str, data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of("ARC subset", subset, SUBSETS)
        check_one_of("ARC split", split, SPLITS)
        self.name, self.part = subset, split
        self.ds = load_rows("ai2_arc", subset, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        row = read_row(self.ds, index, "ai2_arc")
        choices = row["choices"]
        return choice_conversation(row["question"], choices["label"], choices["text"], row["answerKey"])
