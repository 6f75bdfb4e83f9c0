"""Beside the line: puts the steps together. A settings object becomes a job, a job yields one report a step.

    job = start(SFTConfig(model_tag="d4", num_iterations=10))     # loads, prints what was loaded, touches no weight
    for report in run(job):                                       # evaluates, trains, evaluates, saves
        print(report.loss)
    job.metrics                                                   # the last evaluation

The job's parts (`job.model`, `job.steps[0]`, `job.optimizers`) are there to be looked at before, between and
after steps.
"""

import json
import os
import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

import psutil
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from nanolab.batch import Step, StepDataset, StreamDataset, TextIds
from nanolab.checkpoint import (
    META,
    amend_meta,
    find_checkpoint,
    load_checkpoint,
    load_folder,
    load_training_state,
    read_meta,
    remove_older,
    save_checkpoint,
)
from nanolab.compiled import CompiledGPT, compiler_problem
from nanolab.evaluate import Evaluation, evaluate, loss_sum, merged, ratio, text_sum
from nanolab.flops import Peak, peak_of, useful_operations
from nanolab.gpt import GPT, GPTConfig
from nanolab.interrupt import Interrupted, Interrupts
from nanolab.layout import possible_shapes
from nanolab.memory import (
    STREAM,
    Load,
    MemoryEstimate,
    PeakMemory,
    RunSizes,
    available_bytes,
    estimate_memory,
    held_bytes,
    in_mib,
    memory_warning,
)
from nanolab.optim import constant_then_linear, linear_to_zero, make_optimizers, muon_momentum, states
from nanolab.paths import cache_dir, shown
from nanolab.ranks import ALONE, Ranks, launcher_is_gone, local_world_size, restarts
from nanolab.render import render_conversation
from nanolab.runtime import (
    DTYPES,
    describe_machine,
    pick_device,
    pick_dtype,
    seed_everything,
    set_deterministic,
    versions,
)
from nanolab.settings import (
    REAL_VOCAB_SIZE,
    TOY_VOCAB_SIZE,
    BaseConfig,
    MidConfig,
    SFTConfig,
    TokenizerConfig,
    check_settings,
)
from nanolab.tasks import (
    ARC,
    MMLU,
    DataUnavailable,
    load_text,
    mid_mixture,
    mid_validation,
    sft_mixture,
    sft_validation,
)
from nanolab.tasks.words import load_words
from nanolab.tokenizer import Tokenizer
from nanolab.trackers import About, check_trackers, reported
from nanolab.train import Report, Schedule, train

STAGE_OF = {BaseConfig: "base", MidConfig: "mid", SFTConfig: "sft"}
# Settings that may differ from those of the run that is resumed: they change no weight.
FREE_WHEN_RESUMING = {"run", "resume", "save", "save_every", "keep_last", "num_workers", "eval_every", "eval_tokens"}
FREE_WHEN_RESUMING |= {"eval_steps", "eval_metrics_every", "eval_metrics_max_problems", "model_tag", "step"}
FREE_WHEN_RESUMING |= {"share_muon", "report_to"}

FIRST_FEW = 5  # of the conversations left out, to be shown
OR_AGAIN = ", or in a notebook by running the same cell again"  # where the notebook holds the job
MOST_THREADS = 8  # that encode text in one process

Say = Callable[[str], None]  # where lines of text for people go: print, or something silent
Guard = Callable[[], AbstractContextManager]  # makes what stands around work that a signal may break off
Value = TypeVar("Value")


@dataclass
class Job:
    """Everything a training run needs, before its first step."""

    config: BaseConfig | MidConfig | SFTConfig
    stage: str
    model_tag: str
    model: GPT
    tokenizer: Tokenizer
    optimizers: list[torch.optim.Optimizer]
    steps: Dataset
    num_iterations: int
    schedule: Schedule
    evaluate: Callable[..., dict[str, float]]  # step, guard -> metrics, {} when none is due
    dtype: str
    memory: PeakMemory  # counts what steps hold, above what was held before the model was made
    peak: Peak  # of one device
    ranks: Ranks = ALONE
    replica: DistributedDataParallel | None = None  # with several ranks, the model that adds up their gradients
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
    def run_dir(self) -> Path:
        """Folder of `metrics.jsonl`."""
        return cache_dir() / "runs" / (self.config.run or f"{self.stage}_{self.model_tag}")


