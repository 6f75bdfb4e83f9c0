"""HumanEval: complete a Python function, https://huggingface.co/datasets/openai/openai_humaneval."""

from nanolab.tasks.base import Task, check_one_of
from nanolab.tasks.rows import load_rows


class HumanEval(Task):
    """164 functions to complete; the user message is the head of a program, the reply the whole program.

    Rows keep "entry_point" (the function's name) and "test" (a program that checks it).

        >>> HumanEval(data="toy")[0]["entry_point"] in HumanEval(data="toy")[0]["messages"][0]["content"]
        True
    """

    name = "HumanEval"
    eval_type = "generative"

    def __init__(self, split="test", data=None, **view):
        super().__init__(**view)
        check_one_of("HumanEval split", split, ("test",))
        self.part = split
        self.ds = load_rows("openai_humaneval", None, split, data)

    def num_examples(self):
        return len(self.ds)

    def get_example(self, index):
        row = self.ds[index]
        user = {"role": "user", "content": row["prompt"]}
        # The newline between the two is nanochat's; an empty line inside the function, harmless to Python.
        program = f"{row['prompt']}\n{row['canonical_solution']}"
        messages = [user, {"role": "assistant", "content": program}]
        return {"messages": messages, "entry_point": row["entry_point"], "test": row["test"]}

    def evaluate(self, conversation, reply):
        """Not yet: a reply is a program, and nanolab runs no program that a model wrote outside a sandbox."""
        raise NotImplementedError(
            "HumanEval replies are programs; running them needs a sandbox, which nanolab does not have yet"
        )
