"""Beside the line: a whole run, one stage after the other.

    full = FullRun(stages="base,mid,sft", model_tag="d20", depth=20, nproc=8, card="H100")
    config = pending(full, "base")                      # a BaseConfig that goes on where it stopped; None if done
    grade_stage(full, "sft")                            # on all tasks, by all GPUs of this machine

The fields of `FullRun` are the parameters of notebook 15, and so the names in the files of `notebooks/profiles/`. What
a run will take is told by forecast.py before it starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from nanolab.checkpoint import META, find_checkpoint, read_meta
from nanolab.course import PARENTS, STAGES
from nanolab.evaluate import Evaluation
from nanolab.grades import GRADED_TASKS, kept_evaluations, run_eval, without_missing_sandbox
from nanolab.interrupt import Interrupted
from nanolab.jobs import FREE_WHEN_RESUMING
from nanolab.launch import environment, torchrun_command
from nanolab.launched import Launched
from nanolab.paths import cache_dir, shown
from nanolab.runtime import pick_device
from nanolab.settings import EvalConfig, JobConfig, check_settings, nearest

GRADING = "grading"  # folder of what torchrun and the ranks say, in the run's folder
NANOCHATS_PROBLEMS = 1_024  # of MMLU and ARC-Easy, graded during SFT
OF_STREAMS = ("max_seq_len", "device_batch_size", "total_batch_size", "eval_tokens")
OF_SFT = (
    "target_examples_per_step",
    "batching",
    "device_batch_tokens",
    "max_data_tokens",
    "init_lr_frac",
    "eval_steps",
    "num_workers",
)
OF_ALL = (
    "data",
    "model_tag",
    "device_type",
    "dtype",
    "compile",
    "shard_weights",
    "report_to",
    "save_every",
    "keep_last",
)

Say = Callable[[str], None]


# GiB that programs see of a card's memory; its arithmetic is in flops.CARDS.
CARDS = {
    "H200": 139.0,
    "H100": 79.0,
    "A100 80 GB": 79.0,
    "A100 40 GB": 39.0,
    "RTX 4090": 23.5,
    "RTX 3090": 23.5,
    "L4": 22.0,
}


@dataclass(frozen=True)
class FullRun:
    """All that a full run is asked to do. Raises ValueError for what cannot work, before anything is started.

    >>> FullRun(stages="base,sft").names
    ['base', 'sft']
    >>> FullRun(nproc=3)
    Traceback (most recent call last):
    ValueError: total_batch_size 2,048 cannot be shared by 3 ranks: it must be a multiple of ... = 1,536.
    """

    data: str = "toy"  # built-in rows; or a folder of rows, or "hub"
    stages: str = "base,mid,sft"  # in this order; "sft" alone goes on from a mid checkpoint
    model_tag: str = "quick"  # name of the checkpoints
    depth: int = 2  # layers of the model that the base stage makes
    nproc: int = 2  # processes on this machine: one a GPU
    nnodes: int = 1  # machines
    node_rank: int = 0  # which of them this is
    rdzv_endpoint: str = ""  # host:port of machine 0, where all machines meet
    max_restarts: int = 0  # how often torchrun starts all processes again after one was lost
    num_shards: int = 1  # files of base text, of the hub; -1: all
    base_iterations: int = 30  # optimizer steps; -1: 20 tokens a weight
    mid_iterations: int = 15  # -1: one epoch
    sft_iterations: int = 15  # -1: one epoch
    max_seq_len: int = 256  # tokens a row, base and mid
    device_batch_size: int = 2  # rows a micro-batch of a rank, base and mid
    total_batch_size: int = 2_048  # tokens an optimizer step of all ranks, base and mid
    target_examples_per_step: int = 16  # conversations an optimizer step of all ranks, SFT
    batching: str = "packed"  # or "padded", "bucketed"
    device_batch_tokens: int = 1_024  # slots a micro-batch of a rank, SFT
    max_data_tokens: int = -1  # longest conversation in tokens; -1: no limit
    init_lr_frac: float = 0.3  # SFT's learning rates, as a fraction of base's
    eval_tokens: int = 8_192  # tokens of a validation, base and mid
    eval_steps: int = 8  # a validation of SFT has four times as many conversations
    max_problems: int = 8  # graded problems a task; -1: all
    max_tokens: int = 32  # longest reply when grading
    device_type: str = ""  # "cuda", "mps", "cpu"; "": the first that is there
    dtype: str = "auto"  # "float32", "bfloat16"
    compile: str = "auto"  # "on", "off"
    shard_weights: bool = False  # with several processes: each keeps a part of the weights; not with compile "on"
    report_to: str = ""  # "wandb", "trackio", "tensorboard"
    num_workers: int = -1  # processes of each rank that prepare SFT's steps ahead; -1: 1 on CUDA, else 0
    save_every: int = 10  # steps between checkpoints; -1: only at the end
    keep_last: int = 2  # checkpoints to keep of each stage
    card: str = ""  # name in full_run.CARDS, for the forecast

    def __post_init__(self):
        for stage in self.names:
            if stage not in STAGES:
                raise ValueError(f"stages: there is no stage {stage!r}.{nearest(stage, list(STAGES))}")
        if not self.names or self.names != [stage for stage in STAGES if stage in self.names]:
            raise ValueError(f"stages must be some of {', '.join(STAGES)}, in this order, got {self.stages!r}.")
        if self.card and self.card not in CARDS:
            raise ValueError(f"card: {self.card!r} is not known.{nearest(self.card, list(CARDS))}")
        if not (self.nproc >= 1 and 0 <= self.node_rank < self.nnodes):
            raise ValueError("nproc and nnodes must be 1 or more, and node_rank from 0 to nnodes - 1.")
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise ValueError("Several machines meet at machine 0: say its rdzv_endpoint, host:port.")
        for stage in self.names:
            check_settings(self.config(stage))
        once = self.device_batch_size * self.max_seq_len * self.ranks
        if self.total_batch_size % once and self.names != ["sft"]:
            raise ValueError(
                f"total_batch_size {self.total_batch_size:,} cannot be shared by {self.ranks} ranks: it must be a "
                f"multiple of device_batch_size * max_seq_len * ranks = {once:,}."
            )

    @classmethod
    def of(cls, names: Mapping[str, object]) -> "FullRun":
        """The run that variables of these names describe, such as a notebook's `globals()`; others are passed over.

        >>> FullRun.of({"depth": 4, "something": 5}).depth
        4
        """
        return cls(**{field.name: names[field.name] for field in fields(cls) if field.name in names})

    @property
    def names(self) -> list[str]:
        """The stages, in their order."""
        return [name.strip() for name in self.stages.split(",") if name.strip()]

    @property
    def ranks(self) -> int:
        """Processes that train together, on all machines."""
        return self.nproc * self.nnodes

    def parent(self, stage: str) -> str | None:
        """The stage whose checkpoint a stage starts from: the one before it in this run; of its first, the usual one.

        >>> FullRun(stages="base,sft").parent("sft"), FullRun(stages="sft").parent("sft")
        ('base', 'mid')
        """
        place = self.names.index(stage)
        return self.names[place - 1] if place else PARENTS.get(stage)

    def config(self, stage: str) -> JobConfig:
        """A stage's settings; it goes on from its last checkpoint if there is one."""
        settings = {name: getattr(self, name) for name in (*OF_ALL, *(OF_SFT if stage == "sft" else OF_STREAMS))}
        of_base = {"depth": self.depth, "num_shards": self.num_shards}
        settings |= of_base if stage == "base" else {"source": self.parent(stage)}
        if stage == "sft":
            settings["eval_metrics_max_problems"] = self.max_problems if self.max_problems != -1 else NANOCHATS_PROBLEMS
        num_iterations = getattr(self, f"{stage}_iterations")
        return STAGES[stage](**settings, num_iterations=num_iterations, resume="latest")


