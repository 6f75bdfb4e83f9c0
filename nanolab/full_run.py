"""Beside the line: a whole run, one stage after the other, and what it will take, known before it starts.

    full = FullRun(stages="base,mid,sft", model_tag="d20", depth=20, nproc=8, card="H100")
    forecasts = forecast(full, tokenizer)               # steps, tokens, memory of a rank, arithmetic of each stage
    in_words(forecasts, *rate(full, forecasts))         # the same as a table, with hours
    config = pending(full, "base")                      # a BaseConfig that goes on where it stopped; None if done

The fields of `FullRun` are the parameters of notebook 15, and so the names in the files of `notebooks/profiles/`.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from nanolab.batch import Batch, Step
from nanolab.checkpoint import META, find_checkpoint, read_meta
from nanolab.course import PARENTS, STAGES
from nanolab.evaluate import Evaluation
from nanolab.flops import data_sheet, useful_operations
from nanolab.gpt import GPT, GPTConfig
from nanolab.grades import GRADED_TASKS, kept_evaluations, run_eval, without_missing_sandbox
from nanolab.jobs import FREE_WHEN_RESUMING
from nanolab.memory import STREAM, Load, MemoryEstimate, RunSizes, estimate_memory
from nanolab.optim import make_optimizers
from nanolab.paths import CLONE, cache_dir, shown
from nanolab.render import render_conversation
from nanolab.runs import read_run
from nanolab.runtime import pick_device, pick_dtype
from nanolab.settings import EvalConfig, JobConfig, check_settings, nearest
from nanolab.show.live import clock_time
from nanolab.tasks import load_text, mid_mixture, sft_mixture
from nanolab.tasks.text import TextShards
from nanolab.tokenizer import Tokenizer
from nanolab.trackers import SETTINGS, read_json
from nanolab.train import train

GiB = 2**30
OFTEN = 4  # times through the same text after which more of them teach much less than new text: arXiv:2305.16264
LAST_LINES = 20  # of a failed grading's text that are shown
SAMPLE = 256  # rows whose lengths stand for those of all
NANOCHATS_PROBLEMS = 1_024  # of MMLU and ARC-Easy, graded during SFT
# What is planned for, of a card: neither CUDA's own memory, nor nccl's, nor gaps between tensors are estimated.
HEADROOM = 0.9
# Of a card's peak arithmetic: nanochat's run1000.sh reports 0.51 for a d32 on H100s, by a count that has the attention
# of all pairs; ours has half of them. Not measured for this code.
SHARE_OF_PEAK = 0.4
OF_STREAMS = ("max_seq_len", "device_batch_size", "total_batch_size", "eval_tokens")
OF_SFT = (
    "target_examples_per_step",
    "batching",
    "device_batch_tokens",
    "max_data_tokens",
    "init_lr_frac",
    "eval_steps",
)
OF_ALL = ("data", "model_tag", "device_type", "dtype", "compile", "report_to", "save_every", "keep_last")

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
CHARS_A_SHARD = 250e6  # of the hub's base text, by nanochat's count


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


@dataclass(frozen=True)
class Forecast:
    """What a stage will do and take. Lengths are those of a sample of rows."""

    stage: str
    shape: GPTConfig
    steps: int
    tokens: float  # a step
    passes: float  # over the rows that there are
    micro_batches: float  # of a rank, a step
    operations: float  # of the whole stage on all ranks
    memory: MemoryEstimate  # of a rank

    def seconds(self, rate: float, ranks: int) -> float:
        """Seconds of training steps, if each rank does `rate` operations a second."""
        return self.operations / (rate * ranks)


def forecast(full: FullRun, tokenizer: Tokenizer) -> list[Forecast]:
    """A forecast for each stage. Loads the rows, and renders a sample of them; no model is made.

    >>> [f.steps for f in forecast(FullRun(), tokenizer)]                                 # doctest: +SKIP
    [30, 15, 15]
    """
    return [_of_sft(full, tokenizer) if stage == "sft" else _of_stream(full, stage, tokenizer) for stage in full.names]


def _of_stream(full: FullRun, stage: str, tokenizer: Tokenizer) -> Forecast:
    shape = model_shape(full, tokenizer)
    if stage == "base":
        there = _tokens_of_text(full, tokenizer)
    else:
        rows = mid_mixture(data=full.data)
        lengths = [len(ids) for ids, _ in _rendered(rows, tokenizer)]
        there = len(rows) * sum(lengths) / len(lengths)
    steps = getattr(full, f"{stage}_iterations")
    if steps == -1 and stage == "base":
        steps = full.config("base").target_param_data_ratio * num_weights(shape) // full.total_batch_size
    elif steps == -1:
        steps = max(1, int(there // full.total_batch_size))
    rows_a_step = full.total_batch_size // full.max_seq_len
    sizes = RunSizes(STREAM, full.max_seq_len, full.device_batch_size)
    return Forecast(
        stage,
        shape,
        steps,
        tokens=full.total_batch_size,
        passes=steps * full.total_batch_size / there,
        micro_batches=rows_a_step / full.device_batch_size / full.ranks,
        operations=steps * _operations(shape, [full.max_seq_len] * rows_a_step, full.total_batch_size),
        memory=_memory(full, shape, sizes),
    )


def _tokens_of_text(full: FullRun, tokenizer: Tokenizer) -> float:
    """About how many tokens of base text there are; nan for a folder of several files, which nobody has counted."""
    rows = load_text("train", data=full.data, num_shards=full.num_shards, ahead=False)
    texts = [row["text"] for row in islice(iter(rows), SAMPLE)]
    tokens = sum(1 + len(tokenizer.encode(text)) for text in texts)
    if not isinstance(rows, TextShards):
        return len(rows) * tokens / len(texts)
    return len(rows.names) * CHARS_A_SHARD * tokens / sum(map(len, texts)) if full.data == "hub" else math.nan


def _of_sft(full: FullRun, tokenizer: Tokenizer) -> Forecast:
    shape, mixture = model_shape(full, tokenizer), sft_mixture(data=full.data)
    rows = _rendered(mixture, tokenizer)
    most = full.max_data_tokens
    rows = [(ids, mask) for ids, mask in rows if most == -1 or len(ids) <= most]
    lengths, supervised = [len(ids) - 1 for ids, _ in rows], sum(sum(mask[1:]) for _, mask in rows)
    steps = full.sft_iterations if full.sft_iterations != -1 else len(mixture) // full.target_examples_per_step
    a_step = full.target_examples_per_step / len(rows)  # of the sample
    tokens = sum(lengths) * a_step
    sizes = RunSizes(
        full.batching,
        max(lengths) if most == -1 else most - 1,
        full.config("sft").device_batch_size,
        full.device_batch_tokens,
        supervised / sum(lengths),
    )
    return Forecast(
        "sft",
        shape,
        steps,
        tokens,
        passes=steps * full.target_examples_per_step / len(mixture),
        micro_batches=max(1.0, tokens / full.ranks / sizes.loads()[0].slots),
        operations=steps * a_step * _operations(shape, lengths, supervised),
        memory=_memory(full, shape, sizes),
    )


def _rendered(rows: Sequence[dict], tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """The first rows of a mixture, which is shuffled."""
    return [render_conversation(rows[i], tokenizer) for i in range(min(SAMPLE, len(rows)))]


def _memory(full: FullRun, shape: GPTConfig, sizes: RunSizes) -> MemoryEstimate:
    device_type, dtype = how_computed(full)
    return estimate_memory(shape, sizes.loads(), dtype=dtype, device_type=device_type)


def how_computed(full: FullRun) -> tuple[str, str]:
    """Device type and dtype of the products: of the named card, else of this machine."""
    if full.card:
        return "cuda", "bfloat16" if full.dtype == "auto" else full.dtype
    device = pick_device(full.device_type)
    return device.type, pick_dtype(full.dtype, device)[0]


def model_shape(full: FullRun, tokenizer: Tokenizer) -> GPTConfig:
    """The shape of the model: of the base stage's settings, or of the checkpoint that the first stage starts from."""
    if full.names[0] == "base":
        return GPTConfig.from_depth(full.depth, tokenizer.vocab_size, full.max_seq_len)
    return GPTConfig(**read_meta(find_checkpoint(full.parent(full.names[0]), full.model_tag))["model_config"])


