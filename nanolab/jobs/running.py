"""A job's steps, one after another, until the last or a stop."""

import json
import signal
import statistics
from collections.abc import Iterator
from functools import partial
from typing import TextIO

from nanolab.checkpoint import amend_meta
from nanolab.flops import useful_operations
from nanolab.interrupt import Interrupted, Interrupts
from nanolab.jobs.evaluations import evaluate_and_say
from nanolab.jobs.job import Job, Say, say_nothing
from nanolab.jobs.loading import make_loader, steps_of
from nanolab.jobs.metrics import about, open_metrics, write_line
from nanolab.jobs.saving import save
from nanolab.memory import in_mib
from nanolab.ranks import LostContact, launcher_is_gone
from nanolab.trackers import reported
from nanolab.train import Report, train

FIRST_FEW = 5  # of the conversations left out, to be shown
OR_AGAIN = ", or in a notebook by running the same cell again"  # where the notebook holds the job


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
    say = say if job.ranks.leads else say_nothing
    if job.compiled is not None:
        batching = getattr(job.config, "batching", "padded")
        most_documents = getattr(job.config, "target_examples_per_step", None)
        job.compiled.warm_up(job.shapes, batching, job.dtype, say, most_documents)
    if job.broken:
        raise ValueError(
            "A step of this job was broken off while the weights moved: they are of no step now. Make the job anew "
            'with start(...), with resume="latest" if it has saved.'
        )
    loader, begin = make_loader(job), job.first_step
    training = train(
        job.model,
        job.optimizers,
        steps_of(loader, job),
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
    with reported(about(job), partial(open_metrics, job), say) as metrics_file:
        for step in range(begin, job.num_iterations):
            interrupts.arm()
            if job.config.save_every > 0 and step > begin and step % job.config.save_every == 0:
                save(job, step, say)
            try:
                metrics = evaluate_and_say(job, step, say, interrupts.at_once)
            except Interrupted as stopped:
                _leave(job, stopped.signal_number, say)
            report = _next_report(job, training, interrupts, say)
            report.metrics = metrics
            report.mfu = _mfu(job, report)
            job.shares_of_peak.append(report.mfu)
            job.left_out += report.left_out
            job.empty_steps += report.loss is None
            job.first_step = step + 1  # where this job goes on, if its loop is left here and run again
            job.place = job.reached
            write_line(metrics_file, report)
            yield report
        _finish(job, metrics_file, interrupts, say)


def _mfu(job: Job, report: Report) -> float:
    """The share of the devices' peak that went into arithmetic for real tokens."""
    useful = useful_operations(job.model.config, report.real_tokens, report.num_tokens, report.pairs)
    return useful / report.seconds / (job.peak.operations * job.ranks.world_size)


def _is_to_stop(interrupts: Interrupts) -> bool:
    """Whether a signal has come, or the torchrun is gone that a notebook has started."""
    if interrupts.asked is None and launcher_is_gone():
        interrupts.asked = signal.SIGTERM
    return interrupts.asked is not None


def _next_report(job: Job, training: Iterator[Report], interrupts: Interrupts, say: Say) -> Report:
    """The next step's report. If there is none, the steps done before are saved, and what ends the run is raised."""
    job.memory.reset()
    try:
        report = next(training, None)
    except BaseException as error:
        job.broken = getattr(error, "half_moved", False)
        if getattr(error, "unprepared", False):
            _end_together(job, interrupts, say, error)
        # Ranks save together; an error that only one of them has ends all, and the last checkpoint is what there is.
        common = job.ranks.world_size == 1 or isinstance(error, FloatingPointError)
        if common and not job.broken and not isinstance(error, Interrupted):
            _save_if_new(job, say)
        raise
    if report is None:
        _end_together(job, interrupts, say)
    job.peak_bytes = max(job.peak_bytes, job.memory.peak_bytes())
    return report


def _end_together(job: Job, interrupts: Interrupts, say: Say, error: Exception | None = None):
    """End the run where all ranks stand before the same step: save, and raise why.

    A rank was told to stop, or could not prepare the step: then `error` is why, on that rank.
    """
    words = None if error is None else f"{type(error).__name__}: {error}"
    told = job.ranks.gather((interrupts.asked, words))
    failed = [(rank, words) for rank, (_, words) in enumerate(told) if words is not None]
    if not failed:
        _leave(job, next(number for number, _ in told if number is not None), say)
    _save_if_new(job, say)
    if error is not None:
        raise error
    rank, words = failed[0]
    raise LostContact(f"Rank {rank} cannot go on, so rank {job.ranks.rank} stops too. {words}")


def _save_if_new(job: Job, say: Say):
    if job.config.save and job.first_step > job.saved_step:
        save(job, job.first_step, say)


def _finish(job: Job, metrics_file: TextIO, interrupts: Interrupts, say: Say):
    """Save first, then evaluate for the last time, and tell what there is to tell."""
    if job.config.save:
        save(job, job.num_iterations, say)
    try:
        final = evaluate_and_say(job, job.num_iterations, say, interrupts.at_once)
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
    _save_if_new(job, say)
    if job.config.save and job.first_step:
        kept = f'Go on with resume="latest"{OR_AGAIN}.'
    elif job.config.save:
        kept = "No step was done since the start."
    raise Interrupted(f"Stopped after {job.first_step:,} of {job.num_iterations:,} steps. {kept}", signal_number)
