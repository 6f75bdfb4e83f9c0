"""The inside of `sandbox`: a supervisor, run as a fresh Python, and its child, which builds the walls and runs a text.

    main               read a job, print a report
    supervise          start the child, watch it, leave nothing of it behind
    run_inside         in the child: build the walls, run the program and its judge, say the secret word and a verdict

The child reports through a pipe, in lines that begin with a word drawn for this run; without it nothing is believed,
neither an exit status nor anything printed:

    <word> layer limits
    <word> missing landlock the kernel has no Landlock ...
    <word> ready
    <word> exception ZeroDivisionError: division by zero at: 1 / 0

Every program pays for what is imported here, so it is little: json, re, signal, traceback or typing would double the
time that a run takes. marshal is only spoken between nanolab and the supervisor, which trust each other.
"""

import builtins
import marshal
import os
import select
import sys
import time
import types

from nanolab import sandbox_kernel as kernel

try:
    import resource
except ModuleNotFoundError:
    resource = None  # Windows, where `sandbox` can be imported and runs nothing

WALLS = {
    "limits": "time, memory, files and processes",
    "landlock": "no files but its own",
    "user": "no rights of root",
    "seccomp": "no processes, sockets or signals",
    "audit": "the same in Python",
}

SIGKILL = 9  # on every system

TICK = 50  # milliseconds between two looks at the scratch folder
MAX_ENTRIES = 1_000  # files and folders in the scratch folder
MAX_FILE = 2**20  # bytes of one file
MAX_OPEN = 64  # open files
MAX_DETAIL = 200  # characters of an error
MAX_SAID = 4_096  # bytes of a report from the child
FIRST_USER, NUM_USERS = 60_578, 600  # ids that nobody has: https://systemd.io/UIDS-GIDS/

# What a program may read besides Python's own folder: libraries, time zones, and nothing that is anybody's.
SYSTEM_FILES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime",
                "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")  # fmt: skip

# Python's own announcements of what it is about to do: https://docs.python.org/3/library/audit_events.html
READS = {"os.listdir", "os.scandir"}
CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.chflags", "os.lchmod", "os.utime", "os.setxattr", "os.removexattr"}  # fmt: skip
REFUSED = ("socket.", "subprocess.", "ctypes.", "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
           "os.kill", "pty.", "signal.pthread_kill", "_thread.start", "resource.", "sqlite3.", "webbrowser.", "syslog.",
           "gc.get_", "sys._current_", "sys.remote_exec")  # fmt: skip
# Modules that do such things unannounced, or hold the door to native code.
NATIVE = {"_ctypes", "_posixsubprocess", "_interpreters", "_xxsubinterpreters", "_testcapi", "_testinternalcapi",
          "_dbm", "_gdbm", "readline", "_multiprocessing", "_posixshmem"}  # fmt: skip
HIDDEN = ("nanolab", "ctypes", "_ctypes")  # imported by us, so the program has to ask for them


def main() -> None:
    """Read one job from stdin, supervise it, write the report to stdout."""
    sys.path.pop()  # the folder this package lies in
    job = marshal.loads(b"".join(iter(lambda: os.read(0, 65_536), b"")))
    os.write(1, marshal.dumps(supervise(job)))


# --- the supervisor --------------------------------------------------------------------------------------------------


def supervise(job: dict) -> dict:
    """Run a job in a child and report `reason`, `detail`, `seconds`, `layers`, `missing`."""
    if sys.platform.startswith("linux"):
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # what the child leaves behind becomes ours, not init's
    word = os.urandom(16).hex().encode()
    job["supervisor"] = os.getpid()
    output, result = os.pipe(), os.pipe()
    start = time.monotonic()
    child = os.fork()
    if not child:
        _enter([output[0], result[0], job["alive"]], output[1])
        run_inside(job, word, result[1])
    os.close(output[1])
    os.close(result[1])
    stopped, said, status = watch(child, output[0], result[0], job, start + job["seconds"])
    seconds = time.monotonic() - start
    leftover = leave_nothing(child, reaped=status is not None)
    remove_tree(job["scratch"])
    return {**report(said, word, stopped, status, leftover), "seconds": round(seconds, 4)}


