"""Beside the line: distributed training from a notebook. torchrun is a child process, the notebook reads its metrics.

    launched = launch(SFTConfig(model_tag="d20"), nproc=8)      # says the command line, starts it, returns at once
    with LiveCurve(total=1_000, earlier=launched.earlier) as curve:
        for line in launched:                                   # rank 0's lines of metrics.jsonl, as they appear
            curve.update(line)
    launched.exit_status, launched.run_dir

The notebook's own process never trains, so it holds no GPU memory and forks nothing, not even for `nproc=1`.

Stopping the cell asks the ranks to stop, waits until they have saved, and raises Interrupted with their own words;
stopping it once more kills them all. A loop that is left (break) asks, too. If the notebook's process dies, the ranks
notice, save and end. When torchrun starts the ranks again (`max_restarts`), they go on from their last checkpoint:
steps that they repeat are not yielded again.

    data_cache/runs/<run>/launch/      of the last launch only
        torchrun.log                   what torchrun said
        <id>/attempt_<n>/<rank>/       stdout.log, stderr.log and error.json of each of this machine's ranks
"""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

import psutil
import torch

from nanolab.checkpoint import find_checkpoint, read_meta
from nanolab.interrupt import Interrupted, Interrupts
from nanolab.jobs import OR_AGAIN, STAGE_OF, Say, checkpoint_to_resume
from nanolab.paths import CLONE, cache_dir, shown
from nanolab.ranks import LAUNCHED_BY, LostContact, is_gone, this_process
from nanolab.runtime import pick_device
from nanolab.settings import BaseConfig, JobConfig, check_settings, describe_settings
from nanolab.trackers import FINISHED, METRICS, RUNNING, STATUS, check_trackers, read_json

FOLDER, LOG = "launch", "torchrun.log"
POLL = 0.2  # seconds between two looks at the files
PATIENCE = 600  # seconds that ranks have to save when they are to stop, before torchrun kills them (its own: 30)
START_PATIENCE = 15  # seconds, the same before the first step, when there is nothing to save
TAIL = 100_000  # characters of a log's end in which an error is looked for
# What torchrun tells a process; inherited from a launcher of our own it would be wrong.
OF_TORCHRUN = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")
A_STEP = re.compile(r"Step \d+/\d+ \| Training loss: ")  # lines of text that say what is yielded anyway
KILLED = "Stopped at once: all processes were killed. What was saved before is there, nothing else."
STOPPED = re.compile(r"^nanolab: (Stopped .*)$", re.MULTILINE)
EXIT_CODE = re.compile(r"rank\s*: \d+ \(local_rank: (\d+)\)\s+exitcode\s*: (-?\d+)")
NO_MATTER = (LostContact.__name__, Interrupted.__name__, KeyboardInterrupt.__name__)  # consequences of another's end


