"""Beside the line: a training that runs as torchrun's children, watched from a notebook; see launch.py."""

import json
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from nanolab.interrupt import Interrupted, Interrupts
from nanolab.jobs import Say
from nanolab.paths import shown
from nanolab.rank_errors import LOG, failure, killed_by, last_error, own_words_of_the_end
from nanolab.trackers import FINISHED, METRICS, STATUS, read_json

POLL = 0.2  # seconds between two looks at the files
PATIENCE = 600  # seconds that ranks have to save when they are to stop, before torchrun kills them (its own: 30)
START_PATIENCE = 15  # seconds, the same before the first step, when there is nothing to save
KILLED = "Stopped at once: all processes were killed. What was saved before is there, nothing else."


class LaunchFailed(RuntimeError):
    """The training has failed: which rank did first, and in its own words why."""


class Launched:
    """A training that runs in processes of its own. Iterating yields rank 0's lines of metrics.jsonl until it ends.

    `earlier` are the lines of the steps that a resumed run does not do again, `command` is what was started.
    """

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        run_dir: Path,
        folder: Path,
        first_step: int,
        first_rank: int,
        say: Say,
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
                env=env,
                stdin=subprocess.PIPE,  # closed when it is to end, see torchrun.py
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
            self._process.stdin.close()

    def _insist(self):
        """Kill ranks that are to stop and do not hear, while they are starting and have nothing to save.

        On the first machine only: others may not see rank 0's steps, and there it is not known.
        """
        unheard = self._asked is not None and time.monotonic() > self._asked_at + START_PATIENCE
        if unheard and self._first_rank == 0 and self._last < self._first_step:
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
        failed = failure(self._folder, self._first_rank, told_only=asked is not None) if code else None
        if failed:
            raise LaunchFailed(failed)
        if code < 0 and asked is None:
            raise LaunchFailed(f"torchrun {killed_by(-code)} {own_words_of_the_end(self._folder) or ''}".strip())
        if asked is not None:
            raise Interrupted(self._stopped(), asked)
        if code and (stopped := own_words_of_the_end(self._folder)):  # somebody else has sent them a signal
            raise Interrupted(stopped, signal.SIGTERM)
        if code:
            what = last_error(self._folder / LOG) or f"exit status {code}"
            raise LaunchFailed(f"torchrun has failed: {what}\nAll it said: {shown(self._folder / LOG)}")

    def _end_orphans(self):
        """Whoever has killed torchrun has left the ranks, which notice, save and end."""
        _wait_for(self._children, PATIENCE)
        for process in self._children:
            _send(process, signal.SIGKILL)
        _wait_for(self._children, PATIENCE)

    def _stopped(self) -> str:
        status = read_json(self.run_dir / STATUS)
        if found := own_words_of_the_end(self._folder):
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


def _end(process: subprocess.Popen):
    """Let a child that nobody watches any more save and end."""
    process.stdin.close()
    process.wait()


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