def start(config: BaseConfig | MidConfig | SFTConfig, say: Say = print, ranks: Ranks = ALONE) -> Job:
    """Make the job that the settings describe. Raises before any work what can be known before it.

    `ranks`: of `ranks.joined()`, if torchrun has started several processes; then each of them makes the same job, takes
    its share of every step, and only rank 0 says anything.
    """
    say = say if ranks.leads else _say_nothing
    starters = {BaseConfig: _start_base, MidConfig: _start_mid, SFTConfig: _start_sft}
    if type(config) not in starters:
        raise TypeError(f"Expected BaseConfig, MidConfig or SFTConfig, got {type(config).__name__}.")
    check_settings(config)
    check_trackers(config.report_to)
    origin = ranks.same(checkpoint_to_resume(_after_restart(config, say), say) if ranks.leads else None)
    job = starters[type(config)](config, _here(config, say, ranks, origin))
    job.ranks = ranks
    if origin is not None:
        _restore(job, origin, say)
    if job.num_iterations < 1:
        raise ValueError("The data is too small for a single step: make the batch smaller, or set num_iterations.")
    if isinstance(job.steps, StepDataset):
        say(f"Step 0 is {job.steps.plan(0)}")
    _estimate(job, say)
    return job


class Here(NamedTuple):
    """Where a job is made: what the makers of the three kinds of jobs have in common."""

    device: torch.device
    dtype: str
    peak: Peak  # of the device in that precision
    ranks: Ranks
    origin: Path | None  # the checkpoint to go on from
    say: Say


def _here(config, say: Say, ranks: Ranks, origin: Path | None) -> Here:
    """The device and the precision; that of a run that is resumed stays what it was, though it was measured."""
    device = pick_device(config.device_type, ranks.local_rank)
    dtype, reason = ranks.same(pick_dtype(config.dtype, device))
    before = None if origin is None else read_meta(origin).get("dtype")
    if config.dtype == "auto" and before in DTYPES:
        dtype, reason = before, "as in the run that is resumed"
    if ranks.world_size > 1:
        say(f"{ranks.world_size} processes train together; this is rank {ranks.rank}'s account")
    say(f"Device: {describe_machine(device)}; matrix products in {dtype} ({reason})")
    say(f"The same bits again in another run: {set_deterministic(device, config.deterministic)}")
    return Here(device, dtype, ranks.same(peak_of(device, dtype)), ranks, origin, say)


def _say_nothing(_text: str):
    """What ranks other than the first say."""


def _estimate(job: Job, say: Say):
    """Say how much memory the first step takes and how much there is, with a warning if the run may need more."""
    first = 0 if isinstance(job.steps, StepDataset) else job.first_step  # all steps of a stream are alike
    loads, device = [Load.of(batch) for batch in job.steps[first].batches], job.model.device
    if not loads:
        return  # all of its conversations were left out
    how = {"dtype": job.dtype, "device_type": device.type}
    job.estimate, available = estimate_memory(job.model.config, loads, **how), available_bytes(device)
    if available is not None:
        available += max(0, held_bytes(device) - job.memory.before)  # the model is there already, and was counted
    there = "unknown" if available is None else f"{in_mib(available)} MiB"
    say(f"Memory of step 0: {job.estimate}; available: {there}")
    problem = memory_warning(job.model.config, _run_sizes(job, loads), available, **how)
    if problem:
        say(f"Warning: {problem}")


def _run_sizes(job: Job, loads: list[Load]) -> RunSizes:
    """How large micro-batches can get; where nothing limits conversations, the longest of step 0 stands for all."""
    config, share = job.config, max(load.supervised / load.slots for load in loads)
    if job.stage != "sft":
        return RunSizes(STREAM, config.max_seq_len, config.device_batch_size)
    longest = config.max_data_tokens - 1 if config.max_data_tokens != -1 else job.steps.longest_of(0)
    most = max(config.target_examples_per_step * longest, 1)
    return RunSizes(
        config.batching,
        longest,
        config.device_batch_size,
        min(config.device_batch_tokens, most),
        supervised_share=share,
    )


def run(job: Job, say: Say = print) -> Iterator[Report]:
    """Train a job, yielding a Report after each step; evaluate when due; save at the end if the settings say so.

    With torch.compile on, every shape of the batches is compiled first.

    Evaluations happen before a step's update and once after the last step. Every report is also a line of
    `metrics.jsonl` in `job.run_dir`, written as it happens. Ctrl-C (a stopped cell) and SIGTERM end the run before the
    next micro-batch: what is done is saved, and Interrupted, a KeyboardInterrupt, says where and how to go on. The
    same job can also simply be run again (the cell, once more): it goes on behind its last finished step.
    """
    with Interrupts() as interrupts:
        yield from _run(job, say, interrupts)


