"""What test_ranks.py starts under torchrun: trains small jobs on all ranks and leaves what came out in a file.

torchrun --nproc-per-node 2 -m tests.ranks_worker results.pt all=FOLDER half=OTHER_FOLDER
torchrun --nproc-per-node 2 -m tests.ranks_worker unprepared NAME

Each FOLDER is the cache folder of one thing to do: many are done in one start, which takes long.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from nanolab import cli
from nanolab.batch import Step, StepDataset
from nanolab.interrupt import Interrupted
from nanolab.jobs import Job, run, start
from nanolab.launch import options
from nanolab.optim import Muon, states
from nanolab.ranks import ALONE, Ranks, joined
from nanolab.settings import BaseConfig, MidConfig, SFTConfig
from nanolab.sharded import gathered, part_of, whole

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
    "base": BaseConfig(**COMMON, **STREAM, depth=2, save=False, grad_clip=0.1),
    "mid": MidConfig(**COMMON, **STREAM, save=False),
}
SAVING = SFTConfig(
    **{**SFT, "num_iterations": 6, "eval_every": -1, "eval_metrics_max_problems": 1},
    target_examples_per_step=4,
    save_every=2,
    share_muon="on",
)
LOADED_BY_WORKERS = "two workers that load"  # which sharding has nothing to do with
SHARDED = {name: replace(config, shard_weights=True) for name, config in JOBS.items() if name != LOADED_BY_WORKERS}
MATRICES = [
    (32, 32),
    (5, 12),
    (12, 5),
    (32, 32),
    (1, 24),
    (5, 12),
    (32, 32),
]  # of several shapes; rows that do not share
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
        "weights": {name: weight.clone() for name, weight in whole(job.model).state_dict().items()},
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


def moved_by_muon(ranks: Ranks, shared: bool, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Random matrices behind three steps of Muon, which has them whole, or on every rank a part of each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (ranks.world_size,))
    numbers = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=numbers)) for shape in MATRICES]
    if shared:
        weights = [torch.nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)])) for weight in weights]
    muon = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.1, dtype=dtype)
    for _ in range(3):
        for weight in weights:
            weight.grad = part_of(torch.randn(weight.shape, generator=numbers), weight)
        muon.step()
    return list(gathered({str(k): weight.detach() for k, weight in enumerate(weights)}).values())


def stopped_in_evaluation(ranks: Ranks) -> dict:
    """Rank 1 is stopped in its share of an evaluation: what came of it here, and what all measure afterwards."""

    @contextmanager
    def guard() -> Iterator[None]:
        yield
        if ranks.rank == 1:
            raise Interrupted("Stopped.", signal.SIGTERM)

    said = []
    job = start(SHARDED["packed"], said.append, ranks)
    try:
        stopped = job.evaluate(0, guard)
    except Interrupted as error:
        stopped = int(error.signal_number)
    return {"stopped": ranks.gather(stopped), "measured": job.evaluate(0), "said": said}


def sharded(ranks: Ranks) -> dict:
    """All jobs with shared weights; Muon on parts and on whole matrices; and checkpoints, that of one process resumed
    and one for others to resume."""
    results = {"jobs": {name: outcome(config, ranks) for name, config in SHARDED.items()}}
    results["muon"] = [moved_by_muon(ranks, shared) for shared in (False, True)]
    results["stopped in an evaluation"] = stopped_in_evaluation(ranks)
    saving = replace(SAVING, shard_weights=True)
    results["resumed"] = outcome(replace(saving, resume="latest", save=False, save_every=-1), ranks)
    results["half"] = outcome(saving, ranks, most=3)
    return results


def collected(ranks: Ranks) -> dict:
    """A shared Muon's state by `states`, before and after a step, and then by the optimizer's own way."""
    job = start(JOBS["shared Muon"], quiet, ranks)
    muon = job.optimizers[1]
    own_way, muon.consolidate_state_dict = muon.consolidate_state_dict, None  # whoever calls it here fails
    before = states(job.optimizers)[1]
    next(run(job, quiet))
    after = states(job.optimizers)[1]
    own_way(to=0)
    return {"before": before, "after": after, "own way": muon.state_dict() if ranks.leads else {}}


def gradients_kept(ranks: Ranks) -> dict:
    """Behind each step: where the gradients are, their bytes, and those of the storages in which they lie."""
    job, found = start(replace(JOBS["packed"], num_iterations=5, device_batch_tokens=60), quiet, ranks), []
    for report in run(job, quiet):
        gradients = [weight.grad for weight in job.model.parameters()]
        storages = {gradient.untyped_storage().data_ptr(): gradient.untyped_storage() for gradient in gradients}
        size, room = sum(each.nbytes for each in gradients), sum(each.nbytes() for each in storages.values())
        found.append({"micro_batches": report.micro_batches, "size": size, "room": room, "storages": list(storages)})
    return {"steps": found, "number": len(gradients), "zero": not any(each.any() for each in gradients)}


UNPREPARED = {  # by name: the settings, and the error that rank 1 has when it prepares step 3
    "weights on every rank": (SAVING, ValueError),
    "shared weights": (replace(SAVING, shard_weights=True), RuntimeError),
    "nothing supervised": (replace(SAVING, max_data_tokens=12, overlong="truncate"), RuntimeError),
    "shared weights, nothing supervised": (
        replace(SAVING, max_data_tokens=12, overlong="truncate", shard_weights=True),
        ValueError,
    ),
}


def unprepared(name: str) -> int:
    """A job by the command line; its exit status."""
    config, kind = UNPREPARED[name]
    prepare = StepDataset.__getitem__

    def prepare_or_fail(self: StepDataset, step: int) -> Step:
        if step == 3 and os.environ["RANK"] == "1":
            raise kind("its disk is bad")
        return prepare(self, step)

    StepDataset.__getitem__ = prepare_or_fail
    return cli.main(["sft", *options(config)])


THINGS_TO_DO: dict[str, Callable[[Ranks], dict]] = {
    "all": lambda ranks: {name: outcome(config, ranks) for name, config in JOBS.items()},
    "one": lambda ranks: outcome(JOBS["packed"], ranks),
    "half": lambda ranks: outcome(SAVING, ranks, most=3),
    "resume": lambda ranks: outcome(replace(SAVING, resume="latest"), ranks),
    "resume sharded": lambda ranks: outcome(replace(SAVING, resume="latest", shard_weights=True), ranks),
    "sharded": sharded,
    "killed": killed_once,
    "collected": collected,
    "gradients": gradients_kept,
}


def main(path: str, *to_do: str):
    """Do one thing after the other, and let rank 0 write what came of each."""
    with joined("cpu") as ranks:
        results = {}
        for what, folder in (each.split("=", 1) for each in to_do):
            os.environ["NANOLAB_CACHE"] = folder
            results[what] = THINGS_TO_DO[what](ranks)
        if ranks.leads:
            torch.save(results, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "unprepared":
        sys.exit(unprepared(sys.argv[2]))
    main(*sys.argv[1:])
