"""Beside the line: several tasks graded at once, kept beside the runs, and shown side by side.

grades = grade("sft", model_tag="d4", data="toy")     -> one row a task: task, accuracy, chance, correct, problems
side_by_side(["mid", "sft"], "d4")                    -> a table with a column a stage
"""

import json
from pathlib import Path

import pandas as pd

from nanolab.checkpoint import load_checkpoint
from nanolab.evaluate import Evaluation, evaluate
from nanolab.paths import cache_dir
from nanolab.runtime import pick_device
from nanolab.tasks import make_task

GRADED_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "SimpleSpelling", "SpellingBee")
FILE_NAME = "grades.json"


def grade(
    stage: str,
    model_tag: str = "",
    data=None,
    tasks: tuple[str, ...] = GRADED_TASKS,
    max_problems: int = 200,
    batch_size: int = 64,
    max_tokens: int = 320,
    device_type: str = "",
) -> dict[str, Evaluation]:
    """Grade a checkpoint on held-out rows of several tasks; the numbers are also kept as JSON, see `side_by_side`.

    In float32, so that grades do not depend on the processor's precision. `max_tokens` bounds a reply: GSM8K's own
    replies have up to 270 tokens.

    >>> grade("sft", "d4", data="toy", tasks=("ARC-Easy",))["ARC-Easy"].accuracy      # doctest: +SKIP
    0.51
    """
    model, tokenizer, meta, _ = load_checkpoint(stage, model_tag, device=pick_device(device_type))
    graded = {
        name: evaluate(model, tokenizer, make_task(name, data=data), max_problems, batch_size, max_tokens)
        for name in tasks
    }
    path = grades_path(stage, meta["model_tag"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([_numbers(evaluation) for evaluation in graded.values()], indent=1), encoding="utf-8")
    return graded


def side_by_side(stages: list[str], model_tag: str) -> pd.DataFrame:
    """The kept grades of a tag's stages: one row a task, columns chance, the stages, and problems.

    Raises FileNotFoundError naming the stage that has not been graded.
    """
    columns = {}
    for stage in stages:
        path = grades_path(stage, model_tag)
        if not path.exists():
            raise FileNotFoundError(f"{stage} {model_tag} has not been graded: call grade({stage!r}, {model_tag!r}).")
        table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))).set_index("task")
        columns |= {"chance": table["chance"], stage: table["accuracy"], "problems": table["problems"]}
    order = ["chance", *stages, "problems"]
    return pd.DataFrame(columns)[order]


def grades_path(stage: str, model_tag: str) -> Path:
    """Where the grades of a checkpoint are kept."""
    return cache_dir() / "runs" / f"{stage}_{model_tag}" / FILE_NAME


def _numbers(evaluation: Evaluation) -> dict:
    return {
        "task": evaluation.task,
        "accuracy": evaluation.accuracy,
        "chance": evaluation.chance,
        "correct": evaluation.num_correct,
        "problems": evaluation.num_problems,
    }