def _run(job: Job, say: Say, interrupts: Interrupts) -> Iterator[Report]:
    say = say if job.ranks.leads else _say_nothing
    if job.compiled is not None:
        job.compiled.warm_up(job.shapes, getattr(job.config, "batching", "padded"), job.dtype, say)
    if job.broken:
        raise ValueError(
            "A step of this job was broken off while the weights moved: they are of no step now. Make the job anew "
            'with start(...), with resume="latest" if it has saved.'
        )
    loader, begin = _loader(job), job.first_step
    training = train(
        job.model,
        job.optimizers,
        _steps_of(loader, job),
        job.schedule,
        loss_average=job.loss_average,
        grad_clip=job.grad_clip,
        dtype=job.dtype,
        forward=job.compiled,
        first_step=begin,
        should_stop=partial(_is_to_stop, interrupts),
        ranks=job.ranks,
        replica=job.compiled.calling(job.replica) if job.compiled and job.replica else job.replica,
    )
    with reported(_about(job), partial(_metrics_file, job), say) as metrics_file:
        for step in range(begin, job.num_iterations):
            interrupts.arm()
            if job.config.save_every > 0 and step > begin and step % job.config.save_every == 0:
                _save(job, step, say)
            try:
                metrics = _evaluate_and_say(job, step, say, interrupts.at_once)
            except Interrupted as stopped:
                _leave(job, stopped.signal_number, say)
            report = _next_report(job, training, say)
            if report is None:
                asked = job.ranks.gather(interrupts.asked)  # it may be another rank that was told to stop
                _leave(job, next(number for number in asked if number is not None), say)
            report.metrics = metrics
            report.mfu = _mfu(job, report)
            job.shares_of_peak.append(report.mfu)
            job.left_out += report.left_out
            job.empty_steps += report.loss is None
            job.first_step = step + 1  # where this job goes on, if its loop is left here and run again
            job.place = job.reached
            _write_line(metrics_file, report)
            yield report
        _finish(job, metrics_file, interrupts, say)


def _mfu(job: Job, report: Report) -> float:
    """The share of the devices' peak that went into arithmetic for real tokens."""
    useful = useful_operations(job.model.config, report.real_tokens, report.num_tokens, report.pairs)
    return useful / report.seconds / (job.peak.operations * job.ranks.world_size)


def _is_to_stop(interrupts: Interrupts) -> bool:
    """Whether a signal has come, or the notebook is gone that has started these processes."""
    if interrupts.asked is None and launcher_is_gone():
        interrupts.asked = signal.SIGTERM
    return interrupts.asked is not None


def _next_report(job: Job, training: Iterator[Report], say: Say) -> Report | None:
    """The next step's report; None if the run is to stop. After an error the steps done before it are saved."""
    job.memory.reset()
    try:
        report = next(training, None)
    except BaseException as error:
        job.broken = getattr(error, "half_moved", False)
        unsaved = job.config.save and job.first_step > job.saved_step
        # Ranks save together; an error that only one of them has ends all, and the last checkpoint is what there is.
        common = job.ranks.world_size == 1 or isinstance(error, FloatingPointError | ValueError)
        if unsaved and common and not job.broken and not isinstance(error, Interrupted):
            _save(job, job.first_step, say)
        raise
    job.peak_bytes = max(job.peak_bytes, job.memory.peak_bytes())
    return report


def _finish(job: Job, metrics_file: TextIO, interrupts: Interrupts, say: Say):
    """Save first, then evaluate for the last time, and tell what there is to tell."""
    if job.config.save:
        _save(job, job.num_iterations, say)
    try:
        final = _evaluate_and_say(job, job.num_iterations, say, interrupts.at_once)
    except Interrupted as stopped:
        kept = "they are saved" if job.config.save else "nothing was saved (save is off)"
        what = f"Stopped in the last evaluation; all steps are done, {kept}."
        raise Interrupted(what, stopped.signal_number) from stopped
    metrics_file.write(json.dumps({"step": job.num_iterations, **final}) + "\n")
    if job.config.save and job.ranks.leads:
        amend_meta(job.saved, {"metrics": job.metrics})
    _say_left_out(job, say)
    each = "" if job.ranks.world_size == 1 else f"; {job.ranks.world_size} of them"
    if job.shares_of_peak:
        say(
            f"Arithmetic for real tokens: {statistics.median(job.shares_of_peak):.0%} of the peak in the median step "
            f"({job.peak}{each})"
        )
    if job.estimate is not None:
        say(
            f"Memory: {in_mib(job.peak_bytes)} MiB at the peak of a step, above what the process held before (what it "
            f"had freed is used again); estimated for step 0: {in_mib(job.estimate.total)} MiB."
        )
        if job.memory.note:
            say(job.memory.note)
    if job.compiled is not None:
        warm = len(job.compiled.warm_shapes)
        say(f"Compiled shapes: {warm}; recompilations after the warm-up: {job.compiled.recompilations}")