class LaunchFailed(RuntimeError):
    """The training has failed: which rank did first, and in its own words why."""


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
        say(f"On machine {rank}: {_to_copy(how[rank] + job)}")
    folder = run_dir / (FOLDER if node_rank == 0 else f"{FOLDER}_{node_rank}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [*how[node_rank], "--redirects", "3", "--log-dir", str(folder.resolve()), *job]
    command = [sys.executable, "-m", "torch.distributed.run", *command]
    known = set(describe_settings(config).splitlines())
    return Launched(command, run_dir, folder, first_step, nproc, node_rank * nproc, _saying(say, known))


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


class Launched:
    """A training that runs in processes of its own. Iterating yields rank 0's lines of metrics.jsonl until it ends.

    `earlier` are the lines of the steps that a resumed run does not do again, `command` is what was started.
    """

    def __init__(
        self, command: list[str], run_dir: Path, folder: Path, first_step: int, nproc: int, first_rank: int, say: Say
    ):
        self.command, self.run_dir, self.say = command, run_dir, say
        self._folder, self._first_rank, self._last = folder, first_rank, first_step - 1
        self._first_step, self._began = first_step, time.time()
        self._asked: int | None = None  # the signal that was passed on
        self._asked_at = 0.0
        self._killed = False
        self._metrics = Tail(run_dir / METRICS)
        self.earlier = [line for line in self._metrics.objects() if line["step"] < first_step]
        self._texts: dict[Path, Tail] = {}
        self._children: list[psutil.Process] = []
        with open(folder / LOG, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                env=_environment(nproc),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C comes to this process only, which passes it on
            )
        weakref.finalize(self, _end, self._process)  # whatever becomes of this object

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 0 if it has finished, 128 + the signal's number if it was stopped, else another."""
        code = self._process.poll()
        if code and (self._killed or self._asked):
            return 128 + (signal.SIGKILL if self._killed else self._asked)
        return 128 - code if code is not None and code < 0 else code

    def __iter__(self) -> Iterator[dict]:
        """The lines, until the ranks have ended. Raises LaunchFailed if one of them fails, Interrupted when stopped."""
        with Interrupts() as interrupts:
            try:
                yield from self._lines(interrupts)
            except Interrupted as second:
                self._kill()
                raise Interrupted(KILLED, second.signal_number) from None
            except BaseException:  # the loop was left
                self._end_quietly(interrupts)
                raise
        self._conclude()

    def _lines(self, interrupts: Interrupts) -> Iterator[dict]:
        while True:
            interrupts.arm()
            if interrupts.asked is not None and self._asked is None:
                self._ask(interrupts.asked)
            ended = self._process.poll() is not None
            self._pass_on_text()
            for line in self._metrics.objects():
                if line["step"] > self._last:  # not those that a restart has repeated
                    self._last = line["step"]
                    yield line
            if ended:
                return
            self._children = self._tree()[1:] or self._children
            self._insist()
            time.sleep(POLL)

    def _ask(self, number: int):
        """Let all ranks stop: torchrun passes the signal on to them, once, and waits."""
        self._asked, self._asked_at = number, time.monotonic()
        if self._process.poll() is None:
            self.say("Stopping: what is done is being saved. (Stop once more to end at once, without saving.)")
            _let_end(self._process)

    def _insist(self):
        """Kill ranks that are to stop and do not hear, while they are starting and have nothing to save."""
        unheard = self._asked is not None and time.monotonic() > self._asked_at + START_PATIENCE
        if unheard and self._last < self._first_step:
            for process in self._tree():
                _send(process, signal.SIGKILL)

    def _end_quietly(self, interrupts: Interrupts):
        """Ask for the end, wait for it and tell it; a signal meanwhile kills."""
        if interrupts.asked is None:
            interrupts.asked = signal.SIGINT
        try:
            for _ in self._lines(interrupts):
                pass
            self.say(self._stopped())
        except Interrupted:
            self._kill()
            self.say(KILLED)

    def _pass_on_text(self):
        for path in sorted(self._folder.glob("*/attempt_*/0/stdout.log")):
            for text in self._texts.setdefault(path, Tail(path)).lines():
                self.say(text)

    def _tree(self) -> list[psutil.Process]:
        """torchrun, and all processes that come from it."""
        try:
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _kill(self):
        self._killed = True
        tree = self._tree() + self._children
        for process in tree:  # torchrun first: it would start others
            _send(process, signal.SIGKILL)
        self._process.wait()
        _wait_for(tree, PATIENCE)

    def _conclude(self):
        """Raise what there is to be raised at the end."""
        code, asked = self._process.returncode, self._asked
        if self._killed:
            raise Interrupted(KILLED, asked or signal.SIGKILL)
        if code < 0:
            self._end_orphans()
        failed = _failure(self._folder, self._first_rank, told_only=asked is not None) if code else None
        if failed:
            raise LaunchFailed(failed)
        if code < 0 and asked is None:
            raise LaunchFailed(f"torchrun {_killed_by(-code)} {_own_words_of_the_end(self._folder) or ''}".strip())
        if asked is not None:
            raise Interrupted(self._stopped(), asked)
        if code and (stopped := _own_words_of_the_end(self._folder)):  # somebody else has sent them a signal
            raise Interrupted(stopped, signal.SIGTERM)
        if code:
            what = _last_error(self._folder / LOG) or f"exit status {code}"
            raise LaunchFailed(f"torchrun has failed: {what}\nAll it said: {shown(self._folder / LOG)}")

    def _end_orphans(self):
        """Whoever has killed torchrun has left the ranks: they are to save and end."""
        for process in self._children:
            _send(process, signal.SIGINT)
        _wait_for(self._children, PATIENCE)
        for process in self._children:
            _send(process, signal.SIGKILL)
        _wait_for(self._children, PATIENCE)

    def _stopped(self) -> str:
        status = read_json(self.run_dir / STATUS)
        if found := _own_words_of_the_end(self._folder):
            return found
        if status.get("status") == FINISHED and status.get("process_began", 0) > self._began:
            return "Stopped at the end: all steps are done."
        if self._last < self._first_step:
            return "Stopped before the first step."
        return f"Stopped; no rank has said what is saved (logs: {shown(self._folder)})."


class Tail:
    """The whole lines of a file as they are added; it may not be there yet, and another may take its place."""

    def __init__(self, path: Path):
        self.path, self._rest = path, b""
        self._file: BinaryIO | None = None  # held open, so that no other file gets its number

    def lines(self) -> list[str]:
        """What has come since the last call."""
        texts = self._read()
        if self._replaced():
            texts += self._read()
        return texts

    def objects(self) -> list[dict]:
        """The same as JSON objects with a "step"; lines that are none are left out."""
        return [line for line in map(_object, self.lines()) if isinstance(line.get("step"), int)]

    def _replaced(self) -> bool:
        """Whether there is another file than the one read so far; it is opened."""
        try:
            if self._file is not None and os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
                return False
            file = open(self.path, "rb")  # noqa: SIM115
        except OSError:
            return False
        if self._file is not None:
            self._file.close()
        self._file, self._rest = file, b""
        return True

    def _read(self) -> list[str]:
        if self._file is None:
            return []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def _object(text: str) -> dict:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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


def _environment(nproc: int) -> dict[str, str]:
    """What the ranks find: this process's environment, its cache folder, its nanolab, and who has started them."""
    env = {name: value for name, value in os.environ.items() if not OF_TORCHRUN.fullmatch(name)}
    env |= {"NANOLAB_CACHE": os.path.abspath(cache_dir()), LAUNCHED_BY: this_process(), "PYTHONUNBUFFERED": "1"}
    env.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(PATIENCE))
    if nproc == 1:  # with more, torchrun gives each rank one thread
        env.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    if "site-packages" not in CLONE.parts:
        env["PYTHONPATH"] = os.pathsep.join([str(CLONE), *filter(None, [env.get("PYTHONPATH")])])
    return env