def watch(child: int, output: int, result: int, job: dict, deadline: float) -> tuple[str, bytes, int | None]:
    """Wait for a child's verdict, its end, or a limit: (limit or "", what it reported, wait status or None)."""
    said, heard = b"", 0
    poll = select.poll()
    for fd in (output, result, job["alive"]):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll(TICK):
            if fd == job["alive"]:
                return "abandoned", said, None
            data = os.read(fd, 65_536)
            if not data:
                poll.unregister(fd)
            heard += len(data) * (fd == output)
            said += data if fd == result else b""
        if heard > job["max_output"] or len(said) > MAX_SAID:
            return "output", said, None
        if too_full(job["scratch"], job["max_files"]):
            return "files", said, None
        if b" ready\n" in said and said.endswith(b"\n") and not said.endswith(b" ready\n"):
            return "", said, None
        if time.monotonic() > deadline:
            return "timeout", said, None
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "", said + _rest(result), status


def _rest(fd: int) -> bytes:
    """What is left in a pipe, without waiting for more."""
    os.set_blocking(fd, False)
    try:
        return os.read(fd, MAX_SAID)
    except BlockingIOError:
        return b""


def report(said: bytes, word: bytes, stopped: str, status: int | None, leftover: int) -> dict:
    """Turn what a child said, and how it ended, into a report; a verdict without the word is none.

    >>> report(b"w layer limits\\nw ready\\nfake passed\\n", b"w", "", 0, 0)["reason"]
    'exit'
    """
    before, ready, after = said.decode("utf-8", "replace").partition(f"{word.decode()} ready\n")
    walls = {"layers": [], "missing": {}}
    for line in before.splitlines():
        _, kind, name, *why = line.split(" ", 3)
        walls[kind].update({name: why[0]}) if kind == "missing" else walls["layers"].append(name.replace("_", " "))
    reason, detail = _verdict(after, word.decode(), stopped, status)
    if not ready and not stopped:
        reason, detail = "crash", f"the walls were not built, wait status {status}"
    elif leftover and not stopped:
        reason, detail = "forbidden", f"left {leftover} processes running"
    return {**walls, "reason": reason, "detail": detail}


def _verdict(after: str, word: str, stopped: str, status: int | None) -> tuple[str, str]:
    said_by, _, verdict = after.strip("\n").partition(" ")
    if stopped:
        return stopped, f"stopped by the sandbox: {stopped}"
    if said_by == word and "\n" not in verdict:
        reason, _, detail = verdict.partition(" ")
        return reason, detail
    if status is not None and os.WIFSIGNALED(status):
        return "crash", f"signal {os.WTERMSIG(status)}"
    return "exit", "ended itself before the end of the program"


def leave_nothing(child: int, reaped: bool) -> int:
    """End a child and everything that came from it, and count the processes besides the child itself.

    Orphans of our descendants become our children (PR_SET_CHILD_SUBREAPER), so when nothing is left to wait for,
    nothing is left. Elsewhere than on Linux only the child's process group is found.
    """
    for end in (os.killpg, os.kill):
        try:
            end(child, SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it is gone, has not made its group yet, or (macOS) is a zombie
    if not reaped:
        os.waitpid(child, 0)
    found = set()
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return len(found)
        if ended:
            found.add(ended)
            continue
        for descendant in descendants(os.getpid()):
            found.add(descendant)
            try:
                os.kill(descendant, SIGKILL)
            except ProcessLookupError:  # its own parent has waited for it meanwhile
                continue
        time.sleep(0.002)


def descendants(ancestor: int) -> list[int]:
    """Process ids of all that came from a process, from /proc.

    >>> descendants(2**22 + 1)
    []
    """
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])  # the name before it may hold anything
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        children.setdefault(parent, []).append(int(name))
    found = list(children.get(ancestor, []))
    for process in found:
        found += children.get(process, [])
    return found


def too_full(folder: str, max_bytes: int) -> bool:
    """Whether a folder holds more than `max_bytes` or MAX_ENTRIES, or cannot be looked at."""
    folders, size, entries = [folder], 0, 0
    while folders:
        try:
            for entry in os.scandir(folders.pop()):
                entries += 1
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if size > max_bytes or entries > MAX_ENTRIES:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
        except FileNotFoundError:
            continue  # removed while we looked
        except OSError:
            return True  # hidden from us, or too deep
    return False


def remove_tree(folder: str) -> None:
    """Remove a folder of any depth, whatever rights its parts have; links are removed, not followed.

    shutil.rmtree recurses, and so gives up on a thousand folders inside each other.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    os.chmod(folder, 0o700)
    here = os.open(folder, flags)
    path, pending = [], [_remove_files(here)]
    while path or pending[-1]:
        if pending[-1]:
            path.append(pending[-1].pop())
            os.chmod(path[-1], 0o700, dir_fd=here)
            below = os.open(path[-1], flags, dir_fd=here)
            pending.append(_remove_files(below))
        else:
            below = os.open("..", flags, dir_fd=here)
            os.rmdir(path.pop(), dir_fd=below)
            pending.pop()
        os.close(here)
        here = below
    os.close(here)
    os.rmdir(folder)


def _remove_files(folder: int) -> list[str]:
    """Remove everything in an open folder but its folders, whose names are returned."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return folders


