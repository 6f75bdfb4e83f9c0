"""What a job is made of."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from nanolab.compiled import CompiledGPT
from nanolab.flops import Peak
from nanolab.gpt import GPT
from nanolab.memory import MemoryEstimate, PeakMemory
from nanolab.paths import cache_dir
from nanolab.ranks import ALONE, Ranks
from nanolab.runtime import KEEPS_GRAPHS
from nanolab.settings import BaseConfig, JobConfig, MidConfig, SFTConfig
from nanolab.tokenizer import Tokenizer
from nanolab.train import Schedule

STAGE_OF = {BaseConfig: "base", MidConfig: "mid", SFTConfig: "sft"}

Say = Callable[[str], None]  # where lines of text for people go: print, or something silent
Guard = Callable[[], AbstractContextManager]  # makes what stands around work that a signal may break off
Evaluate = Callable[..., dict[str, float]]  # step, guard -> metrics, {} when none is due


@dataclass
class Job:
    """Everything a training run needs, before its first step."""

    config: JobConfig
    stage: str
    model_tag: str
    model: GPT
    tokenizer: Tokenizer
    optimizers: list[torch.optim.Optimizer]
    steps: Dataset
    num_iterations: int
    schedule: Schedule
    evaluate: Evaluate
    dtype: str
    memory: PeakMemory  # counts what steps hold, above what was held before the model was made
    peak: Peak  # of one device
    ranks: Ranks = ALONE
    replica: DistributedDataParallel | None = None  # adds up gradients of several ranks; None if they share the weights
    compiled: CompiledGPT | None = None  # what calls the model in training, if torch.compile is on
    shapes: tuple[tuple[int, int], ...] = ()  # (B, T) of the batches, to be compiled before the first step
    grad_clip: float = 0.0
    loss_average: str = "step"
    provenance: dict = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the last evaluation of each kind
    saved: Path | None = None
    left_out: list[str] = field(default_factory=list)  # conversations that were skipped or cut, and why
    empty_steps: int = 0  # steps without a supervised token: they moved no weight
    estimate: MemoryEstimate | None = None  # of step 0
    shares_of_peak: list[float] = field(default_factory=list)  # mfu of every step
    peak_bytes: int = 0  # the most that a step has held so far
    saved_step: int = 0  # how many steps the last checkpoint has behind it, the one resumed from included
    broken: bool = False  # a step was broken off while the weights moved
    first_step: int = 0  # the next to do: more than 0 if resumed, or if a run of this job was left
    place: tuple[int, int] | None = None  # of a stream: where `first_step` begins, see StreamDataset.start_at
    reached: tuple[int, int] | None = None  # `place` as it will be when the step that was taken last is done

    @property
    def shards(self) -> int:
        """The number of ranks that share the weights; 1 where each has all of them."""
        return self.ranks.world_size if self.replica is None else 1

    @property
    def run_dir(self) -> Path:
        """Folder of `metrics.jsonl`."""
        return cache_dir() / "runs" / (self.config.run or f"{self.stage}_{self.model_tag}")


class Here(NamedTuple):
    """Where a job is made: what the makers of the three kinds of jobs have in common."""

    device: torch.device
    dtype: str
    peak: Peak  # of the device in that precision
    ranks: Ranks
    origin: Path | None  # the checkpoint to go on from
    say: Say

    @property
    def keeps_graphs(self) -> bool:
        """Whether the device keeps something of every shape it has met: then there must be few."""
        return self.device.type in KEEPS_GRAPHS


def say_nothing(_text: str) -> None:
    """What ranks other than the first say."""
