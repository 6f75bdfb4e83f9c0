"""What test_ranks.py starts under torchrun: trains small jobs on all ranks and leaves what came out in a file.

torchrun --nproc-per-node 2 -m tests.ranks_worker all results.pt
"""

import os
import signal
import sys

import torch

from nanolab.jobs import Job, run, start
from nanolab.ranks import ALONE, Ranks, joined
from nanolab.settings import BaseConfig, MidConfig, SFTConfig

COMMON = {"data": "toy", "device_type": "cpu", "dtype": "float32"}
STREAM = {"max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 192, "eval_tokens": 192, "num_iterations": 3}
SFT = {**COMMON, "source": "base", "num_iterations": 3, "init_lr_frac": 0.5, "eval_every": 2, "eval_steps": 2}
SFT |= {"eval_metrics_every": 2, "eval_metrics_max_problems": 5, "device_batch_tokens": 300}
QUIET = {"eval_every": -1, "eval_metrics_max_problems": 1, "save": False}

JOBS = {
    "packed": SFTConfig(**SFT, save=False, target_examples_per_step=9),
    "padded": SFTConfig(**{**SFT, **QUIET}, batching="padded", device_batch_size=2, target_examples_per_step=7),
    "bucketed": SFTConfig(**{**SFT, **QUIET}, batching="bucketed", target_examples_per_step=7),
    "fewer conversations than ranks": SFTConfig(**{**SFT, **QUIET}, target_examples_per_step=1),
    "some ranks have nothing supervised": SFTConfig(
        **{**SFT, **QUIET}, target_examples_per_step=3, max_data_tokens=60, overlong="truncate"
    ),
    "a step without anything supervised": SFTConfig(
        **{**SFT, **QUIET}, target_examples_per_step=2, max_data_tokens=12, overlong="truncate"
    ),
    "all skipped": SFTConfig(**{**SFT, **QUIET}, target_examples_per_step=2, max_data_tokens=3),
    "shared Muon": SFTConfig(**{**SFT, **QUIET}, target_examples_per_step=5, share_muon="on"),
    "two workers that load": SFTConfig(**{**SFT, **QUIET}, target_examples_per_step=5, num_workers=2),
    "base": BaseConfig(**COMMON, **STREAM, depth=2, save=False),
    "mid": MidConfig(**COMMON, **STREAM, save=False),
}
SAVING = SFTConfig(
    **{**SFT, "num_iterations": 6, "eval_every": -1, "eval_metrics_max_problems": 1},
    target_examples_per_step=4,
    save_every=2,
    share_muon="on",
)
KILLED_AT = 3  # the step after which rank 1 dies, the first time


def quiet(_line: str):
    """Where the jobs' words go."""


def result(job: Job, reports: list) -> dict:
    """What must not depend on the number of ranks, and a few things that may."""
    return {
        "losses": [report.loss for report in reports],
        "num_tokens": [report.num_tokens for report in reports],
        "real_tokens": [report.real_tokens for report in reports],
        "metrics": [report.metrics for report in reports] + [job.metrics],
        "weights": {name: weight.clone() for name, weight in job.model.state_dict().items()},
        "left_out": job.left_out,
        "imbalance": [report.imbalance for report in reports],
    }


def outcome(config, ranks: Ranks = ALONE, most: int | None = None) -> dict:
    """Train a job, or its first `most` steps."""
    job, reports = start(config, quiet, ranks), []
    for report in run(job, quiet):
        reports.append(report)
        if len(reports) == most:
            break
    return result(job, reports)


def killed_once(ranks: Ranks) -> dict:
    """Train the saving job; rank 1 is killed on the way, unless that has happened already."""
    job, reports = start(SAVING, quiet, ranks), []
    for report in run(job, quiet):
        reports.append(report)
        if report.step == KILLED_AT and ranks.rank == 1 and ranks.earlier.starts == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return {**result(job, reports), "steps": [report.step for report in reports], "restarts": ranks.earlier.starts}


def main(what: str, path: str):
    """Do it, and let rank 0 write what came out."""
    torch.set_num_threads(1)
    with joined("cpu") as ranks:
        if what == "all":
            results = {name: outcome(config, ranks) for name, config in JOBS.items()}
        elif what == "half":
            results = outcome(SAVING, ranks, most=3)
        elif what == "resume":
            results = outcome(SFTConfig(**{**vars(SAVING), "resume": "latest"}), ranks)
        else:
            results = {"one": outcome, "killed": killed_once}[what](*([JOBS["packed"]] if what == "one" else []), ranks)
        if ranks.leads:
            torch.save(results, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
