"""Beside the line: distributed training from a notebook. torchrun is a child process, the notebook reads its metrics.

    launched = launch(SFTConfig(model_tag="d20"), nproc=8)      # says the command line, starts it, returns at once
    with LiveCurve(total=1_000, earlier=launched.earlier) as curve:
        for line in launched:                                   # rank 0's lines of metrics.jsonl, as they appear
            curve.update(line)
    launched.exit_status, launched.run_dir

The notebook's own process never trains, so it holds no GPU memory and forks nothing, not even for `nproc=1`.

Stopping the cell asks the ranks to stop, waits until they have saved, and raises Interrupted with their own words;
stopping it once more kills them all. A loop that is left (break) asks, too, and so does a notebook's process that dies
(torchrun.py). When torchrun starts the ranks again (`max_restarts`), they go on from their last checkpoint:
steps that they repeat are not yielded again.

    data_cache/runs/<run>/launch/      of the last launch only
        torchrun.log                   what torchrun said
        <id>/attempt_<n>/<rank>/       stdout.log, stderr.log and error.json of each of this machine's ranks
"""

import os
import platform
import re
import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import torch

from nanolab.checkpoint import find_checkpoint, read_meta
from nanolab.jobs import STAGE_OF, Say, checkpoint_to_resume
from nanolab.launched import PATIENCE, Launched
from nanolab.paths import CLONE, cache_dir
from nanolab.ranks import is_gone
from nanolab.runtime import pick_device
from nanolab.settings import BaseConfig, JobConfig, check_settings, describe_settings
from nanolab.trackers import RUNNING, STATUS, check_trackers, read_json

FOLDER = "launch"  # of what torchrun and the ranks say, in the run's folder
SHUTDOWN_TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # seconds from Ctrl-C to SIGKILL; older torchruns have no option
# What torchrun tells a process; inherited from a launcher of our own it would be wrong.
OF_TORCHRUN = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")
A_STEP = re.compile(r"Step \d+/\d+ \| Training loss: ")  # lines of text that say what is yielded anyway


def launch(
    config: JobConfig,
    nproc: int = 2,
    nnodes: int = 1,
    node_rank: int = 0,
    rdzv_endpoint: str = "",
    max_restarts: int = 0,
    say: Say = print,
    _module: str = "nanolab",
) -> "Launched":
    """Start a training job with `nproc` processes on this machine, as torchrun does; to be iterated over.

    Args:
        nproc: processes on this machine, one for each GPU.
        nnodes, node_rank: of how many machines, and which one this is; all start the same. Rank 0 is on machine 0.
        rdzv_endpoint: with several machines, host and port of machine 0, as the others reach it ("10.0.0.5:29500").
        max_restarts: how often torchrun starts all ranks again after one has failed; set save_every, too.
        say: gets the command line, then rank 0's lines of text, but for the settings and those of single steps.

    Raises ValueError or FileNotFoundError, before anything is started, for what cannot work.

    >>> launched = launch(SFTConfig(model_tag="d4"), nproc=2)                            # doctest: +SKIP
    torchrun --standalone --nproc-per-node 2 -m -- nanolab sft --data=toy --model_tag=d4
    """
    if type(config) not in STAGE_OF:
        raise TypeError(f"Expected BaseConfig, MidConfig or SFTConfig, got {type(config).__name__}.")
    check_settings(config)
    check_trackers(config.report_to)
    _check_processes(config, nproc, nnodes, node_rank, rdzv_endpoint, max_restarts)
    run_dir, first_step = _where(config)
    if node_rank == 0:
        _check_that_nobody_writes(run_dir)
    # "--": torchrun would take our --run for the beginning of its own --run-path.
    job = ["-m", "--", _module, STAGE_OF[type(config)], *options(config)]
    how = [_how(nproc, nnodes, rank, rdzv_endpoint, max_restarts) for rank in range(nnodes)]
    say(_to_copy(how[node_rank] + job))
    for rank in (rank for rank in range(nnodes) if rank != node_rank):
        say(f"On machine {rank}: {SHUTDOWN_TIMEOUT}={PATIENCE} {_to_copy(how[rank] + job)}")
    folder = run_dir / (FOLDER if node_rank == 0 else f"{FOLDER}_{node_rank}")
    command = torchrun_command(how[node_rank], folder, job)
    known = set(describe_settings(config).splitlines())
    first_rank, words = node_rank * nproc, _saying(say, known)
    return Launched(command, environment(nproc), run_dir, folder, first_step, first_rank, words)