def _end(process: subprocess.Popen):
    """Let a child that nobody watches any more save and end."""
    if process.poll() is None:
        _let_end(process)
        process.wait()


def _let_end(torchrun: subprocess.Popen):
    """SIGINT, which torchrun passes on to the ranks and their helpers: those that prepare steps would die of a SIGTERM,
    and break off the saving. Without ranks SIGTERM: a Python that has just started can lose a SIGINT."""
    torchrun.send_signal(signal.SIGINT if psutil.Process(torchrun.pid).children() else signal.SIGTERM)


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended. One that has, and that its parent has not asked about, has ended."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _wait_for(processes: list[psutil.Process], seconds: float):
    deadline = time.monotonic() + seconds
    while running(processes) and time.monotonic() < deadline:
        time.sleep(POLL)


def _send(process: psutil.Process, number: int):
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _last_attempt(folder: Path) -> list[Path]:
    """The folders of the ranks, as torchrun has started them last."""
    attempts = sorted(folder.glob("*/attempt_*"), key=lambda path: int(path.name.split("_")[1]))
    return sorted(attempts[-1].iterdir(), key=lambda path: int(path.name)) if attempts else []


def _own_words_of_the_end(folder: Path) -> str | None:
    """What a rank has said that was stopped; the advice for a notebook that holds the job itself is left out."""
    for rank in _last_attempt(folder):
        if found := STOPPED.findall(_end_of(rank / "stderr.log")):
            return found[-1].replace(OR_AGAIN, "")
    return None


def _failure(folder: Path, first_rank: int, told_only: bool) -> str | None:
    """Which rank failed first and why; None if none did. `told_only`: leave out what the end of others brings about."""
    ranks = _last_attempt(folder)
    found = [words for rank in ranks if (words := _told(rank, first_rank)) is not None]
    if not told_only:
        found += [words for rank in ranks if (words := _traceback(rank, first_rank)) is not None]
    real = [words for words in found if not words.kind.endswith(NO_MATTER)]
    if real:
        return min(real, key=lambda words: words.when).text
    if told_only:
        return None
    silent = _killed(folder, first_rank)
    return silent or next((words.text for words in found if words.kind == LostContact.__name__), None)


class Words(NamedTuple):
    """What a rank has said of its failure."""

    when: float  # in nanoseconds
    kind: str  # of the error
    text: str


def _told(folder: Path, first_rank: int) -> Words | None:
    """An error that a rank has handed to torchrun, see ranks.record_error."""
    path = folder / "error.json"
    told = read_json(path).get("message")
    if not isinstance(told, dict):
        return None
    kind, _, text = told["message"].partition(": ")
    return Words(path.stat().st_mtime_ns, kind, f"nanolab (rank {first_rank + int(folder.name)}): {text}")


def _traceback(folder: Path, first_rank: int) -> Words | None:
    """An error that has ended a rank's Python: its line, and where the rest stands."""
    path = folder / "stderr.log"
    line = _last_error(path)
    if line is None:
        return None
    text = f"rank {first_rank + int(folder.name)}: {line}\nThe whole traceback: {shown(path)}"
    return Words(path.stat().st_mtime_ns, line.partition(":")[0], text)


def _last_error(path: Path) -> str | None:
    """The line behind the last traceback of a log."""
    _, found, rest = _end_of(path).rpartition("Traceback (most recent call last):\n")
    return next((line for line in rest.splitlines() if line and not line.startswith(" ")), None) if found else None


def _killed(folder: Path, first_rank: int) -> str | None:
    """The rank that was killed first, or ended without a word; torchrun tells the exit codes."""
    said = _end_of(folder / LOG)
    codes = [(int(rank), int(code)) for rank, code in EXIT_CODE.findall(said)]
    codes = codes[-1:] + codes[:-1]  # the first failure stands last
    by_others = [(rank, code) for rank, code in codes if code < 0 and code != -signal.SIGTERM]
    for rank, code in by_others:
        return f"rank {first_rank + rank} {_killed_by(-code)}"
    return None


def _killed_by(number: int) -> str:
    perhaps = ": out of memory?" if number == signal.SIGKILL else ""
    return f"was killed ({signal.Signals(number).name}){perhaps}"


def _end_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    except OSError:
        return ""