def pending(full: FullRun, stage: str, say: Say = print) -> JobConfig | None:
    """The settings with which a stage is to be started now; None if it is done already, which is said.

    It goes on from its last checkpoint, but begins anew if the checkpoint that it came from has been made again since.
    Other settings than those that it began with are refused by the run itself.
    """
    config, parent = full.config(stage), full.parent(stage)
    own, before = _checkpoint(stage, full.model_tag), _checkpoint(parent, full.model_tag) if parent else None
    if own is None:
        return config
    if before is not None and _written(own) < _written(before):
        say(f"{stage}: the {parent} checkpoint is newer than {shown(own)}, so this stage begins anew.")
        return replace(config, resume="")
    meta = read_meta(own)
    same = all(meta["settings"].get(name) == value for name, value in vars(config).items() if _matters(name))
    if same and meta["step"] >= meta.get("num_iterations", meta["step"] + 1):
        say(f"{stage}: done already, {meta['step']:,} steps, in {shown(own)}.")
        return None
    return config


def _checkpoint(stage: str, model_tag: str) -> Path | None:
    try:
        return find_checkpoint(stage, model_tag)
    except FileNotFoundError:
        return None


def _written(checkpoint: Path) -> float:
    return (checkpoint / META).stat().st_mtime


def _matters(name: str) -> bool:
    """Whether a run with another value of this setting is another run; how often it evaluates is not."""
    return name not in FREE_WHEN_RESUMING


def grade_stage(full: FullRun, stage: str, say: Say = print) -> dict[str, Evaluation]:
    """Grade a stage's checkpoint on all tasks; what was graded before, as it is now, is not graded again.

    On several GPUs of this machine by a process each, as in training; elsewhere in this process.
    """
    settings = {"source": stage, "model_tag": full.model_tag, "data": full.data, "device_type": full.device_type}
    config = EvalConfig(**settings, max_problems=full.max_problems, max_tokens=full.max_tokens, batch_size=64)
    names = without_missing_sandbox(GRADED_TASKS, say)
    missing = [name for name in names if name not in kept_evaluations(config, names)]
    config.task_name = "|".join(missing)
    if missing and full.nproc > 1 and pick_device(full.device_type).type == "cuda":
        eval_in_processes(config, full.nproc, say)
    elif missing:
        run_eval(config, say=lambda line: None)
    return kept_evaluations(config, names)


def eval_in_processes(config: EvalConfig, nproc: int, say: Say = print) -> None:
    """`nanolab eval` by torchrun: the processes share the problems, and each task's grades are kept as it is done.

    Raises LaunchFailed with the words of the process that failed first, Interrupted when stopped.
    """
    options = [f"--{name}={value}" for name, value in vars(config).items() if value != getattr(EvalConfig(), name)]
    folder = cache_dir() / "runs" / f"{config.source}_{config.model_tag}" / GRADING
    how = ["--standalone", "--nproc-per-node", str(nproc)]
    command = torchrun_command(how, folder, ["-m", "--", "nanolab", "eval", *options])
    launched = Launched(command, environment(nproc), folder, folder, 0, 0, partial(_say_grade, say))
    try:
        list(launched)  # there are no steps
    except Interrupted as stopped:
        what = "Grading was stopped. Tasks that were done are kept, and not graded again."
        raise Interrupted(what, stopped.signal_number) from stopped


def _say_grade(say: Say, line: str):
    if " % interval " in line:
        say(line)
