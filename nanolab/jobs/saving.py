"""A job's checkpoint, and going on from one."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from nanolab.checkpoint import META, find_checkpoint, load_training_state, read_meta, remove_older, save_checkpoint
from nanolab.jobs.job import STAGE_OF, Job, Say
from nanolab.optim import load_states, states
from nanolab.paths import shown
from nanolab.ranks import Ranks
from nanolab.settings import BaseConfig, JobConfig
from nanolab.sharded import whole
from nanolab.stream import StreamDataset

# Settings that may differ from those of the run that is resumed: they change no weight.
FREE_WHEN_RESUMING = {"run", "resume", "save", "save_every", "keep_last", "num_workers", "eval_every", "eval_tokens"}
FREE_WHEN_RESUMING |= {"eval_steps", "eval_metrics_every", "eval_metrics_max_problems", "model_tag", "step"}
FREE_WHEN_RESUMING |= {"share_muon", "shard_weights", "report_to"}


def plain_settings(config: JobConfig) -> dict:
    """The settings as JSON has them: a Path is a text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def save(job: Job, step: int, say: Say) -> None:
    """Save the weights after `step` steps, and what resuming needs besides: rank 0 does, the others wait for it."""
    meta = {"settings": plain_settings(job.config), "num_iterations": job.num_iterations, "dtype": job.dtype}
    meta |= {"metrics": job.metrics, "provenance": job.provenance, "stream": job.place}
    state = {"optimizers": states(job.optimizers), "random": torch.get_rng_state()}
    model = whole(job.model, keep=job.ranks.leads, device="cpu")
    if job.ranks.leads:
        job.saved = save_checkpoint(job.stage, job.model_tag, step, model, job.tokenizer, meta, state)
        remove_older(job.stage, job.model_tag, job.config.keep_last)
    job.saved, job.saved_step = job.ranks.same(job.saved), step
    say(f"Saved the {job.stage} checkpoint {shown(job.saved)}")


def after_restart(config: JobConfig, ranks: Ranks, say: Say) -> JobConfig:
    """The settings, but when torchrun has started the processes again: to go on from what they had saved, if anything.

    A checkpoint older than the first start is another run's.
    """
    if not ranks.earlier.starts or not config.save:
        return config
    try:
        tag = config.model_tag or (f"d{config.depth}" if isinstance(config, BaseConfig) else "")
        if not tag:
            tag = find_checkpoint(config.source).parent.name
        path = find_checkpoint(STAGE_OF[type(config)], tag)
    except FileNotFoundError:
        path = None
    if path is None or (path / META).stat().st_mtime < ranks.earlier.began:
        say("Started again by torchrun; nothing was saved before, so from the beginning.")
        return config
    say(f"Started again by torchrun: going on from {shown(path)}")
    return replace(config, resume=str(path))


def checkpoint_to_resume(config: JobConfig, say: Say) -> Path | None:
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


def restore(job: Job, path: Path, say: Say) -> None:
    """Put a job where the run that saved a checkpoint was: weights are loaded already, the rest is here.

    Raises ValueError, naming what differs, for other settings or other rows.
    """
    meta = read_meta(path)
    now, then = plain_settings(job.config), meta["settings"]
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
    load_states(job.optimizers, state["optimizers"])
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