# --- the child -------------------------------------------------------------------------------------------------------


def _enter(foreign: list[int], output: int):
    """First steps of the child: a session of its own, no stdin, stdout and stderr to the supervisor, nothing else."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for fd in foreign:
        os.close(fd)


def run_inside(job: dict, word: bytes, result: int) -> None:
    """Build the walls, run the program and its judge, report, end. Never returns."""
    write, leave, encode = os.write, os._exit, str.encode  # the program may replace the names, not these
    refused: list[str] = []
    try:
        layers, missing = build_walls(job, refused)
    except BaseException:
        sys.__excepthook__(*sys.exc_info())
        leave(1)
    lines = [f"layer {name.replace(' ', '_')}" for name in layers]
    lines += [f"missing {name} {why}" for name, why in missing.items()]
    write(result, b"".join(word + b" " + line.encode() + b"\n" for line in [*lines, "ready"]))
    if missing and not job["weak"]:
        leave(0)
    reason, detail = run_and_judge(job["text"], job["judge"], job["function"])
    if refused:
        reason, detail = "forbidden", refused[0]
    line = " ".join(f"{reason} {detail}".split())
    write(result, word + b" " + encode(line[:MAX_DETAIL], "utf-8", "backslashreplace") + b"\n")
    leave(0)


def run_and_judge(text: str, judge: str, function: str) -> tuple[str, str]:
    """Run a program and then its judge, each in a namespace of its own: a reason and a detail.

    For the child only: on the way it takes away the process's built-in functions and its tracing, and restores them.

    >>> run_and_judge("def f(): return 1", "assert candidate() == 1", "f")                   # doctest: +SKIP
    ('passed', '')
    """
    own, real = dict(vars(builtins)), vars(builtins)
    program = types.ModuleType("program")  # not __main__: a program's own trial runs are none of ours, as in HumanEval
    sys.modules["program"] = program
    try:
        parts = [compile(part, name, "exec", dont_inherit=True) for part, name in ((text, "program"), (judge, "judge"))]
        exec(parts[0], vars(program))
        _restore(real, own)
        if judge:
            exec(parts[1], {"__name__": "judge", "__builtins__": own, "candidate": _candidate(program, function)})
        return "passed", ""
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException as error:
        _restore(real, own)
        return describe(error, {"program": text, "judge": judge})
    finally:
        _restore(real, own)


def _restore(real: dict, own: dict):
    """Undo what a program did to the built-in functions and to tracing, before anything else relies on them."""
    real.clear()
    real.update(own)
    sys.settrace(None)
    sys.setprofile(None)


def _candidate(program: types.ModuleType, function: str) -> object:
    if function not in vars(program):
        raise NameError(f"the program does not define {function!r}")
    return vars(program)[function]


def describe(error: BaseException, sources: dict[str, str]) -> tuple[str, str]:
    """The reason an error stands for, and the error in one line with the source line it came from.

    >>> describe(ValueError("no"), {})
    ('exception', 'ValueError: no')
    """
    reason = {SystemExit: "exit", PermissionError: "forbidden"}.get(type(error), "exception")
    try:
        detail = f"{type(error).__name__}: {str(error)[:MAX_DETAIL]}".removesuffix(": ")
    except BaseException:
        return reason, "an error whose text cannot be made"  # __str__ is the program's own
    line, trace = "", error.__traceback__
    while trace is not None:
        source = sources.get(trace.tb_frame.f_code.co_filename, "").split("\n")
        if trace.tb_lineno and trace.tb_lineno <= len(source) and source[trace.tb_lineno - 1].strip():
            line = f" at: {source[trace.tb_lineno - 1].strip()}"
        trace = trace.tb_next
    return reason, detail + line


# --- the walls -------------------------------------------------------------------------------------------------------


def build_walls(job: dict, refused: list[str]) -> tuple[list[str], dict[str, str]]:
    """Build every wall there is: the names of those that stand, and why the others are missing."""
    layers, missing = [], {}
    os.chdir(job["scratch"])
    for name, build in _walls(job, refused):
        try:
            if name in job["without"]:
                raise kernel.WallMissing("taken down by the caller")
            layers.append(build())
        except (kernel.WallMissing, OSError, ValueError) as error:
            missing[name] = str(error)
    _forget_ourselves(job["scratch"])
    return layers, missing


def _walls(job: dict, refused: list[str]) -> list[tuple]:
    """The walls, (name, function), in the order in which they can be built: each takes away what those before need."""
    scratch, readable = job["scratch"], [*python_folders(), *SYSTEM_FILES]
    return [
        ("limits", lambda: set_limits(job)),
        ("landlock", lambda: kernel.shut_files(readable, scratch)),
        *([("user", lambda: become_nobody(scratch))] if os.geteuid() == 0 else []),
        ("seccomp", lambda: shut_calls(job["supervisor"])),
        ("audit", lambda: add_hook(scratch, readable, refused)),
    ]


def python_folders() -> list[str]:
    """The folders of Python's own modules, and of the libraries that came with them; no installed packages' are needed.

    >>> os.path.dirname(os.path.realpath(os.__file__)) in python_folders()
    True
    """
    libraries = os.path.join(sys.base_prefix, "lib")
    return [os.path.realpath(path) for path in [*sys.path, libraries] if os.path.isdir(path)]


def set_limits(job: dict) -> str:
    """Bound what the process may use; the system ends it or refuses, whatever it does."""
    limits = {
        "CPU": int(job["seconds"]) + 2,  # second line behind the supervisor's clock
        "AS": job["memory"],
        "FSIZE": MAX_FILE,
        "NOFILE": MAX_OPEN,
        "CORE": 0,
        "NPROC": 0,  # no effect on root
    }
    if "processes" in job["without"]:  # a test of what comes after it
        del limits["NPROC"]
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    return "limits"


def become_nobody(scratch: str) -> str:
    """Root gives up being root: a user and group that nobody else has, another one for runs beside this one."""
    user = FIRST_USER + os.getpid() % NUM_USERS
    os.chown(scratch, user, user)
    _hold_python_open(user)
    os.setgroups([])
    if sys.platform.startswith("linux"):
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    else:
        os.setgid(user)
        os.setuid(user)
    return "user"


def _hold_python_open(user: int):
    """Let the new user import from folders that only root can reach (a Python in /root): through open descriptors.

    The descriptors are for these folders; what lies beside them stays out of reach.
    """
    if not os.path.isdir("/proc/self/fd"):
        return
    held = {}
    for path in filter(os.path.isdir, sys.path):
        held[path] = f"/proc/self/fd/{os.open(path, os.O_RDONLY | os.O_DIRECTORY)}"
    sys.path[:] = held.values()
    for module in list(sys.modules.values()):  # packages already imported look for their parts where they were found
        for path in list(getattr(module, "__path__", ())):
            for folder, descriptor in held.items():
                if path.startswith(folder + "/"):
                    module.__path__ = [descriptor + path.removeprefix(folder)]


def shut_calls(supervisor: int) -> str:
    """End if the supervisor is killed, be closed to other processes of the same user, then only harmless calls."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)  # killed before we asked
    return kernel.shut_calls()


