"""The run's metrics.jsonl: a line a step."""

import json
import os
from dataclasses import asdict
from typing import TextIO

from nanolab.jobs.job import Job
from nanolab.jobs.saving import plain_settings
from nanolab.trackers import About
from nanolab.train import Report


def open_metrics(job: Job) -> TextIO:
    """`metrics.jsonl`, opened to go on behind the steps that the job does not repeat; only rank 0 has one."""
    if not job.ranks.leads:
        return open(os.devnull, "a", encoding="utf-8")
    job.run_dir.mkdir(parents=True, exist_ok=True)
    path = job.run_dir / "metrics.jsonl"
    kept = []
    if job.first_step and path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (step := _step_of(line)) is not None and step < job.first_step]
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(beside, path)  # a full disk, or a kill, leaves the former lines
    return open(path, "a", encoding="utf-8")


def _step_of(line: str) -> int | None:
    """The step of a line of metrics; None for one that a killed run left half written, or somebody else wrote."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


def write_line(metrics_file: TextIO, report: Report) -> None:
    """One JSON object a step; evaluations stand beside the step's own numbers."""
    line = asdict(report)
    metrics, left_out = line.pop("metrics"), line.pop("left_out")
    metrics_file.write(json.dumps({**line, "left_out": len(left_out), **metrics}, allow_nan=False) + "\n")
    metrics_file.flush()  # a reader, or a crash, finds every finished step


def about(job: Job) -> About:
    """What the run's files and trackers say about it."""
    return About(
        run_dir=job.run_dir,
        stage=job.stage,
        model_tag=job.model_tag,
        num_iterations=job.num_iterations,
        dtype=job.dtype,
        settings=plain_settings(job.config),
        first_step=job.first_step,
        leads=job.ranks.leads,
    )
