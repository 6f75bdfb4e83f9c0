"""HumanEval: complete a Python function, https://huggingface.co/datasets/openai/openai_humaneval."""

import re
from collections.abc import Iterable
from pathlib import Path

from nanolab.sandbox import Outcome, Program, run_program, run_programs
from nanolab.tasks.base import Task, check_one_of
from nanolab.tasks.rows import load_rows
from nanolab.tasks.schema import read_row

# A block of code in a reply; the last one may lack its end, where the reply was cut.
CODE_BLOCK = re.compile(r"^[ \t]*```(?:python|py)?[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M | re.I)


class HumanEval(Task):
    """164 functions to complete; the user message is the head of a program, the reply the whole program.

    Rows keep "entry_point" (the function's name) and "test" (a program that checks it). Replies are run in `sandbox`.

        >>> HumanEval(data="toy")[0]["entry_point"] in HumanEval(data="toy")[0]["messages"][0]["content"]
        True
    """

    name = "HumanEval"
    eval_type = "generative"

    def __init__(self, split: str = "test", data: str | Path | None = None, **view: int):
        super().__init__(**view)
        check_one_of("HumanEval split", split, ("test",))
        self.part = split
        self.ds = load_rows("openai_humaneval", None, split, data)

    def num_examples(self) -> int:
        return len(self.ds)

    def get_example(self, index: int) -> dict:
        row = read_row(self.ds, index, "openai_humaneval")
        user = {"role": "user", "content": row["prompt"]}
        # The newline between the two is nanochat's; an empty line inside the function, harmless to Python.
        program = f"{row['prompt']}\n{row['canonical_solution']}"
        messages = [user, {"role": "assistant", "content": program}]
        return {"messages": messages, "entry_point": row["entry_point"], "test": row["test"]}

    def evaluate(self, conversation: dict, reply: str) -> bool:
        """Return whether a reply's program passes the row's test; raises SandboxUnavailable, as `verdict` does."""
        return self.verdict(conversation, reply).passed

    def verdict(self, conversation: dict, reply: str) -> Outcome:
        """Run a reply's program and its test in the sandbox, and say what became of it.

        Raises SandboxUnavailable where programs cannot be shut in (see `nanolab.sandbox`).

            >>> task = HumanEval(data="toy")
            >>> task.verdict(task[0], "I do not know").detail[:12]
            'SyntaxError:'
        """
        return run_program(judged_program(conversation, reply))

    def verdicts(
        self, conversations: Iterable[dict], replies: Iterable[str], workers: int | None = None
    ) -> list[Outcome]:
        """`verdict` of each reply to the conversation beside it, `workers` at once (None: one a processor).

        >>> task = HumanEval(data="toy", stop=2)
        >>> [outcome.passed for outcome in task.verdicts(task, [c["messages"][-1]["content"] for c in task])]
        [True, True]
        """
        pairs = zip(conversations, replies, strict=True)
        return run_programs([judged_program(conversation, reply) for conversation, reply in pairs], workers)


def judged_program(conversation: dict, reply: str) -> Program:
    """A reply's program, with the imports that the prompt began with, and the row's test as its judge.

    The judge repeats the prompt, since some tests call functions that stand there beside the one to complete, and knows
    the reply's function by its own name too: the test of HumanEval's sort_third calls it so.

        >>> row = {"messages": [{"role": "user", "content": "import math\\ndef f():\\n"}], "entry_point": "f"}
        >>> judged_program({**row, "test": ""}, "Sure!\\n```python\\ndef f(): ...\\n```").text
        'import math\\n\\ndef f(): ...\\n'
    """
    prompt, function = conversation["messages"][0]["content"], conversation["entry_point"]
    head = f"{prompt}\n    pass\n\n{function} = candidate\n"  # a body for the function, whose prompt may have none
    judge = f"{head}\n{conversation['test']}\n\ncheck(candidate)\n"
    return Program(f"{imports(prompt)}\n{code_in(reply, function)}", judge, function)


def imports(prompt: str) -> str:
    """The import lines that a program begins with, as nanochat takes them (tasks/humaneval.py).

    >>> imports("# sums\\nfrom math import pi\\n\\ndef f():\\n    import os\\n")
    'from math import pi\\n'
    """
    found = []
    for line in prompt.splitlines():
        if line.startswith(("import ", "from ")):
            found.append(f"{line}\n")
        elif line.strip() and not line.startswith("#"):
            break
    return "".join(found)


def code_in(reply: str, function: str) -> str:
    """The program in a reply: the first code block that defines the function, else the first, else the whole reply.

    >>> code_in("```\\nx = 1\\n```\\nor\\n```python\\ndef f():\\n    return 2\\n```", "f")
    'def f():\\n    return 2\\n'
    """
    blocks = CODE_BLOCK.findall(reply)
    defining = [block for block in blocks if re.search(rf"^\s*def {re.escape(function)}\b", block, re.MULTILINE)]
    return [*defining, *blocks, reply][0]