def _forget_ourselves(scratch: str):
    """Empty the environment, and unload modules that the program would have to ask for."""
    os.environ.clear()
    os.environ["TMPDIR"] = scratch
    sys.argv = [""]
    for name in list(sys.modules):
        if name.partition(".")[0] in HIDDEN:
            del sys.modules[name]


def add_hook(scratch: str, readable: list[str], refused: list[str]) -> str:
    """Refuse, and note in `refused`, whatever Python announces that reaches outside the scratch folder."""
    realpath, exists, places = os.path.realpath, os.path.lexists, (scratch, *map(os.path.realpath, readable))
    writing = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC

    def inside(path, folders):
        if isinstance(path, int):
            return True  # a descriptor, opened before under these rules
        real = realpath(os.fsdecode(path if path is not None else "."))
        return any(real == folder or real.startswith(folder + "/") for folder in folders)

    def allowed(event, arguments):
        if event == "open":
            if arguments[2] & writing:
                return inside(arguments[0], (scratch, "/dev/null"))
            return inside(arguments[0], places) or not exists(arguments[0])
        if event in READS:
            return inside(arguments[0], places) or not exists(arguments[0] or ".")
        if event in CHANGES:
            return all(inside(path, (scratch,)) for path in arguments if isinstance(path, str | bytes))
        if event == "import":
            return arguments[0] not in NATIVE
        return not event.startswith(REFUSED)

    def hook(event, arguments):
        if not allowed(event, arguments):
            refused.append(f"{event} {arguments[:1]!r:.100}")
            raise PermissionError(f"the sandbox refuses {event} {arguments[:1]!r:.100}")

    sys.addaudithook(hook)
    return "audit"
