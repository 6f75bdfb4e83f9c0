"""MMLU: multiple-choice questions on 57 subjects, https://huggingface.co/datasets/cais/mmlu."""

from pathlib import Path

from datasets import Dataset

from nanolab.tasks.base import check_one_of
from nanolab.tasks.choice import ChoiceTask, choice_conversation
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_column, read_row

LETTERS = "ABCD"
SPLITS = ("test", "validation", "dev")


class MMLU(ChoiceTask):
    """Questions of MMLU.

    `subset` is "all" or a subject's name (splits test, validation, dev), or "auxiliary_train" (split train).
    Rows keep their subject under conversation["subject"]; it is "" in auxiliary_train.

        >>> MMLU("all", "test", data="toy")[0]["letters"]
        ['A', 'B', 'C', 'D']
    """

    name = "MMLU"

    def __init__(self, subset: str = "all", split: str = "test", data: str | Path | None = None, **view: int):
        super().__init__(**view)
        self.part = f"{subset}/{split}"
        if subset == "auxiliary_train":
            check_one_of("MMLU auxiliary_train split", split, ("train",))
            self.ds = load_rows("mmlu", "all", "auxiliary_train", data)
        else:
            check_one_of("MMLU split", split, SPLITS)
            self.ds = only_subject(load_rows("mmlu", "all", split, data), subset)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        row = read_row(self.ds, index, "mmlu")
        choices = row["choices"]
        letters = list(LETTERS[: len(choices)])
        if not 0 <= row["answer"] < len(letters):
            raise ValueError(f"answer {row['answer']} is not the number of one of the {len(choices)} choices")
        conversation = choice_conversation(row["question"], letters, choices, letters[row["answer"]])
        return {**conversation, "subject": row["subject"]}


def only_subject(rows: Dataset, subject: str) -> Dataset:
    """Return the rows of one subject, in their order; all rows for "all"."""
    if subject == "all":
        return rows
    subjects = read_column(rows, "subject")
    known = sorted(name for name in set(subjects) if name)  # a damaged row may have none
    check_one_of("MMLU subject", subject, ("all", "auxiliary_train", *known))
    return rows.select([i for i, of_row in enumerate(subjects) if of_row == subject])
