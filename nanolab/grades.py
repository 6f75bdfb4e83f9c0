"""Beside the line: several tasks graded at once, kept beside the runs, and shown side by side.

    grades = grade("sft", model_tag="d4", data="toy")     -> task -> Evaluation, with a table of every reply
    side_by_side(["base", "mid", "sft"], "d4")            -> a table with a column a stage

Kept under `<cache>/runs/<stage>_<model_tag>/`: `grades.json`, one object a task, the last grade of each; and
`replies/<task>.jsonl`, one object a reply.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from nanolab.checkpoint import load_checkpoint
from nanolab.evaluate import Evaluation, Progress, evaluate
from nanolab.paths import cache_dir, shown
from nanolab.runtime import pick_device, pick_dtype
from nanolab.sandbox import SandboxUnavailable, check_sandbox
from nanolab.settings import EvalConfig, check_settings
from nanolab.tasks import make_task

# nanochat's six, and SimpleSpelling.
GRADED_TASKS = ("ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SimpleSpelling", "SpellingBee")
FILE_NAME, REPLIES = "grades.json", "replies"
CHAT_CORE = "ChatCORE"


def grade(
    stage: str,
    model_tag: str = "",
    data=None,
    tasks: Sequence[str] = GRADED_TASKS,
    max_problems: int = 200,
    batch_size: int = 64,
    max_tokens: int = 320,
    device_type: str = "",
    say: Callable[[str], None] = print,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Evaluation]:
    """Grade a checkpoint on held-out rows of several tasks, greedily; the numbers are also kept, see `side_by_side`.

    In float32, so that grades do not depend on the processor's precision. `max_tokens` bounds a reply: GSM8K's own
    replies have up to 270 tokens. Where programs cannot be shut in, HumanEval is left out, and that is said.

    >>> grade("sft", "d4", data="toy", tasks=("ARC-Easy",))["ARC-Easy"].accuracy      # doctest: +SKIP
    0.51
    """
    config = EvalConfig(
        source=stage,
        model_tag=model_tag,
        task_name="|".join(without_missing_sandbox(tasks, say)),
        max_problems=max_problems,
        batch_size=batch_size,
        max_tokens=max_tokens,
        device_type=device_type,
    )
    if data is not None:
        config.data = data
    return run_eval(config, say=lambda line: None, progress=progress)


def run_eval(
    config: EvalConfig, say: Callable[[str], None] = print, progress: Callable[[Progress], None] | None = None
) -> dict[str, Evaluation]:
    """What `nanolab eval` does: grade a checkpoint on the tasks that the settings name, and keep the grades.

    Raises ValueError for an unknown task, SandboxUnavailable before any work if HumanEval cannot be run here.

    >>> run_eval(EvalConfig(model_tag="d4", task_name="ARC-Easy|GSM8K", max_problems=50))      # doctest: +SKIP
    """
    check_settings(config)
    device = pick_device(config.device_type)
    dtype, reason = pick_dtype(config.dtype, device)
    names = task_names(config.task_name)
    if "HumanEval" in names:
        check_sandbox()
    tasks = [make_task(name, data=config.data) for name in names]
    model, tokenizer, meta, path = load_checkpoint(config.source, config.model_tag, config.step, device)
    say(f"Grading {shown(path)} on {config.data} rows; device {device.type}, products in {dtype} ({reason})")
    graded = {}
    for name, task in zip(names, tasks, strict=True):
        graded[name] = evaluate(
            model,
            tokenizer,
            task,
            config.max_problems,
            config.batch_size,
            config.max_tokens,
            dtype,
            num_samples=1 if task.eval_type == "categorical" else config.num_samples,
            temperature=config.temperature,
            top_k=config.top_k,
            seed=config.seed,
            progress=progress,
        )
        say(result_line(graded[name], config.num_samples))
        if config.save:
            about = {"step": meta["step"], "data": str(config.data), "temperature": config.temperature}
            keep(config.source, meta["model_tag"], graded[name], about)
    return graded


def task_names(text: str) -> list[str]:
    """The tasks that a setting like "ARC-Easy|GSM8K" names; "" names all graded ones. Raises ValueError.

    >>> task_names("ARC-Easy|GSM8K")
    ['ARC-Easy', 'GSM8K']
    """
    names = [name.strip() for name in text.split("|")] if text else list(GRADED_TASKS)
    for name in names:
        if name not in GRADED_TASKS:
            raise ValueError(f"task_name {name!r} cannot be graded; there are: {', '.join(GRADED_TASKS)}.")
    return names


def without_missing_sandbox(tasks: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The tasks, but HumanEval only where its programs can be shut in; says so if not."""
    if "HumanEval" not in tasks:
        return list(tasks)
    try:
        check_sandbox()
    except SandboxUnavailable as error:
        say(f"HumanEval is left out: {error}")
        return [name for name in tasks if name != "HumanEval"]
    return list(tasks)


def result_line(evaluation: Evaluation, num_samples: int = 1) -> str:
    """An evaluation in a line, with pass@k if there are several samples."""
    if num_samples == 1 or evaluation.table["sample"].max() == 0:
        return str(evaluation)
    return f"{evaluation}; pass@{num_samples} {evaluation.pass_at(num_samples):.1%}"


def keep(stage: str, model_tag: str, evaluation: Evaluation, about: dict):
    """Add an evaluation to the kept grades of a checkpoint, in place of an earlier one of the same task."""
    path = grades_path(stage, model_tag)
    (path.parent / REPLIES).mkdir(parents=True, exist_ok=True)
    kept = {row["task"]: row for row in _read(path)} if path.exists() else {}
    kept[evaluation.task] = {**_numbers(evaluation), **about}
    path.write_text(json.dumps(list(kept.values()), indent=1), encoding="utf-8")
    replies = path.parent / REPLIES / f"{evaluation.task}.jsonl"
    evaluation.table.to_json(replies, orient="records", lines=True, force_ascii=False)


def side_by_side(stages: list[str], model_tag: str) -> pd.DataFrame:
    """The kept grades of a tag's stages: one row a task and one for ChatCORE; columns chance, the stages, problems.

    ChatCORE is over the tasks that all stages have. Raises FileNotFoundError naming the stage that has not been graded.
    """
    columns = {}
    for stage in stages:
        path = grades_path(stage, model_tag)
        if not path.exists():
            raise FileNotFoundError(f"{stage} {model_tag} has not been graded: call grade({stage!r}, {model_tag!r}).")
        table = pd.DataFrame(_read(path)).set_index("task")
        columns |= {"chance": table["chance"], stage: table["accuracy"], "problems": table["problems"]}
    table = pd.DataFrame(columns)[["chance", *stages, "problems"]]
    whole = table.dropna()
    table.loc[CHAT_CORE] = {
        "chance": 0.0,
        **{stage: ((whole[stage] - whole["chance"]) / (1 - whole["chance"])).mean() for stage in stages},
        "problems": whole["problems"].sum(),
    }
    return table.astype({"problems": int})


def grades_path(stage: str, model_tag: str) -> Path:
    """Where the grades of a checkpoint are kept."""
    return cache_dir() / "runs" / f"{stage}_{model_tag}" / FILE_NAME


def _read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def _numbers(evaluation: Evaluation) -> dict:
    low, high = evaluation.interval
    return {
        "task": evaluation.task,
        "accuracy": evaluation.accuracy,
        "low": low,
        "high": high,
        "chance": evaluation.chance,
        "correct": evaluation.num_correct,
        "problems": evaluation.num_problems,
    }