def _plain(config: BaseConfig | MidConfig | SFTConfig) -> dict:
    """The settings as JSON has them: a Path is a text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def _save(job: Job, step: int, say: Say):
    """Save the weights after `step` steps, and what resuming needs besides: rank 0 does, the others wait for it."""
    meta = {"settings": _plain(job.config), "num_iterations": job.num_iterations, "dtype": job.dtype}
    meta |= {"metrics": job.metrics, "provenance": job.provenance, "stream": job.place}
    state = {"optimizers": states(job.optimizers), "random": torch.get_rng_state()}
    if job.ranks.leads:
        job.saved = save_checkpoint(job.stage, job.model_tag, step, job.model, job.tokenizer, meta, state)
        remove_older(job.stage, job.model_tag, job.config.keep_last)
    job.saved, job.saved_step = job.ranks.same(job.saved), step
    say(f"Saved the {job.stage} checkpoint {shown(job.saved)}")


def _say_left_out(job: Job, say: Say):
    if job.left_out:
        say(f"{len(job.left_out):,} conversations were skipped or cut, the first of them:")
        for reason in job.left_out[:FIRST_FEW]:
            say(f"  {reason}")
    if job.empty_steps:
        say(f"{job.empty_steps:,} steps had no supervised token: they moved no weight.")


def _leave(job: Job, signal_number: int, say: Say):
    """End an interrupted run between two steps: save what is done, and raise Interrupted with what to do."""
    _say_left_out(job, say)
    kept = "Nothing was saved (save is off)."
    if job.config.save and job.first_step > job.saved_step:
        _save(job, job.first_step, say)
    if job.config.save and job.first_step:
        kept = f'Go on with resume="latest"{OR_AGAIN}.'
    elif job.config.save:
        kept = "No step was done since the start."
    raise Interrupted(f"Stopped after {job.first_step:,} of {job.num_iterations:,} steps. {kept}", signal_number)


def _after_restart(config: BaseConfig | MidConfig | SFTConfig, say: Say):
    """The settings, but when torchrun has started the processes again: to go on from what they had saved, if anything.

    A checkpoint older than torchrun itself is another run's.
    """
    if not restarts() or not config.save:
        return config
    began = psutil.Process(os.getppid()).create_time()
    try:
        tag = config.model_tag or (f"d{config.depth}" if isinstance(config, BaseConfig) else "")
        if not tag:
            tag = find_checkpoint(config.source).parent.name
        path = find_checkpoint(STAGE_OF[type(config)], tag)
    except FileNotFoundError:
        path = None
    if path is None or (path / META).stat().st_mtime < began:
        say("Started again by torchrun; nothing was saved before, so from the beginning.")
        return config
    say(f"Started again by torchrun: going on from {shown(path)}")
    return replace(config, resume=str(path))


def checkpoint_to_resume(config: BaseConfig | MidConfig | SFTConfig, say: Say) -> Path | None:
    """The checkpoint's folder that the setting `resume` names; None to start anew.

    "latest" without any checkpoint starts anew, and says so. Raises FileNotFoundError for a folder that is not there.
    """
    if not config.resume:
        return None
    stage = STAGE_OF[type(config)]
    if config.resume != "latest":
        path = Path(config.resume)
        if not (path / META).exists():
            raise FileNotFoundError(f"resume: {path} is no checkpoint's folder (it has no {META}).")
        return path
    try:
        tag = config.model_tag or (f"d{config.depth}" if isinstance(config, BaseConfig) else "")
        return find_checkpoint(stage, tag)
    except FileNotFoundError:
        say(f"resume: there is no {stage} checkpoint yet, starting anew.")
        return None


def _restore(job: Job, path: Path, say: Say):
    """Put a job where the run that saved a checkpoint was: weights are loaded already, the rest is here.

    Raises ValueError, naming what differs, for other settings or other rows.
    """
    meta = read_meta(path)
    now, then = _plain(job.config), meta["settings"]
    changed = [
        f"{name} was {then.get(name)!r}, is {value!r}"
        for name, value in now.items()
        if name not in FREE_WHEN_RESUMING and then.get(name, getattr(type(job.config), name, None)) != value
    ]
    if changed:
        raise ValueError(f"Cannot resume {shown(path)} with other settings: {'; '.join(changed)}.")
    rows, steps = meta["provenance"]["rows"], meta.get("num_iterations", job.num_iterations)
    if rows != job.provenance["rows"] or steps != job.num_iterations:
        raise ValueError(
            f"Cannot resume {shown(path)} with other rows: it had {rows} and {steps:,} steps, the data now has "
            f"{job.provenance['rows']} and {job.num_iterations:,} steps."
        )
    resumed = list(meta["provenance"].get("resumed", []))
    if meta["provenance"]["versions"] != job.provenance["versions"]:
        say("Note: other package versions or another commit than the run began with; both are kept in its metadata.")
        resumed.append({"step": meta["step"], "versions": job.provenance["versions"]})
    state = load_training_state(path)
    for optimizer, kept in zip(job.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    torch.set_rng_state(state["random"])
    job.first_step = job.saved_step = meta["step"]
    job.metrics = meta["metrics"]
    job.provenance = {**meta["provenance"], "resumed": resumed}
    say(f"Resuming after step {job.first_step:,} of {job.num_iterations:,} from {shown(path)}")
    if isinstance(job.steps, StreamDataset):
        _go_on_reading(job, meta.get("stream"), say)


def _go_on_reading(job: Job, place: list[int] | None, say: Say):
    """Let the stream begin where the run that is resumed had left it."""
    if place is not None:
        job.place = (place[0], place[1])
        job.steps.start_at(*job.place)
    elif job.first_step:
        say("The checkpoint does not say where its stream of text was: everything before it is encoded again.")


def _metrics_file(job: Job) -> TextIO:
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


def _about(job: Job) -> About:
    """What the run's files and trackers say about it."""
    return About(
        run_dir=job.run_dir,
        stage=job.stage,
        model_tag=job.model_tag,
        num_iterations=job.num_iterations,
        dtype=job.dtype,
        settings=_plain(job.config),
        first_step=job.first_step,
        leads=job.ranks.leads,
    )


