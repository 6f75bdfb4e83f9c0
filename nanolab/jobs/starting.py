"""Settings become a job."""

import copy
import math
from pathlib import Path

from nanolab.batch import StepDataset
from nanolab.checkpoint import read_meta
from nanolab.evaluate import loss_sum, ratio
from nanolab.flops import peak_of
from nanolab.jobs.job import Here, Job, Say, say_nothing
from nanolab.jobs.saving import after_restart, checkpoint_to_resume, restore
from nanolab.jobs.stages import start_base, start_mid, start_sft
from nanolab.memory import STREAM, Load, RunSizes, available_bytes, estimate_memory, held_bytes, in_mib, memory_warning
from nanolab.paths import shown
from nanolab.ranks import ALONE, Ranks
from nanolab.runtime import DTYPES, describe_machine, pick_device, pick_dtype, set_deterministic
from nanolab.settings import BaseConfig, JobConfig, MidConfig, SFTConfig, check_settings
from nanolab.trackers import check_trackers

LARGEST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 2e-2}  # of a loss on two devices, relative
STARTERS = {BaseConfig: start_base, MidConfig: start_mid, SFTConfig: start_sft}


def start(config: JobConfig, say: Say = print, ranks: Ranks = ALONE) -> Job:
    """Make the job that the settings describe. Raises before any work what can be known before it.

    `ranks`: of `ranks.joined()`, if torchrun has started several processes; then each of them makes the same job, takes
    its share of every step, and only rank 0 says anything.
    """
    say = say if ranks.leads else say_nothing
    if type(config) not in STARTERS:
        raise TypeError(f"Expected BaseConfig, MidConfig or SFTConfig, got {type(config).__name__}.")
    check_settings(config)
    check_trackers(config.report_to)
    origin = ranks.same(checkpoint_to_resume(after_restart(config, ranks, say), say) if ranks.leads else None)
    job = STARTERS[type(config)](config, _here(config, say, ranks, origin))
    job.ranks = ranks
    if origin is not None:
        restore(job, origin, say)
    if job.num_iterations < 1:
        raise ValueError("The data is too small for a single step: make the batch smaller, or set num_iterations.")
    if isinstance(job.steps, StepDataset):
        say(f"Step 0 is {job.steps.plan(0)}")
    _estimate(job, say)
    if job.model.device.type == "mps":
        compare_with_processor(job, say)
    return job


def _here(config, say: Say, ranks: Ranks, origin: Path | None) -> Here:
    """The device and the precision; that of a run that is resumed stays what it was, though it was measured."""
    if origin is not None and not origin.exists():  # rank 0 has found it: this is another machine
        raise FileNotFoundError(
            f"Rank 0 goes on from {shown(origin)}, which rank {ranks.rank}'s machine does not have. All machines need "
            "the same NANOLAB_CACHE folder, on a disk that they share."
        )
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


def compare_with_processor(job: Job, say: Say) -> None:
    """Say what the device makes of a micro-batch of the first step, and what the processor does.

    Raises ValueError if they differ: some versions of torch and macOS compute wrong losses on MPS.
    """
    batches = [batch for batch in job.steps[job.first_step].batches if batch.num_tokens][:1]
    if not batches:
        return
    model = copy.deepcopy(job.model).to("cpu")
    here, there = (ratio([loss_sum(each, batches, job.dtype)]) for each in (job.model, model))
    say(f"Loss of a micro-batch: {here:.4f} on {job.model.device.type}, {there:.4f} on the processor")
    if not math.isclose(here, there, rel_tol=LARGEST_DIFFERENCE[job.dtype]):
        raise ValueError(
            f"{job.model.device.type} computes a loss of {here:.4f} where the processor computes {there:.4f}. "
            "Try a newer torch, or device_type cpu."
        )


def _estimate(job: Job, say: Say):
    """Say how much memory the first step takes and how much there is, with a warning if the run may need more."""
    first = 0 if isinstance(job.steps, StepDataset) else job.first_step  # all steps of a stream are alike
    loads, device = [Load.of(batch) for batch in job.steps[first].batches], job.model.device
    if not loads:
        return  # all of its conversations were left out
    how = {"dtype": job.dtype, "device_type": device.type, "shards": job.shards}
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
