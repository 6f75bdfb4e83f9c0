"""Beside the line: several tasks graded at once, kept beside the runs, and shown side by side.

    grades = grade("sft", model_tag="d4", data="toy")     -> task -> Evaluation, with a table of every reply
    side_by_side(["base", "mid", "sft"], "d4")            -> a table with a column a stage

Kept under `<cache>/runs/<stage>_<model_tag>/`: `grades.json`, one object a task, of greedy replies of one checkpoint;
and `replies/<task>.jsonl`, one object a reply.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from nanolab.checkpoint import META, find_checkpoint, load_checkpoint
from nanolab.evaluate import Evaluation, Progress, evaluate, merged
from nanolab.paths import cache_dir, shown
from nanolab.ranks import ALONE, Ranks
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
    data: str | Path | None = None,
    tasks: Sequence[str] = GRADED_TASKS,
    max_problems: int = 200,
    batch_size: int = 64,
    max_tokens: int = 320,
    device_type: str = "",
    say: Callable[[str], None] = print,
    progress: Callable[[Progress], None] | None = None,
    reuse: bool = False,
) -> dict[str, Evaluation]:
    """Grade a checkpoint on held-out rows of several tasks, greedily; the numbers are also kept, see `side_by_side`.

    In float32, so that grades do not depend on the processor's precision. `max_tokens` bounds a reply: GSM8K's own
    replies have up to 270 tokens. Where programs cannot be shut in, HumanEval is left out, and that is said. With
    `reuse`, tasks that were graded before, on the same checkpoint, rows and settings, are not graded again: greedy
    replies would be the same; which tasks these are is said.

    >>> grade("sft", "d4", data="toy", tasks=("ARC-Easy",))["ARC-Easy"].accuracy      # doctest: +SKIP
    0.51
    """
    names = without_missing_sandbox(tasks, say)
    if not names:
        return {}
    config = EvalConfig(
        source=stage,
        model_tag=model_tag,
        task_name="|".join(names),
        max_problems=max_problems,
        batch_size=batch_size,
        max_tokens=max_tokens,
        device_type=device_type,
    )
    if data is not None:
        config.data = data
    before = kept_evaluations(config, names) if reuse else {}
    if before:
        say(f"{stage}: kept from an earlier grading of this checkpoint: {', '.join(before)}")
    config.task_name = "|".join(name for name in names if name not in before)
    graded = run_eval(config, say=lambda line: None, progress=progress) if config.task_name else {}
    return {name: before.get(name) or graded[name] for name in names}


def run_eval(
    config: EvalConfig,
    say: Callable[[str], None] = print,
    progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Evaluation]:
    """What `nanolab eval` does: grade a checkpoint on the tasks that the settings name, and keep the grades.

    Raises ValueError for an unknown task, SandboxUnavailable before any work if HumanEval is named and cannot be run
    here; when no task is named it is left out instead, and that is said. Several `ranks` share the problems; each gets
    all grades, `progress` sees its own share, and rank 0 keeps and says them.

    >>> run_eval(EvalConfig(model_tag="d4", task_name="ARC-Easy|GSM8K", max_problems=50))      # doctest: +SKIP
    """
    check_settings(config)
    say = say if ranks.leads else lambda line: None
    device = pick_device(config.device_type, ranks.local_rank)
    dtype, reason = ranks.same(pick_dtype(config.dtype, device))
    names = task_names(config.task_name) if config.task_name else without_missing_sandbox(GRADED_TASKS, say)
    if "HumanEval" in names:
        check_sandbox()
    tasks = [make_task(name, data=config.data) for name in names]
    model, tokenizer, meta, path = load_checkpoint(config.source, config.model_tag, config.step, device)
    say(f"Grading {shown(path)} on {config.data} rows; device {device.type}, products in {dtype} ({reason})")
    graded = {}
    for name, task in zip(names, tasks, strict=True):
        part = evaluate(
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
            share=(ranks.rank, ranks.world_size),
        )
        graded[name] = merged(ranks.gather(part))
        say(result_line(graded[name], config.num_samples))
        if config.save and ranks.leads:
            keep(config.source, meta["model_tag"], graded[name], config, path)
    return graded


def task_names(text: str) -> list[str]:
    """The tasks that a setting like "ARC-Easy|GSM8K" names, each once. Raises ValueError.

    >>> task_names("ARC-Easy|GSM8K")
    ['ARC-Easy', 'GSM8K']
    """
    names = list(dict.fromkeys(name.strip() for name in text.split("|")))
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


def keep(stage: str, model_tag: str, evaluation: Evaluation, config: EvalConfig, checkpoint: Path) -> None:
    """Keep every reply, and, if they are greedy, the numbers, in place of earlier ones of the same task.

    Numbers of another checkpoint (another step, or trained anew) or of other rows are dropped: they would stand beside
    these as if they were of one model.
    """
    folder = grades_path(stage, model_tag).parent
    (folder / REPLIES).mkdir(parents=True, exist_ok=True)
    sampled = f"_temperature_{config.temperature:g}" if config.temperature else ""
    replies = folder / REPLIES / f"{evaluation.task}{sampled}.jsonl"
    evaluation.table.to_json(replies, orient="records", lines=True, force_ascii=False)
    if config.temperature and evaluation.table["sample"].max() > 0:
        return
    about = _about(config, checkpoint)
    path = grades_path(stage, model_tag)
    same = [row for row in _read(path) if all(row.get(key) == about[key] for key in ("checkpoint", "data"))]
    kept = {row["task"]: row for row in same} | {evaluation.task: {**_numbers(evaluation), **about}}
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(list(kept.values()), indent=1), encoding="utf-8")
    beside.replace(path)


def kept_evaluations(config: EvalConfig, names: Sequence[str]) -> dict[str, Evaluation]:
    """Greedy evaluations of these tasks that were kept of the checkpoint that the settings name, with their replies."""
    checkpoint = find_checkpoint(config.source, config.model_tag, config.step)
    about, path = _about(config, checkpoint), grades_path(config.source, checkpoint.parent.name)
    found = {}
    for row in _read(path):
        replies = path.parent / REPLIES / f"{row['task']}.jsonl"
        if row["task"] in names and all(row.get(key) == value for key, value in about.items()) and replies.exists():
            table = pd.read_json(replies, lines=True, dtype=False)  # "12" stays text
            num_problems = table["problem"].nunique()
            found[row["task"]] = Evaluation(
                row["task"], int(table["correct"].sum()), num_problems, row["chance"], table
            )
    return found


def _about(config: EvalConfig, checkpoint: Path) -> dict:
    """What two gradings must have in common to be the same."""
    written = (checkpoint / META).stat().st_mtime_ns
    about = {"checkpoint": f"{checkpoint.name} {written}", "data": str(config.data)}
    return about | {"max_problems": config.max_problems, "max_tokens": config.max_tokens}


def side_by_side(stages: list[str], model_tag: str) -> pd.DataFrame:
    """The kept grades of a tag's stages: one row a task and one for ChatCORE; columns chance, the stages, problems.

    A task that a stage was not graded on is NaN there, and ChatCORE is over the tasks that all stages have. `problems`
    is the smallest number of them. Raises FileNotFoundError naming the stage that has not been graded.
    """
    tables = {stage: pd.DataFrame(_read(grades_path(stage, model_tag), stage)).set_index("task") for stage in stages}
    tasks = list(dict.fromkeys(task for table in tables.values() for task in table.index))
    tasks.sort(key=GRADED_TASKS.index)
    accuracies = pd.DataFrame({stage: table["accuracy"].reindex(tasks) for stage, table in tables.items()})
    first = {name: pd.concat([table[name] for table in tables.values()]) for name in ("chance", "problems")}
    chance = first["chance"].groupby(level=0).first().reindex(tasks)
    problems = first["problems"].groupby(level=0).min().reindex(tasks)
    whole = accuracies.dropna()
    centered = whole.sub(chance[whole.index], axis=0).div(1 - chance[whole.index], axis=0)
    accuracies.loc[CHAT_CORE] = centered.mean()
    chance.loc[CHAT_CORE], problems.loc[CHAT_CORE] = 0.0, problems[whole.index].sum()
    return pd.concat([chance, accuracies, problems.astype(int)], axis=1)


def grades_path(stage: str, model_tag: str) -> Path:
    """Where the grades of a checkpoint are kept."""
    return cache_dir() / "runs" / f"{stage}_{model_tag}" / FILE_NAME


def _read(path: Path, stage: str = "") -> list[dict]:
    """The kept numbers; without any, none, or with a stage's name an error."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if stage:
        tag = path.parent.name.removeprefix(f"{stage}_")
        raise FileNotFoundError(f"{stage} {tag} has not been graded: call grade({stage!r}, {tag!r}).")
    return []


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
