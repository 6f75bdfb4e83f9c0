"""Beside the line: what a run leaves behind while it runs, and who else is told.

    data_cache/runs/<run>/
        metrics.jsonl    one object a step, evaluations beside the step's own numbers; always there
        settings.json    what the run was asked to do, written when it starts
        status.json      running, finished, stopped or failed, and what its trackers need to go on
        tensorboard/     event files, with report_to="tensorboard"
        wandb/           Weights & Biases' own files, with report_to="wandb" (all there is, if WANDB_MODE=offline)

`report_to` names trackers: each is told the lines of metrics.jsonl, under the same names. A library is imported only if
it is named. Trackers are fed by threads of their own: one that is slow, or fails, neither stops nor slows the training.
A run that goes on (`resume`) is the same run there. Steps that it does once more, behind its checkpoint, are not told
again to wandb and trackio, which would have them twice: they keep the first doing's numbers, equal but for `seconds`
and `mfu`.
"""

import json
import os
import platform
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TextIO

import psutil

from nanolab.settings import tracker_names

METRICS, SETTINGS, STATUS = "metrics.jsonl", "settings.json", "status.json"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
PROJECT = "nanolab"  # unless WANDB_PROJECT or TRACKIO_PROJECT says otherwise
EVENTS = "tensorboard"  # folder of the event files
REPEATED = 1_000  # steps that TensorBoard is told again when a run goes on: a killed one may not have written its last
MAX_WAITING = 10_000  # steps that a tracker may be behind before it is given up
FINISH_SECONDS = 60.0  # to wait for a tracker at the end of a run
BLOCK, HEADER, WHOLE, LAST = 32_768, 7, 1, 4  # of LevelDB's log format, see offline_records

Say = Callable[[str], None]


@dataclass(frozen=True)
class About:
    """What a run's files and trackers say about it."""

    run_dir: Path
    stage: str
    model_tag: str
    num_iterations: int
    dtype: str
    settings: dict  # plain data
    first_step: int = 0  # more than 0 if the run goes on
    leads: bool = True  # of several processes that train together one keeps files and tells trackers

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.run_dir.name

    def kept(self) -> dict:
        """What settings.json holds."""
        known = {"stage": self.stage, "model_tag": self.model_tag, "num_iterations": self.num_iterations}
        return {**known, "dtype": self.dtype, "settings": self.settings}

    def config(self) -> dict:
        """The settings as a tracker shows them: flat, with what was resolved from them."""
        kept = self.kept()
        return {**kept.pop("settings"), **kept}