def num_weights(shape: GPTConfig) -> int:
    """Embedding, head and the blocks' matrices (as many key heads as heads).

    >>> num_weights(GPTConfig.from_depth(20, 65_536))
    560988160
    """
    C = shape.n_embd
    return 2 * shape.vocab_size * C + 12 * shape.n_layer * C**2


def _operations(shape: GPTConfig, lengths: Sequence[int], supervised: float) -> float:
    """What rows of these lengths cannot do without, see flops.useful_operations."""
    return useful_operations(shape, sum(lengths), supervised, sum(L * (L + 1) // 2 for L in lengths))


def rate(full: FullRun, forecasts: Sequence[Forecast]) -> tuple[float | None, str]:
    """(operations a second of one rank, where that number comes from); None where neither is known.

    Of a named card a share of its peak; on a processor a few steps of random tokens are measured, with as many threads
    as a rank will have.
    """
    if full.card:
        peak = data_sheet(full.card)
        return SHARE_OF_PEAK * peak.operations, f"{SHARE_OF_PEAK:.0%} of {peak}; not measured"
    if how_computed(full)[0] != "cpu":
        return None, "no time is forecast: name the card, a key of full_run.CARDS"
    threads, before = (1 if full.nproc > 1 else torch.get_num_threads()), torch.get_num_threads()
    torch.set_num_threads(threads)
    measured = measured_rate(forecasts[0].shape, 1_024, how_computed(full)[1])
    torch.set_num_threads(before)
    crowded = max(1.0, full.nproc * threads / (os.cpu_count() or 1))
    words = f"{measured / 1e9:,.0f} GFLOP/s a process, measured here in three steps of random tokens"
    return measured / crowded, words + (f"; {crowded:.1f} processes share a core" if crowded > 1 else "")


def measured_rate(shape: GPTConfig, slots: int, dtype: str) -> float:
    """Useful operations a second of whole training steps on the processor; the first of three is not counted."""
    model = GPT(shape)
    ids = torch.randint(shape.vocab_size, (1, slots + 1))
    step = Step([Batch(ids[:, :-1], ids[:, 1:], real_tokens=slots)])
    optimizers = make_optimizers(model, 0.004, 0.2, 0.02, dtype=dtype)
    seconds = [report.seconds for report in train(model, optimizers, [step] * 3, lambda _: (0.0, None), dtype=dtype)]
    return _operations(shape, [slots], slots) / min(seconds[1:])


def in_words(forecasts: Sequence[Forecast], rate: float | None, ranks: int) -> pd.DataFrame:
    """The forecasts as a table, one row a stage."""
    rows = {}
    for each in forecasts:
        rows[each.stage] = {
            "steps": f"{each.steps:,}",
            "tokens a step": f"{each.tokens:,.0f}",
            "tokens": f"{each.tokens * each.steps:,.0f}",
            "times through the rows": "unknown" if math.isnan(each.passes) else f"{each.passes:.3g}",
            "micro-batches a step and rank": f"{each.micro_batches:.3g}",
            "GiB a rank": f"{each.memory.total / GiB:.2f}",
            "operations": f"{each.operations:.2e}",
            "training": clock_time(each.seconds(rate, ranks)) if rate else "unknown",
        }
    return pd.DataFrame(rows).T


def remarks(forecasts: Sequence[Forecast]) -> list[str]:
    """What somebody who pays for a run should know before it starts, a sentence each; none if nothing is amiss."""
    return [
        f"{each.stage}: the rows are gone through {each.passes:.0f} times. Beyond {OFTEN} times, new rows would teach "
        "much more: take a folder with more of them (data), or fewer steps."
        for each in forecasts
        if each.passes > OFTEN
    ]


def planned_steps(run_dir: Path, forecast: int) -> int:
    """How many steps a run has, once it has begun; what was forecast before that."""
    return read_json(run_dir / SETTINGS).get("num_iterations", forecast)


def measured(full: FullRun, forecasts: Sequence[Forecast], rate: float | None) -> pd.DataFrame:
    """What the stages have taken, from their metrics, beside what was forecast: seconds of training steps.

    `operations/s` is the useful arithmetic of one rank; with a named card it also stands as a share of its peak.
    """
    rows = {}
    for each in forecasts:
        steps = read_run(cache_dir() / "runs" / f"{each.stage}_{full.model_tag}")[0].dropna(subset=["seconds"])
        seconds = steps["seconds"].sum()
        reached = each.operations / each.steps * len(steps) / seconds / full.ranks
        rows[each.stage] = {
            "steps": f"{len(steps):,}",
            "seconds": f"{seconds:,.1f}",
            "forecast": f"{each.seconds(rate, full.ranks):,.1f}" if rate else "unknown",
            "tokens/s": f"{steps['real_tokens'].sum() / seconds:,.0f}",
            "operations/s a rank": f"{reached:.2e}",
        }
        if full.card:
            rows[each.stage]["of the peak"] = f"{reached / data_sheet(full.card).operations:.1%}"
    return pd.DataFrame(rows).T


def fits_card(full: FullRun, each: Forecast) -> bool:
    """Whether a rank's memory is within nine tenths of the named card's; True where none is named."""
    return not full.card or each.memory.total <= HEADROOM * CARDS[full.card] * GiB


def largest_load(full: FullRun, stage: str) -> list[Load]:
    """The largest micro-batches that a stage can have if its conversations are no longer than `max_data_tokens` or, if
    there is no limit, than its budget of slots."""
    if stage != "sft":
        return RunSizes(STREAM, full.max_seq_len, full.device_batch_size).loads()
    longest = full.device_batch_tokens if full.max_data_tokens == -1 else full.max_data_tokens - 1
    return RunSizes(full.batching, longest, full.config("sft").device_batch_size, full.device_batch_tokens).loads()


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
    """`nanolab eval` by torchrun: the processes share the problems, and their grades are kept.

    Raises RuntimeError with its last words if it fails.
    """
    options = [f"--{name}={value}" for name, value in vars(config).items() if value != getattr(EvalConfig(), name)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={nproc}"]
    env = {**os.environ, "NANOLAB_CACHE": str(cache_dir().resolve())}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CLONE), env.get("PYTHONPATH")]))
    command = [*torchrun, "-m", "nanolab", "eval", *options]
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            lines = [line.rstrip("\n") for line in process.stdout]
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise RuntimeError("\n".join([f"Grading {config.source} failed:", *lines[-LAST_LINES:]]))
    for line in lines:
        if " % interval " in line:
            say(line)
