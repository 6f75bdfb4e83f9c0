"""What a job measures before a step and at the end."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import torch

from nanolab.evaluate import Evaluation, evaluate, loss_sum, merged, ratio, text_sum
from nanolab.gpt import GPT
from nanolab.interrupt import Interrupted
from nanolab.jobs.job import Evaluate, Guard, Here, Job, Say
from nanolab.jobs.steps import step_dataset
from nanolab.ranks import Ranks
from nanolab.settings import BaseConfig, MidConfig, SFTConfig
from nanolab.sharded import whole
from nanolab.stream import StreamDataset
from nanolab.tasks import ARC, MMLU, sft_validation
from nanolab.tokenizer import Tokenizer

Value = TypeVar("Value")


def _due(step: int, every: int, num_iterations: int) -> bool:
    """Evaluations are due every so many steps, and after the last one; -1: only then."""
    return step == num_iterations or (every > 0 and step % every == 0)


def stream_evaluation(
    model: GPT,
    tokenizer: Tokenizer,
    stream: StreamDataset,
    config: BaseConfig | MidConfig,
    num_iterations: int,
    here: Here,
) -> Evaluate:
    """step -> {"val_loss", "val_bpb"} over the first `eval_tokens` of the validation stream."""
    num_steps = max(1, config.eval_tokens // config.total_batch_size)
    num_bytes = torch.tensor(tokenizer.num_bytes())

    def evaluation(step: int, guard: Guard = nullcontext) -> dict[str, float]:
        if not _due(step, config.eval_every, num_iterations):
            return {}
        batches = [batch for s in range(num_steps) for batch in stream[s].batches]
        full = whole(model)
        return {
            "val_loss": ratio(_together(here.ranks, guard, lambda: loss_sum(full, batches, here.dtype))),
            "val_bpb": ratio(_together(here.ranks, guard, lambda: text_sum(full, batches, num_bytes, here.dtype))),
        }

    return evaluation


def sft_evaluation(model: GPT, tokenizer: Tokenizer, config: SFTConfig, num_iterations: int, here: Here) -> Evaluate:
    """step -> {"val_loss", "mmlu_acc", "arc_easy_acc"}, each when it is due."""
    num_examples = config.eval_steps * config.device_batch_size
    rows, static_shapes = sft_validation(data=config.data), here.keeps_graphs
    validation = step_dataset(rows, tokenizer, num_examples, config, here.ranks, static_shapes)
    tasks = {
        "mmlu_acc": MMLU("all", "test", data=config.data),
        "arc_easy_acc": ARC("ARC-Easy", "test", data=config.data),
    }

    def grade(full: GPT, task) -> Evaluation:
        options = {"dtype": here.dtype, "share": (here.ranks.rank, here.ranks.world_size)}
        most = config.eval_metrics_max_problems
        return evaluate(full, tokenizer, task, most, config.device_batch_size * 2, **options)

    def evaluation(step: int, guard: Guard = nullcontext) -> dict[str, float]:
        loss_is_due = _due(step, config.eval_every, num_iterations)
        grades_are_due = step > 0 and _due(step, config.eval_metrics_every, num_iterations)
        metrics = {}
        full = whole(model) if loss_is_due or grades_are_due else model
        if loss_is_due:
            batches = validation[0].batches
            metrics["val_loss"] = ratio(_together(here.ranks, guard, lambda: loss_sum(full, batches, here.dtype)))
        for name, task in tasks.items() if grades_are_due else ():
            metrics[name] = merged(_together(here.ranks, guard, partial(grade, full, task))).accuracy
        return metrics

    return evaluation


def _together(ranks: Ranks, guard: Guard, work: Callable[[], Value]) -> list[Value]:
    """What every rank's own share of some work came to. Inside `guard` a signal raises Interrupted at once.

    Not so where ranks wait for each other: all of them stop, or none. So a sharded model is made whole before.
    """
    try:
        with guard():
            mine, stopped = work(), None
    except Interrupted as error:
        mine, stopped = None, error.signal_number
    results = ranks.gather((mine, stopped))
    numbers = [number for _, number in results if number is not None]
    if numbers:
        raise Interrupted("Stopped.", numbers[0])
    return [value for value, _ in results]


def evaluate_and_say(job: Job, step: int, say: Say, guard: Guard = nullcontext) -> dict[str, float]:
    """What is due before a step, or behind the last; `guard`: see Guard."""
    metrics = job.evaluate(step, guard)
    job.metrics.update(metrics)
    if "val_loss" in metrics:
        loss = metrics["val_loss"]
        shown_loss = "none (no supervised token)" if loss is None else f"{loss:.4f}"
        say(f"Step {step:05d} | Validation loss: {shown_loss}" + _and(metrics, "val_bpb"))
    accuracies = [f"{name}: {value:.4f}" for name, value in metrics.items() if name.endswith("_acc")]
    if accuracies:
        say(f"Step {step:05d} | {', '.join(accuracies)}")
    return metrics


def _and(metrics: dict[str, float], name: str) -> str:
    return f" | {name}: {metrics[name]:.4f}" if metrics.get(name) is not None else ""
