"""Step 9, programs: what a model wrote is run where it can do no harm, and counts as right only if it ran to its end.

    run_program("print(1 / 0)")                       -> Outcome(passed=False, reason="exception", ...)
    run_program(Program(text, judge, "add"))          -> the judge sees the program's `add` as `candidate`
    run_programs([...])                               -> one Outcome each, several at once

Three processes: nanolab, which never runs the text; a supervisor (`sandbox_child`), a fresh Python with an emptied
environment that watches; and its child, which runs the text between these walls:

    limits     processor seconds, memory, size and number of open files, no core dumps, no further processes
    landlock   reads only Python's own files and the system's libraries, writes only its scratch folder, no TCP
    user       started as root: another user, without rights and belonging to no group
    seccomp    a list of harmless system calls; no processes, threads, programs, sockets, signals to anybody
    audit      the same once more in Python, where no kernel is needed; weaker, since native code goes round it

The supervisor ends the child when time, output or scratch folder grow too large, then finds and ends every process that
came from it, and removes the folder. A kernel without Landlock or seccomp is an error, `SandboxUnavailable`, not a
weaker sandbox, unless that is asked for.

What this cannot exclude. Metadata (does this file exist, how large is it) stay visible. Bugs of the kernel are open to
any program. And the judge runs in the process of the program it judges: a program that searches the frames of its
callers can find the word that reports success, and one that returns objects equal to everything passes every `==`. So
a pass of a program that was made to cheat proves nothing, but it harms nothing either.
"""

import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanolab.sandbox_child import WALLS, remove_tree

MB = 2**20
GRACE = 20.0  # seconds that starting, killing and tidying up may take, on a busy machine
PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])
# A first line instead of a file, so that no folder of the project comes before Python's own modules.
START = "import sys; del sys.path[0]; sys.path.append(sys.argv[1]); from nanolab.sandbox_child import main; main()"
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")  # some Pythons do not start without them


class SandboxUnavailable(RuntimeError):
    """This machine cannot shut a program in; the message names the missing wall and says what can be done."""


@dataclass(frozen=True)
class Program:
    """A program, and optionally a second one that judges it.

    The judge is run afterwards, in a namespace of its own, and gets the first one's function `function` under the name
    `candidate`. Nothing else crosses: the program cannot redefine what the judge uses.
    """

    text: str
    judge: str = ""
    function: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a program. `passed` only if it, and its judge, ran to their ends without trying anything refused.

    `reason`: "passed", "exception", "exit" (it ended itself), "timeout", "memory", "output" (said too much), "files"
    (wrote too much), "forbidden" (tried something refused), "crash" (a signal).
    """

    passed: bool
    reason: str
    detail: str  # the error in a line, shortened
    seconds: float  # wall time of the program
    layers: tuple[str, ...]  # the walls it stood between, for example ("limits", "landlock 7", "seccomp", "audit")


def run_program(
    program: str | Program,
    *,
    seconds: float = 5.0,
    memory_mb: int = 512,
    max_output: int = 64 * 1024,
    files_mb: int = 16,
    weak: bool | None = None,
    _without: Sequence[str] = (),
) -> Outcome:
    """Run one program between the walls described above and say what became of it.

    Args:
        seconds: wall time. memory_mb: address space. max_output: bytes on stdout and stderr together. files_mb: bytes
            in the scratch folder. weak: go on where a wall is missing (None: if NANOLAB_WEAK_SANDBOX is 1). _without:
            names of walls that a test takes down, which count as missing; "processes" is the limit on processes alone.

    Raises SandboxUnavailable if a wall is missing and `weak` is false, ValueError for limits that are not positive.

    >>> run_program("assert sum([1, 2]) == 3").reason, run_program("1 / 0").reason
    ('passed', 'exception')
    """
    limits = {"seconds": seconds, "memory": memory_mb * MB, "max_output": max_output, "max_files": files_mb * MB}
    if min(limits.values()) <= 0:
        raise ValueError(f"The limits of a program must be positive, got {limits}.")
    if os.name != "posix" or not sys.executable:
        raise SandboxUnavailable("Programs are run on Linux and macOS only, by a Python that knows its own path.")
    program = Program(program) if isinstance(program, str) else program
    weak = os.environ.get("NANOLAB_WEAK_SANDBOX") == "1" if weak is None else weak
    scratch = os.path.realpath(tempfile.mkdtemp(prefix="nanolab-sandbox-"))
    try:
        job = {**limits, **vars(program), "scratch": scratch, "weak": weak, "without": list(_without)}
        report = _supervise(job)
    finally:
        if os.path.lexists(scratch):  # the supervisor itself was stopped
            remove_tree(scratch)
    if report["missing"] and not weak:
        raise SandboxUnavailable(_unavailable(report["missing"]))
    return Outcome(
        report["reason"] == "passed",
        report["reason"],
        report["detail"],
        report["seconds"],
        tuple(report["layers"]),
    )


def run_programs(programs: Sequence[str | Program], workers: int | None = None, **limits: Any) -> list[Outcome]:
    """`run_program` for each, `workers` at once (None: one a processor), in the order of the programs.

    >>> [outcome.reason for outcome in run_programs(["1 + 1", "raise SystemExit"])]
    ['passed', 'exit']
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: run_program(program, **limits), programs))


def check_sandbox(weak: bool | None = None) -> tuple[str, ...]:
    """The walls this machine has, before anybody spends an hour on replies. Raises SandboxUnavailable.

    >>> "limits" in check_sandbox()
    True
    """
    return run_program("", weak=weak).layers


def _supervise(job: dict) -> dict:
    """Start a supervisor, hand it the job, and wait for its report."""
    alive, held = os.pipe()  # closed when this process ends or gives up, which the supervisor sees
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-s", "-S", "-B", "-c", START, PACKAGE_ROOT, job["scratch"]],  # the last for readers of `ps`
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "PYTHONHASHSEED": "0"},  # so that two runs see sets in the same order
        cwd="/",
        pass_fds=[alive],
        start_new_session=True,
    )
    os.close(alive)
    try:
        request = marshal.dumps({**job, "alive": alive})
        answer, trouble = process.communicate(request, timeout=job["seconds"] + GRACE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"The sandbox did not end within {job['seconds'] + GRACE:g} s.") from None
    finally:
        os.close(held)
        _end(process)
    if process.returncode or not answer:
        raise RuntimeError(f"The sandbox broke (exit status {process.returncode}): {trouble.decode()[-1000:].strip()}")
    return marshal.loads(answer)


def _end(process: subprocess.Popen):
    """Wait for a supervisor that is tidying up after its pipe was closed; kill it if it does not end."""
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def _unavailable(missing: dict[str, str]) -> str:
    walls = "\n".join(f"  {name} ({WALLS[name]}): {why}" for name, why in missing.items())
    return (
        "A program that a model wrote was not run, because this machine cannot shut it in completely. Missing:\n"
        f"{walls}\nUse a Linux kernel of 5.13 or later (x86_64 or aarch64) that has Landlock and seccomp switched on. "
        "Or, if you trust the programs, set NANOLAB_WEAK_SANDBOX=1 (or pass weak=True) to run them without these walls."
    )
