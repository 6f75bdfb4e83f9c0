"""GSM8K: grade-school word problems with a calculator, https://huggingface.co/datasets/openai/gsm8k.

An answer marks every calculation, `<<expression=result>>`, just before the text that repeats the result:

    Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.
    #### 10

We read a mark as a use of Python: the model says the expression, the tool says the result.
"""

import re
from pathlib import Path

from nanolab.tasks.answer import same_final_number
from nanolab.tasks.base import PART_TYPES, Task, check_one_of
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_row

SUBSETS = ("main", "socratic")
SPLITS = ("train", "test")
# The last "=" parts expression and result. A mark without one calculates nothing and stays text.
CALCULATION = re.compile(r"<<([^<>]+)=([^<>=]+)>>")


class GSM8K(Task):
    """Word problems whose replies are steps with calculations and end on "#### <number>".

    >>> GSM8K("main", "train", data="toy")[0]["messages"][1]["content"][1]["type"]
    'python'
    """

    name = "GSM8K"
    eval_type = "generative"

    def __init__(self, subset: str = "main", split: str = "train", data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of("GSM8K subset", subset, SUBSETS)
        check_one_of("GSM8K split", split, SPLITS)
        self.part = f"{subset}/{split}"
        self.ds = load_rows("gsm8k", subset, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        row = read_row(self.ds, index, "gsm8k")
        user = {"role": "user", "content": row["question"]}
        return {"messages": [user, {"role": "assistant", "content": answer_parts(row["answer"])}]}

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether the number after "#### " in the reply equals that of the row's own answer."""
        return same_final_number(conversation, reply)


def answer_parts(answer: str) -> list[dict]:
    """Split an answer at its calculations into text, python and python_output parts, none of them empty.

    The text after a calculation repeats the result, and is kept: the model learns to use what the tool said.

        >>> [part["text"] for part in answer_parts("$<<12/60=0.2>>0.2 per minute")]
        ['$', '12/60', '0.2', '0.2 per minute']
    """
    pieces = CALCULATION.split(answer)  # text, expression, result, text, expression, result, ..., text
    parts = [{"type": PART_TYPES[i % 3], "text": piece} for i, piece in enumerate(pieces)]
    return [part for part in parts if part["text"]]