class Tracker(Protocol):
    """Where a run's numbers go besides metrics.jsonl."""

    next_step: int  # the first that it does not have yet
    kept: dict  # what it must be told to go on in the same run

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step. May raise whatever its library raises."""

    def finish(self, status: str) -> None:
        """End the run as "finished", "stopped" or "failed"."""


class WandbTracker:
    """Weights & Biases, https://docs.wandb.ai. WANDB_MODE=offline writes files only; `wandb sync` sends them later."""

    def __init__(self, about: About, kept: dict | None):
        import wandb

        self.kept = {"id": kept["id"] if kept else secrets.token_hex(4)}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=self.kept["id"],
            resume="allow" if kept else "never",
            dir=str(about.run_dir),
            config=about.config(),
            reinit="create_new",  # other runs of this process are left alone
            settings=wandb.Settings(console="off"),  # what is printed stays here
        )
        self.next_step = kept["next_step"] if kept else 0
        if kept and self.run.resumed:  # the server knows
            self.next_step = self.run.step
        elif kept and kept["guessed"]:  # offline nobody does, and what a killed run had not written is lost
            self.next_step = 1 + max(_offline_steps(about.run_dir, self.kept["id"]), default=-1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One row of the run's history."""
        self.run.log(values, step=step)

    def finish(self, status: str) -> None:
        """The status is in the summary; an exit code other than 0 makes it a failed run."""
        self.run.summary["status"] = status
        self.run.finish(exit_code={FINISHED: 0, STOPPED: 130}.get(status, 1))


class TrackioTracker:
    """Trackio, https://github.com/gradio-app/trackio: a local database in TRACKIO_DIR, or Space TRACKIO_SPACE_ID."""

    def __init__(self, about: About, kept: dict | None):
        import trackio

        self.alert_level = trackio.AlertLevel
        init = partial(
            trackio.init,
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=about.name,
            config=about.config(),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.run, self.next_step = init(resume="allow" if kept else "never"), 0
        if kept and self.run.id != kept["id"]:  # it goes by names, and this is another run of that name
            self.run.finish()
            self.run = init(resume="never")
        elif kept:  # it has looked up the last step in its database, where a killed run's last may be missing
            self.next_step = getattr(self.run, "_next_step", kept["next_step"])
        self.kept = {"id": self.run.id}

    def log(self, step: int, values: dict[str, float]) -> None:
        """One row of the run's logs."""
        self.run.log(values, step=step)

    def finish(self, status: str) -> None:
        """Trackio's runs have no status: one that did not finish ends with an alert that says so."""
        if status != FINISHED:
            level = self.alert_level.WARN if status == STOPPED else self.alert_level.ERROR
            self.run.alert(title=f"The run was {status}." if status == STOPPED else "The run failed.", level=level)
        self.run.finish()


class TensorBoardTracker:
    """TensorBoard's event files in the run's folder. They hold float32: about 7 digits of each number."""

    def __init__(self, about: About, kept: dict | None):
        from torch.utils.tensorboard import SummaryWriter

        folder = about.run_dir / EVENTS
        for old in folder.glob("events.out.tfevents.*") if kept is None else ():
            old.unlink()  # another run's, replaced as its metrics are
        self.kept = {}
        known = min(kept["next_step"], about.first_step) if kept else 0
        self.next_step = max(0, known - REPEATED)
        while list(folder.glob(f"*.{int(time.time())}.*")):
            time.sleep(0.1)  # readers take files in the order of the seconds in their names
        # They forget what came before from this step on.
        self.writer = SummaryWriter(str(folder), purge_step=self.next_step if kept else None)
        text = json.dumps(about.config(), indent=2)
        self.writer.add_text("settings", "\n".join(f"    {line}" for line in text.splitlines()), self.next_step)
        self.last = self.next_step

    def log(self, step: int, values: dict[str, float]) -> None:
        """A scalar for each name, on the disk at once."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()
        self.last = step

    def finish(self, status: str) -> None:
        """The status is a text beside the scalars."""
        self.writer.add_text("status", status, self.last)
        self.writer.close()


TRACKERS = {"wandb": WandbTracker, "trackio": TrackioTracker, "tensorboard": TensorBoardTracker}
HINTS = {"wandb": " Without an account or a network: WANDB_MODE=offline.", "trackio": "", "tensorboard": ""}


def check_trackers(report_to: str) -> None:
    """Raise ValueError if a tracker is named whose library is not installed. Imports none of them.

    >>> check_trackers("")
    """
    for name in tracker_names(report_to):
        if find_spec(name) is None:
            raise ValueError(f"report_to={name} needs a library that is not installed: pip install 'nanolab[{name}]'")


@contextmanager
def reported(about: About, open_metrics: Callable[[], AbstractContextManager[TextIO]], say: Say) -> Iterator["Lines"]:
    """While entered, lines written here go to metrics.jsonl and to the trackers that the settings name.

    `open_metrics` opens metrics.jsonl, which then holds the lines before `about.first_step`. settings.json and
    status.json are written, too. A process that does not lead does none of this but `open_metrics`. Raises ValueError,
    before any step, if a tracker does not start.
    """
    if not about.leads:
        with open_metrics() as file:
            yield Lines(file, [], say)
        return
    about.run_dir.mkdir(parents=True, exist_ok=True)
    kept = kept_trackers(about)
    trackers = start_trackers(about, kept)
    status = {**_this_process(), "trackers": kept | {name: tracker.kept for name, tracker in trackers.items()}}
    outcome, feeders = FAILED, []
    try:
        write_json(about.run_dir / SETTINGS, about.kept())
        write_json(about.run_dir / STATUS, {"status": RUNNING, **status})
        with open_metrics() as file:
            earlier = read_lines(about.run_dir / METRICS)[0] if trackers and about.first_step else []
            feeders = [Feeder(name, tracker, earlier) for name, tracker in trackers.items()]
            yield Lines(file, feeders, say)
        outcome = FINISHED
    except (KeyboardInterrupt, GeneratorExit):  # Interrupted is one; a loop that was left is the other
        outcome = STOPPED
        raise
    finally:
        feeders = feeders or [Feeder(name, tracker, []) for name, tracker in trackers.items()]
        status = {"status": outcome, **status, "ended": _now()}
        _write_status(about.run_dir, status, say)  # already now: somebody may not want to wait for trackers
        for feeder in feeders:
            feeder.finish(outcome)
        deadline = time.monotonic() + FINISH_SECONDS
        for feeder in feeders:
            feeder.wait(max(0.0, deadline - time.monotonic()), say)
            status["trackers"][feeder.name] |= {"next_step": feeder.next_step}
        if feeders:
            _write_status(about.run_dir, status, say)


def start_trackers(about: About, kept: dict[str, dict]) -> dict[str, Tracker]:
    """The trackers that the settings name, at work; `kept`: what those that go on in the same run need.

    Raises ValueError, with the others ended, if one does not start.
    """
    started: dict[str, Tracker] = {}
    for name in tracker_names(about.settings["report_to"]):
        try:
            started[name] = TRACKERS[name](about, kept.get(name))
        except BaseException as error:
            for tracker in started.values():
                tracker.finish(FAILED)
            if not isinstance(error, Exception):
                raise
            raise ValueError(f"report_to: {name} did not start: {_in_a_line(error)}.{HINTS[name]}") from error
    return started


def kept_trackers(about: About) -> dict[str, dict]:
    """What status.json says of the trackers of the run that goes on: name -> what they need; {} for a new run.

    `next_step` is behind what a tracker had got when the run ended; a run that was killed has not said so, and then it
    is guessed from the lines of metrics.jsonl.
    """
    if not about.first_step:
        return {}
    found = read_json(about.run_dir / STATUS).get("trackers", {})
    lines = read_lines(about.run_dir / METRICS)[0]
    behind_all = max((line["step"] + 1 for line in lines), default=0)
    return {name: {"next_step": behind_all, "guessed": "next_step" not in kept, **kept} for name, kept in found.items()}


def offline_records(path: Path) -> list:
    """The records (wandb's protocol buffers) of a .wandb file, as far as it was written.

    LevelDB's log format behind 7 bytes: blocks of 32 KiB, in them records, whole or in parts, each with a checksum (4
    bytes), a size (2) and a kind (1). Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, records = path.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too small a rest of a block for a record
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            try:
                records.append(Record.FromString(parts))
            except DecodeError:  # cut in the middle
                break
            parts = b""
    return records


def _offline_steps(run_dir: Path, run_id: str) -> Iterator[int]:
    """The steps in all offline files of a wandb run."""
    for path in run_dir.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb"):
        for record in offline_records(path):
            if record.WhichOneof("record_type") == "history":
                yield record.history.step.num


class Lines:
    """metrics.jsonl as a run writes it, with ears."""

    def __init__(self, file: TextIO, feeders: list["Feeder"], say: Say):
        self.file, self.feeders, self.say = file, feeders, say

    def write(self, text: str) -> None:
        """Write a line, one JSON object with its "step", and hand its numbers on."""
        self.file.write(text)
        line = json.loads(text) if self.feeders else {}
        for feeder in self.feeders:
            feeder.log(line)
            feeder.tell(self.say)

    def flush(self) -> None:
        """Let readers find what was written."""
        self.file.flush()


class Feeder:
    """A thread that feeds a tracker, so that training never waits for it."""

    def __init__(self, name: str, tracker: Tracker, earlier: list[dict]):
        self.name, self.tracker, self.next_step = name, tracker, tracker.next_step
        self.problem, self.told = "", False
        self._earlier = earlier
        self._waiting: queue.Queue = queue.Queue(MAX_WAITING)
        self._outcome: str | None = None
        self._thread = threading.Thread(target=self._feed, name=f"nanolab-{name}", daemon=True)
        self._thread.start()

    def log(self, line: dict) -> None:
        """Hand over a line of metrics; nothing any more once the tracker has failed."""
        if self.problem:
            return
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.problem = f"it is {MAX_WAITING:,} steps behind"

    def tell(self, say: Say) -> None:
        """Say once that the tracker has failed."""
        if self.problem and not self.told:
            self.told = True
            say(f"Warning: {self.name} gets no more of this run: {self.problem}. {METRICS} has all of it.")

    def finish(self, outcome: str) -> None:
        """Ask for the end: what waits is still handed on."""
        self._outcome = outcome
        if not self.problem:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self.problem = f"it is {MAX_WAITING:,} steps behind"

    def wait(self, seconds: float, say: Say) -> None:
        """Wait for the end, so long at most."""
        self._thread.join(seconds)
        if self._thread.is_alive() and not self.problem:
            self.problem = f"it was not done {FINISH_SECONDS:.0f} seconds after the end"
        self.tell(say)

    def _feed(self):
        try:
            for line in self._lines():
                self._pass_on(line)
        except Exception as error:  # whatever a tracker's library raises: the training must not end of it
            self.problem = _in_a_line(error)
            while self._outcome is None:
                threading.Event().wait(0.05)
        try:
            self.tracker.finish(self._outcome or FAILED)
        except Exception as error:
            self.problem = self.problem or _in_a_line(error)

    def _lines(self) -> Iterator[dict]:
        yield from self._earlier
        while True:
            try:
                line = self._waiting.get(timeout=0.5)
            except queue.Empty:
                if self._outcome is not None and self.problem:
                    return
                continue
            if line is None:
                return
            yield line

    def _pass_on(self, line: dict):
        """Hand a step on, unless the tracker has it from before the run went on."""
        if line["step"] < self.next_step:
            return
        values = {name: value for name, value in line.items() if name != "step" and _is_number(value)}
        self.tracker.log(line["step"], values)
        self.next_step = line["step"] + 1


def read_lines(path: Path) -> tuple[list[dict], int]:
    """The lines of a metrics.jsonl and how many others there are: half written, damaged, or of another kind.

    >>> read_lines(Path("runs/sft_d4/metrics.jsonl"))[0][0]["step"]                      # doctest: +SKIP
    0
    """
    if not path.exists():
        return [], 0
    good, damaged = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _line_of(text)
        if line is not None:
            good.append(line)
        elif text.strip():
            damaged += 1
    return good, damaged


def _line_of(text: str) -> dict | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    return line if line.get("loss") is None or _is_number(line["loss"]) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_json(path: Path) -> dict:
    """A JSON object from a file; {} if there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, found: dict) -> None:
    """Write a JSON object in one step: a reader finds the old one or the new one."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _write_status(run_dir: Path, status: dict, say: Say):
    try:
        write_json(run_dir / STATUS, status)
    except OSError as error:  # at the end of a run, perhaps of one that failed for the same reason
        say(f"Warning: {STATUS} could not be written: {error}")


def _this_process() -> dict:
    """Who runs: enough to tell later whether it still does, though process numbers are given out again."""
    process = psutil.Process()
    return {"pid": process.pid, "process_began": process.create_time(), "host": platform.node(), "began": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _in_a_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return (words or type(error).__name__)[:300].rstrip(".")