def _step_of(line: str) -> int | None:
    """The step of a line of metrics; None for one that a killed run left half written, or somebody else wrote."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


class _ErrorsAsValues(Dataset):
    """Steps whose errors about rows are returned: a worker process would wrap them into pages of its own words."""

    def __init__(self, steps: Dataset):
        self.steps = steps

    def __getitem__(self, step: int) -> Step | ValueError | DataUnavailable:
        try:
            return self.steps[step]
        except (ValueError, DataUnavailable) as error:
            return error.with_traceback(None)


def _steps_of(loader: DataLoader, job: Job) -> Iterator[Step]:
    for step in loader:
        if isinstance(step, Exception):
            raise step
        job.reached = step.place
        yield step


def _leave_signals_to_the_parent(_worker: int):
    """For worker processes: a Ctrl-C reaches them too, and torchrun's SIGTERM; they end when the parent has stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _loader(job: Job) -> DataLoader:
    """The job's steps in order, prepared ahead by `num_workers` processes; the same steps for any number of them."""
    on_cuda = job.model.device.type == "cuda"
    if job.place is not None:
        job.steps.start_at(*job.place)
    num_workers = job.config.num_workers
    if num_workers == -1:
        num_workers = (
            1 if on_cuda else 0
        )  # a step is rendered in milliseconds; only a GPU is fast enough to wait for that
    return DataLoader(
        _ErrorsAsValues(job.steps),
        batch_size=None,
        sampler=range(job.first_step, job.num_iterations),
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=on_cuda,
    )