def torchrun_command(how: list[str], folder: Path, job: list[str]) -> list[str]:
    """What starts torchrun here, with its options and the job's; what the ranks say comes into the folder, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    where = ["--redirects", "3", "--log-dir", str(folder.resolve())]
    return [sys.executable, "-m", "nanolab.torchrun", *how, *where, *job]


def _saying(say: Say, known: set[str]) -> Say:
    """Without what is told elsewhere: the settings, and single steps."""
    return lambda text: None if not text or text in known or A_STEP.match(text) else say(text)


def options(config: JobConfig) -> list[str]:
    """A job's settings as options of the command line: the data, and what is not as it is by default.

    >>> from nanolab.settings import SFTConfig
    >>> options(SFTConfig(data="toy", save=False, num_iterations=5))
    ['--data=toy', '--num_iterations=5', '--no-save']
    """
    usual, words = type(config)(), []
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        if isinstance(value, bool) and value != getattr(usual, name):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif name == "data" or value != getattr(usual, name):
            words.append(f"--{name}={value}")
    return words


def _check_processes(config, nproc: int, nnodes: int, node_rank: int, rdzv_endpoint: str, max_restarts: int):
    """Raise ValueError for numbers of processes and machines that cannot be."""
    least = {"nproc": (nproc, 1), "nnodes": (nnodes, 1), "node_rank": (node_rank, 0), "max_restarts": (max_restarts, 0)}
    for name, (number, at_least) in least.items():
        if type(number) is not int or number < at_least:
            raise ValueError(f"{name} must be a whole number, {at_least} or more, got {number!r}.")
    if node_rank >= nnodes:
        raise ValueError(f"node_rank must be less than nnodes, got {node_rank} of {nnodes}: the first machine is 0.")
    if nnodes > 1 and not re.fullmatch(r".+:\d+", rdzv_endpoint):
        raise ValueError(
            "nnodes > 1 needs rdzv_endpoint: host and port of machine 0, as the others reach it, for instance "
            f'"10.0.0.5:29500", got {rdzv_endpoint!r}.'
        )
    if nnodes == 1 and rdzv_endpoint:
        raise ValueError("rdzv_endpoint is where several machines meet: leave it out, or set nnodes.")
    device_type = pick_device(config.device_type).type
    if device_type == "mps" and nproc * nnodes > 1:
        raise ValueError("MPS trains in one process only: set nproc=1, or device_type to cpu.")
    if device_type == "cuda" and nproc > torch.cuda.device_count():
        raise ValueError(f"nproc={nproc}, and this machine has {torch.cuda.device_count()} GPUs: one for each process.")


def _where(config: JobConfig) -> tuple[Path, int]:
    """The run's folder and its first step, as jobs.start will find them."""
    origin = checkpoint_to_resume(config, lambda _: None)
    if isinstance(config, BaseConfig):
        tag = config.model_tag or f"d{config.depth}"
    else:
        tag = read_meta(origin or find_checkpoint(config.source, config.model_tag, config.step))["model_tag"]
    first_step = 0 if origin is None else read_meta(origin)["step"]
    return cache_dir() / "runs" / (config.run or f"{STAGE_OF[type(config)]}_{tag}"), first_step


def _check_that_nobody_writes(run_dir: Path):
    """Raise ValueError while another process trains in that folder."""
    status = read_json(run_dir / STATUS)
    if status.get("status") != RUNNING or status.get("host") != platform.node() or status.get("pid") == os.getpid():
        return
    if not is_gone(f"{status['pid']}:{status['process_began']}"):
        raise ValueError(
            f"The run {run_dir.name} is still running, as process {status['pid']}: stop it, or name this one (run)."
        )


def _how(nproc: int, nnodes: int, node_rank: int, rdzv_endpoint: str, max_restarts: int) -> list[str]:
    """torchrun's own options."""
    words = ["--standalone"]
    if nnodes > 1:  # "static": machine 0 is where the first rank is, which c10d leaves to chance
        words = ["--nnodes", str(nnodes), "--node-rank", str(node_rank), "--rdzv-backend", "static"]
        words += ["--rdzv-endpoint", rdzv_endpoint]
    return [*words, "--nproc-per-node", str(nproc), *(["--max-restarts", str(max_restarts)] if max_restarts else [])]


def _to_copy(words: list[str]) -> str:
    cache = os.environ.get("NANOLAB_CACHE")
    where = f"NANOLAB_CACHE={shlex.quote(os.path.abspath(cache_dir()))} " if cache else ""
    return f"{where}torchrun {shlex.join(words)}"


def environment(nproc: int) -> dict[str, str]:
    """What the ranks find: this process's environment, its cache folder and its nanolab."""
    env = {name: value for name, value in os.environ.items() if not OF_TORCHRUN.fullmatch(name)}
    env |= {"NANOLAB_CACHE": os.path.abspath(cache_dir()), "PYTHONUNBUFFERED": "1"}
    env.setdefault(SHUTDOWN_TIMEOUT, str(PATIENCE))
    if nproc == 1:  # with more, torchrun gives each rank one thread
        env.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if "site-packages" not in CLONE.parts:
        env["PYTHONPATH"] = os.pathsep.join([str(CLONE), *filter(None, [env.get("PYTHONPATH")])])
    return env