def train_tokenizer(config: TokenizerConfig, say: Say = print) -> Tokenizer:
    """Train a tokenizer on the plain text of the data source, and save it under `<cache>/tokenizer`."""
    vocab_size = config.vocab_size
    if vocab_size == -1:
        vocab_size = TOY_VOCAB_SIZE if config.data == "toy" else REAL_VOCAB_SIZE
    tokenizer = Tokenizer.train(_tokenizer_texts(config), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        say(f"The text is too small for {vocab_size:,} tokens: the vocabulary has {tokenizer.vocab_size:,}.")
    path = tokenizer.save(tokenizer_dir())
    say(f"Saved a tokenizer of {tokenizer.vocab_size:,} tokens ({tokenizer.fingerprint}) as {shown(path)}")
    return tokenizer


def tokenizer_dir() -> Path:
    """Where base training looks for its tokenizer."""
    return cache_dir() / "tokenizer"


def _tokenizer_texts(config: TokenizerConfig) -> Iterator[str]:
    """Plain text, then single words, up to the settings' limits.

    No conversations, as in nanochat: a tokenizer that has seen "- blue=B" a thousand times makes one token of "=B", and
    then the letter in the question is not the token that the reply must be.
    """
    num_chars = 0
    for row in load_text("train", config.data, num_shards=-1, ahead=False):
        if num_chars >= config.max_chars:
            break
        num_chars += len(row["text"])
        yield row["text"]
    words = load_words("train", config.data)
    yield from (f" {word}" for word in words[: config.max_words])


def _start_base(config: BaseConfig, here: Here) -> Job:
    train_text = load_text("train", config.data, config.num_shards)
    validation_text = load_text("validation", config.data)
    memory = PeakMemory(here.device)  # rows are loaded, the model is not
    seed_everything(config.seed)
    if here.origin is None:
        tokenizer = Tokenizer.load(tokenizer_dir())
        model = GPT(GPTConfig.from_depth(config.depth, tokenizer.vocab_size, config.max_seq_len)).to(here.device)
    else:
        model, tokenizer, _, _ = load_folder(here.origin, here.device)
    replica = here.ranks.replica(model)
    make_stream = _stream_maker(config, TextIds(tokenizer, encoding_threads()), here.ranks)
    num_iterations = config.num_iterations
    if num_iterations == -1:
        num_iterations = config.target_param_data_ratio * model.num_parameters()["total"] // config.total_batch_size
    _say_steps(here.say, f"Base text: {train_text.described()}", config, num_iterations)
    here.say(f"Weights: {_counts(model.num_parameters())}")
    return Job(
        config=config,
        stage="base",
        model_tag=config.model_tag or f"d{config.depth}",
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=make_stream(train_text),
        num_iterations=num_iterations,
        schedule=lambda step: (constant_then_linear(step, num_iterations), muon_momentum(step)),
        evaluate=_stream_evaluation(model, tokenizer, make_stream(validation_text), config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=_compiled(config, model, here),
        shapes=((config.device_batch_size, config.max_seq_len),),
        grad_clip=config.grad_clip,
        provenance=_provenance(config, train_text.counts(), parent=None),
    )


def _start_mid(config: MidConfig, here: Here) -> Job:
    mixture, validation = mid_mixture(data=config.data), mid_validation(data=config.data)
    memory = PeakMemory(here.device)
    model, tokenizer, meta = _load_parent(config, here)
    replica = here.ranks.replica(model)
    make_stream = _stream_maker(config, partial(_conversation_ids, tokenizer), here.ranks)
    steps = make_stream(mixture)
    num_iterations = config.num_iterations
    if num_iterations == -1:
        here.say(f"Counting the tokens of {len(mixture):,} conversations, to know how many steps an epoch has ...")
        num_iterations = max(1, steps.count_tokens() // config.total_batch_size)
    _say_steps(here.say, f"Mid mixture: {len(mixture):,} conversations", config, num_iterations)

    def schedule(step: int) -> tuple[float, float | None]:
        return constant_then_linear(step, num_iterations), muon_momentum(step) if config.muon_momentum_ramp else None

    return Job(
        config=config,
        stage="mid",
        model_tag=meta["model_tag"],
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=steps,
        num_iterations=num_iterations,
        schedule=schedule,
        evaluate=_stream_evaluation(model, tokenizer, make_stream(validation), config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=_compiled(config, model, here),
        shapes=((config.device_batch_size, config.max_seq_len),),
        provenance=_provenance(config, _row_counts(mixture), parent=meta),
    )


def _start_sft(config: SFTConfig, here: Here) -> Job:
    mixture = sft_mixture(data=config.data)
    memory = PeakMemory(here.device)
    model, tokenizer, meta = _load_parent(config, here)
    replica = here.ranks.replica(model)
    compiled = _compiled(config, model, here)
    steps = _step_dataset(
        mixture, tokenizer, config.target_examples_per_step, config, here.ranks, static_shapes=compiled is not None
    )
    num_iterations = config.num_iterations
    if num_iterations == -1:
        num_iterations = len(steps) * config.num_epochs
    here.say(
        f"SFT mixture: {len(mixture):,} conversations of {config.data}; {num_iterations:,} steps of "
        f"{config.target_examples_per_step} conversations"
    )
    return Job(
        config=config,
        stage="sft",
        model_tag=meta["model_tag"],
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=steps,
        num_iterations=num_iterations,
        schedule=lambda step: (linear_to_zero(step, num_iterations), None),
        evaluate=_sft_evaluation(model, tokenizer, config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=compiled,
        shapes=_sft_shapes(steps, here.say) if compiled is not None else (),
        loss_average=config.loss_average,
        provenance=_provenance(config, _row_counts(mixture), parent=meta),
    )


def _compiled(config, model: GPT, here: Here) -> CompiledGPT | None:
    """The compiled form of the model if the settings, the device and the machine's compiler say so; says why not."""
    if config.compile == "off":
        return None
    if config.compile == "auto" and model.device.type != "cuda":
        here.say(f"torch.compile: off (auto, on {model.device.type} warming up costs more than a short run gains)")
        return None
    problems = [problem for problem in here.ranks.gather(compiler_problem(model.device)) if problem is not None]
    if problems:
        here.say(f"torch.compile: does not work here, going on without it ({problems[0]})")
        return None
    here.say("torch.compile: on")
    return CompiledGPT(model)


def _load_parent(config: MidConfig | SFTConfig, here: Here) -> tuple[GPT, Tokenizer, dict]:
    """The model to start from: the parent's, or, resuming, the one saved on the way (`here.origin`)."""
    say = here.say
    if here.origin is not None:
        seed_everything(config.seed)
        return load_folder(here.origin, here.device)[:3]
    model, tokenizer, meta, path = load_checkpoint(config.source, config.model_tag, config.step, here.device)
    made_of = meta.get("provenance", {}).get("data", "unknown data")
    if meta["step"] < (planned := meta.get("num_iterations", 0)):
        say(f"Note: {shown(path)} is of step {meta['step']:,} of {planned:,}; its run was not finished.")
    say(f"Starting from {shown(path)} (trained on {made_of}, vocabulary {tokenizer.vocab_size:,})")
    seed_everything(config.seed)
    return model, tokenizer, meta


def _say_steps(say: Say, rows: str, config: BaseConfig | MidConfig, num_iterations: int):
    say(f"{rows} of {config.data}; {num_iterations:,} steps of {config.total_batch_size:,} tokens")


def _optimizers(model: GPT, config, here: Here) -> list[torch.optim.Optimizer]:
    several, on_cuda = here.ranks.world_size > 1, model.device.type == "cuda"
    share_muon = several and (config.share_muon == "on" or (config.share_muon == "auto" and on_cuda))
    if several:
        here.say("Muon's work is shared by the ranks" if share_muon else "Every rank does all of Muon's work")
    return make_optimizers(
        model,
        unembedding_lr=config.unembedding_lr,
        embedding_lr=config.embedding_lr,
        matrix_lr=config.matrix_lr,
        weight_decay=config.weight_decay,
        init_lr_frac=getattr(config, "init_lr_frac", 1.0),  # base training has none
        dtype=here.dtype,
        share_muon=share_muon,
    )


def encoding_threads() -> int:
    """How many threads a process has for encoding text: its share of the machine's cores, and no more than 8."""
    can_tell = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // local_world_size()))


def _conversation_ids(tokenizer: Tokenizer, conversation: dict) -> list[int]:
    """A conversation as a stream takes it; a function of the module, so that worker processes can be handed it."""
    return render_conversation(conversation, tokenizer)[0]


def _stream_maker(config: BaseConfig | MidConfig, encode: Callable, ranks: Ranks) -> Callable[[object], StreamDataset]:
    return lambda documents: StreamDataset(
        documents,
        encode,
        config.max_seq_len,
        config.device_batch_size,
        config.total_batch_size,
        getattr(config, "on_bad_row", "error"),  # base training has plain text, which is never malformed
        ranks.rank,
        ranks.world_size,
    )


def _due(step: int, every: int, num_iterations: int) -> bool:
    """Evaluations are due every so many steps, and after the last one; -1: only then."""
    return step == num_iterations or (every > 0 and step % every == 0)


def _stream_evaluation(model, tokenizer, stream: StreamDataset, config, num_iterations: int, here: Here):
    """step -> {"val_loss", "val_bpb"} over the first `eval_tokens` of the validation stream."""
    num_steps = max(1, config.eval_tokens // config.total_batch_size)
    num_bytes = torch.tensor(tokenizer.num_bytes())

    def evaluation(step: int, guard: Guard = nullcontext) -> dict[str, float]:
        if not _due(step, config.eval_every, num_iterations):
            return {}
        batches = [batch for s in range(num_steps) for batch in stream[s].batches]
        return {
            "val_loss": ratio(_together(here.ranks, guard, lambda: loss_sum(model, batches, here.dtype))),
            "val_bpb": ratio(_together(here.ranks, guard, lambda: text_sum(model, batches, num_bytes, here.dtype))),
        }

    return evaluation


def _step_dataset(
    mixture, tokenizer, num_examples: int, config: SFTConfig, ranks: Ranks, static_shapes: bool = False
) -> StepDataset:
    return StepDataset(
        mixture,
        tokenizer,
        num_examples,
        config.device_batch_size,
        config.max_data_tokens,
        config.overlong,
        config.batching,
        on_bad_row=config.on_bad_row,
        device_batch_tokens=config.device_batch_tokens,
        static_shapes=static_shapes,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


def _sft_shapes(steps: StepDataset, say: Say) -> tuple[tuple[int, int], ...]:
    """Every shape (B, T) that the steps can have."""
    if steps.max_data_tokens in (None, -1):
        say(f"Looking for the longest of {len(steps.mixture):,} conversations, since max_data_tokens sets no limit ...")
    shapes = possible_shapes(
        steps.batching, steps.device_batch_tokens, steps.longest(), device_batch_size=steps.device_batch_size
    )
    return tuple(shapes)


def _sft_evaluation(model, tokenizer, config: SFTConfig, num_iterations: int, here: Here):
    """step -> {"val_loss", "mmlu_acc", "arc_easy_acc"}, each when it is due."""
    num_examples = config.eval_steps * config.device_batch_size
    validation = _step_dataset(sft_validation(data=config.data), tokenizer, num_examples, config, here.ranks)
    tasks = {
        "mmlu_acc": MMLU("all", "test", data=config.data),
        "arc_easy_acc": ARC("ARC-Easy", "test", data=config.data),
    }

    def grade(task) -> Evaluation:
        options = {"dtype": here.dtype, "share": (here.ranks.rank, here.ranks.world_size)}
        most = config.eval_metrics_max_problems
        return evaluate(model, tokenizer, task, most, config.device_batch_size * 2, **options)

    def evaluation(step: int, guard: Guard = nullcontext) -> dict[str, float]:
        metrics = {}
        if _due(step, config.eval_every, num_iterations):
            batches = validation[0].batches
            metrics["val_loss"] = ratio(_together(here.ranks, guard, lambda: loss_sum(model, batches, here.dtype)))
        if step > 0 and _due(step, config.eval_metrics_every, num_iterations):
            for name, task in tasks.items():
                metrics[name] = merged(_together(here.ranks, guard, partial(grade, task))).accuracy
        return metrics

    return evaluation


def _together(ranks: Ranks, guard: Guard, work: Callable[[], Value]) -> list[Value]:
    """What every rank's own share of some work came to. Inside `guard` a signal raises Interrupted at once.

    Not so where ranks wait for each other: all of them stop, or none.
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


def _evaluate_and_say(job: Job, step: int, say: Say, guard: Guard = nullcontext) -> dict[str, float]:
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


def _write_line(metrics_file, report: Report):
    """One JSON object a step; evaluations stand beside the step's own numbers."""
    line = asdict(report)
    metrics, left_out = line.pop("metrics"), line.pop("left_out")
    metrics_file.write(json.dumps({**line, "left_out": len(left_out), **metrics}, allow_nan=False) + "\n")
    metrics_file.flush()  # a reader, or a crash, finds every finished step


def _row_counts(mixture) -> dict[str, int]:
    return {f"{k} {task.name}": len(task) for k, task in enumerate(mixture.tasks)}


def _provenance(config, rows: dict[str, int], parent: dict | None) -> dict:
    """Where the weights come from: data source, rows, package versions, and the checkpoint it all started with."""
    kept = None if parent is None else {key: parent[key] for key in ("stage", "model_tag", "step")}
    return {"data": str(config.data), "rows": rows, "versions": versions(), "parent": kept}


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())
