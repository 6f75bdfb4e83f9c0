"""The sandbox: programs that mean harm do none, leave nothing running and nothing behind, and are counted wrong.

Every hostile program here is a harmless stand-in, aimed at files, sockets and variables that its test made. It ends
normally, and so would be counted right, only if it reached its aim. Each runs between all walls, and between fewer, so
that no wall hides that another has a hole.
"""

import doctest
import importlib
import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nanolab import sandbox, sandbox_child, sandbox_kernel
from nanolab.sandbox import Program, SandboxUnavailable, check_sandbox, run_program, run_programs

posix = pytest.mark.skipif(os.name != "posix", reason="programs are run on Linux and macOS only")
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
pytestmark = posix

KERNEL = ("landlock", "seccomp")
FEWER = {
    "all walls": (),
    "the kernel's walls": ("audit",),
    "Python's wall": ("landlock", "user", "seccomp"),
    "the kernel's walls, for root": ("user", "audit"),
}

# {victim}: a file of the test's; {folder}: its folder; {port}: where it listens; {pid}: the test's process.
HOSTILE = {
    "starts a child that outlives it": """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(0.5)
    open("{folder}/made", "w").close()
    os._exit(0)
""",
    "starts a program": "import subprocess; subprocess.run(['/bin/sh', '-c', 'echo > {folder}/made'], check=True)",
    "starts a program through the shell": "import os; assert os.system('echo > {folder}/made') == 0",
    "becomes another program": "import os; os.execv('/bin/true', ['true'])",
    "starts a thread": "import threading; threading.Thread(target=print).start()",
    "starts a process with posix_spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "deletes a file": "import os; os.remove('{victim}')",
    "renames a file": "import os; os.rename('{victim}', '{folder}/made')",
    "fetches a file": "import os; os.rename('{victim}', 'mine')",
    "empties a file": "open('{victim}', 'w').close()",
    "empties a file that it opens for reading": "import os; os.open('{victim}', os.O_RDONLY | os.O_TRUNC)",
    "truncates a file": "import os; os.truncate('{victim}', 0)",
    "appends to a file": "open('{victim}', 'a').write('x')",
    "changes a file's rights": "import os; os.chmod('{victim}', 0o777)",
    "changes a file's times": "import os; os.utime('{victim}', (1, 1))",
    "writes outside its folder": "open('{folder}/made', 'w').write('x')",
    "writes outside its folder through a link": """
import os
os.symlink('{folder}', 'door')
open('door/made', 'w').write('x')
""",
    "writes above its folder": "open('../made', 'w').write('x')",
    "makes a folder outside its folder": "import os; os.mkdir('{folder}/made')",
    "deletes a folder's contents": "import shutil; shutil.rmtree('{folder}')",
    "reads a file outside its folder": "assert open('{victim}').read() == 'precious'",
    "reads a file through a link": "import os; os.link('{victim}', 'mine'); assert open('mine').read() == 'precious'",
    "lists a folder outside its folder": "import os; assert os.listdir('{folder}')",
    "reads the environment": "import os; assert os.environ['NANOLAB_TEST_SECRET']",
    "reads its parent's environment": "import os; assert open(f'/proc/{{os.getppid()}}/environ').read()",
    "reads its own first environment": "assert open('/proc/self/environ').read()",
    "reads the test's memory map": "assert open('/proc/{pid}/maps').read()",
    "opens a connection": """
import socket
socket.create_connection(('127.0.0.1', {port}), 1).sendall(b'hello')
""",
    "opens a socket": "import socket; socket.socket(socket.AF_UNIX)",
    "listens": "import socket; socket.create_server(('127.0.0.1', 0))",
    "signals its parent": "import os; os.kill(os.getppid(), 0)",
    "signals the test": "import os; os.kill({pid}, 0)",
    "signals its group's others": "import os; os.killpg(os.getpgid(os.getppid()), 0)",
    "raises its own limits": """
import resource
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
""",
    "loops for ever": "while True: pass",
    "loops for ever and catches everything": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "sleeps": "import time; time.sleep(60)",
    "says something for ever": "while True: print('again')",
    "says something for ever on stderr": "import sys\nwhile True: sys.stderr.write('again')",
    "says one line of 10 MB": "print('x' * 10_000_000, flush=True)",
    "wants huge memory": "x = bytearray(8 * 2**30)",
    "takes memory piece by piece": "x = []\nwhile True: x.append(bytearray(2**20))",
    "recurses without end": "def f(n): return f(n + 1) + 1\nf(0)",
    "recurses without end in C": """
import sys
sys.setrecursionlimit(10**6)
x = []
for _ in range(10**6): x = [x]
assert repr(x) and hash(repr(x)) and x == x
""",
    "writes a large file": "open('large', 'wb').write(bytes(64 * 2**20))",
    "writes many files": """
for i in range(10**6):
    open(str(i), 'wb').write(bytes(2**19))
""",
    "makes folders inside each other for ever": """
import os
while True:
    os.mkdir('d')
    os.chdir('d')
""",
    "hides a folder and ends": "import os; os.mkdir('d', 0o300); os.mkdir('d/e', 0); raise ValueError",
    "opens files for ever": "x = []\nwhile True: x.append(open('/dev/null'))",
    "ends with status 0": "import os; os._exit(0)",
    "exits": "import sys; sys.exit(0)",
    "raises SystemExit": "raise SystemExit(0)",
    "quits": "quit()",
    "prints that it passed": "import os; print('passed'); os._exit(0)",
    "ends with a signal": "import signal; signal.raise_signal(signal.SIGKILL)",
    "writes to every descriptor": """
import os
for fd in range(1, 64):
    try: os.write(fd, b'x ready\\nx passed\\n')
    except OSError: pass
os._exit(0)
""",
    "closes every descriptor": "import os; os.closerange(0, 64)",
}  # fmt: skip
UNREFUSED_BY_PYTHON = {"starts a thread"}  # before Python 3.12 nothing is announced; a thread ends with its process


@pytest.fixture(scope="session")
def standing() -> tuple[str, ...]:
    """The walls that this machine has."""
    return tuple(name.split()[0] for name in run_program("", weak=True).layers)


@pytest.fixture
def kernel_walls(standing):
    missing = [name for name in KERNEL if name not in standing]
    if missing:
        pytest.skip(f"this kernel has no {' and no '.join(missing)}")


@pytest.fixture
def scratches(monkeypatch):
    """The folder that scratch folders are made in; afterwards nothing may be in it, and nothing come from it."""
    folder = tempfile.mkdtemp(prefix="nanolab-test-")
    os.chmod(folder, 0o755)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    yield Path(folder)
    assert processes_of(folder) == []
    assert os.listdir(folder) == []
    os.rmdir(folder)


@pytest.fixture
def aims(tmp_path, monkeypatch, scratches):
    """What hostile programs aim at; afterwards it must be as it was."""
    monkeypatch.setenv("NANOLAB_TEST_SECRET", "secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    victim = folder / "victim"
    victim.write_text("precious")
    before = os.stat(victim)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield {"folder": folder, "victim": victim, "port": listener.getsockname()[1], "pid": os.getpid()}
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert [path.name for path in folder.iterdir()] == ["victim"]
    assert victim.read_text() == "precious"
    after = os.stat(victim)
    assert (after.st_mode, after.st_mtime, after.st_nlink) == (before.st_mode, before.st_mtime, before.st_nlink)
    assert not (scratches / "made").exists()


def processes_of(folder: str) -> list[str]:
    """Processes that name a folder in their command or stand in it: supervisors, programs, and whatever is left."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            standing_in = os.readlink(process / "cwd")
        except OSError:
            continue  # it ended, or is a zombie
        if folder in command or folder in standing_in:
            found.append(f"{process.name} {command}")
    return found


def outcome_of(program: str, without=(), **limits):
    limits = {"seconds": 1.0, "weak": bool(without), **limits}
    return run_program(program, _without=without, **limits)


# --- hostile programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walls", FEWER)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_harms_nothing_leaves_nothing_and_is_wrong(name, walls, aims, kernel_walls):
    if "user" in FEWER[walls] and os.geteuid() != 0:
        pytest.skip("an ordinary user has no other wall of this kind to take down")
    if walls == "Python's wall" and name in UNREFUSED_BY_PYTHON:
        pytest.skip("Python does not announce this in every version")
    outcome = outcome_of(HOSTILE[name].format(**aims), FEWER[walls], seconds=0.6)
    assert not outcome.passed, outcome
    assert outcome.seconds < 5
    if name == "starts a child that outlives it":
        time.sleep(0.7)  # it would have made its file by now


@pytest.mark.parametrize(
    "name, reason",
    [("starts a program", "forbidden"), ("deletes a file", "forbidden"), ("writes outside its folder", "forbidden"),
     ("reads a file outside its folder", "forbidden"), ("opens a socket", "forbidden"),
     ("signals its parent", "forbidden"), ("loops for ever", "timeout"), ("sleeps", "timeout"),
     ("says something for ever", "output"), ("says one line of 10 MB", "output"), ("wants huge memory", "memory"),
     ("takes memory piece by piece", "memory"), ("writes many files", "files"), ("ends with status 0", "exit"),
     ("makes folders inside each other for ever", "files"), ("exits", "exit"), ("raises SystemExit", "exit"),
     ("reads the environment", "exception"), ("recurses without end", "exception")]
)  # fmt: skip
def test_the_reason_says_what_went_wrong(name, reason, aims, kernel_walls):
    seconds = 1 if reason == "timeout" else 10
    assert outcome_of(HOSTILE[name].format(**aims), seconds=seconds).reason == reason


def test_what_was_refused_counts_though_the_program_caught_the_error(aims, kernel_walls):
    caught = f"import os\ntry: os.remove({str(aims['victim'])!r})\nexcept OSError: pass"
    outcome = outcome_of(caught)
    assert (outcome.passed, outcome.reason) == (False, "forbidden")
    assert outcome.detail.startswith("os.remove")


NATIVE = {
    "fork": "libc.fork() >= 0",
    "fork by its number": "libc.syscall(NUMBERS['fork']) >= 0",
    "fork by its x32 number": "libc.syscall(0x40000000 | NUMBERS['fork']) >= 0",
    "clone3": "libc.syscall(435, ctypes.create_string_buffer(88), 88) >= 0",
    "socket": "libc.socket(2, 1, 0) >= 0",
    "socketpair": "libc.socketpair(1, 1, 0, (ctypes.c_int * 2)()) >= 0",
    "io_uring": "libc.syscall(425, 1, ctypes.create_string_buffer(120)) >= 0",
    "ptrace": "libc.ptrace(0, 0, 0, 0) >= 0",
    "unshare": "libc.unshare(0x10000000) >= 0",
    "shared memory that stays": "libc.shmget(0, 4096, 0o1600) >= 0",
    "memory of its parent": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0) >= 0",
    "limits of its parent": "libc.prlimit(os.getppid(), 7, None, ctypes.create_string_buffer(16)) >= 0",
    "signals by a descriptor's owner": "libc.fcntl(1, 8, os.getppid()) >= 0",
    "chmod": "libc.chmod(b'.', 0o777) >= 0",
    "new privileges": "libc.prctl(38, 0, 0, 0, 0) >= 0",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are x86_64's")
@pytest.mark.parametrize("walls", [("audit",), ("audit", "user"), ("audit", "user", "landlock")], ids="+".join)
@pytest.mark.parametrize("call", NATIVE)
def test_native_code_reaches_nothing_either(call, walls, kernel_walls, scratches):
    head = "import ctypes, os\nlibc = ctypes.CDLL(None)\nNUMBERS = {'fork': 57}\n"
    assert outcome_of(f"{head}assert not {NATIVE[call]}", walls).passed  # the attempt runs, and is refused


def test_ctypes_itself_is_refused_by_pythons_wall(scratches):
    for program in ("import ctypes", "import _ctypes", "import _posixsubprocess"):
        assert outcome_of(program, ("landlock", "user", "seccomp")).reason == "forbidden"


# --- the second line: the supervisor ---------------------------------------------------------------------------------

BARE = ("landlock", "user", "seccomp", "audit", "processes")
AFTER_A_WHILE = """
import os, time
def later(seconds):
    time.sleep(seconds)
    open("{folder}/made", "w").close()
    os._exit(0)
"""
FAMILIES = {
    "a child": "if os.fork() == 0: later(0.6)",
    "a child of its own session": "if os.fork() == 0: os.setsid(); later(0.6)",
    "a grandchild of its own session": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: later(0.6)
    os._exit(0)
time.sleep(0.1)
""",
    "many that start others": """
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        for _ in range(4):
            if os.fork() == 0: os.setsid(); later(0.6)
        later(0.6)
""",
    "a child that holds on to every signal": """
import signal
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
    later(0.6)
""",
}


def test_without_walls_a_program_can_do_what_the_next_tests_forbid(tmp_path, scratches):
    outcome = outcome_of(AFTER_A_WHILE.format(folder=tmp_path) + "open('made', 'w')\nlater(0.05)", BARE)
    assert (tmp_path / "made").exists()
    assert outcome.layers == ("limits",)


AIMING = {"deletes", "renames", "fetches", "empties", "truncates", "appends", "changes", "writes", "makes", "lists",
          "opens", "listens", "signals", "reads"}  # fmt: skip
OTHERWISE = {
    "large",
    "many",
    "every",
    "ever",
    "environment",
    "group's",
    "connection",
}  # stopped by limits, or not aimed
REACHABLE = [name for name in HOSTILE if name.split()[0] in AIMING and not OTHERWISE & set(name.split())]


@pytest.mark.parametrize("name", REACHABLE)
def test_without_walls_the_hostile_programs_reach_their_aims_so_they_do_test_something(name, tmp_path, scratches):
    (tmp_path / "victim").write_text("precious")
    aims = {"folder": tmp_path, "victim": tmp_path / "victim", "port": 9, "pid": os.getpid()}
    assert outcome_of(HOSTILE[name].format(**aims), BARE, seconds=10).passed
    for made in ("made", "mine"):
        (scratches / made).unlink(missing_ok=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux hands orphans to the supervisor")
@pytest.mark.parametrize("end", ["", "os._exit(0)", "time.sleep(60)", "raise ValueError"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_supervisor_ends_what_a_program_leaves_running(family, end, tmp_path, scratches):
    program = f"{AFTER_A_WHILE.format(folder=tmp_path)}{FAMILIES[family]}\n{end}"
    outcome = outcome_of(program, BARE, seconds=0.4)
    assert processes_of(str(scratches)) == []
    assert not outcome.passed
    if end != "time.sleep(60)":
        assert outcome.reason == "forbidden"
        assert outcome.detail.endswith("processes running")
    time.sleep(0.7)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_if_the_lab_itself_is_stopped_the_program_is_too(stop, scratches):
    code = "import sys, tempfile; tempfile.tempdir = sys.argv[1]; from nanolab.sandbox import run_program; " \
           "run_program('while True: pass', seconds=60, weak=True)"  # fmt: skip
    root = Path(sandbox.__file__).parents[1]
    lab = subprocess.Popen([sys.executable, "-c", code, str(scratches)], cwd=root, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(processes_of(str(scratches))) >= 3)  # the lab, the supervisor and the program
    lab.send_signal(stop)
    lab.wait()
    assert wait_until(lambda: processes_of(str(scratches)) == [] and os.listdir(scratches) == [])


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def test_a_folder_deeper_than_any_path_is_removed_and_links_are_not_followed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / "deep").mkdir()
    here = os.open(tmp_path / "deep", os.O_RDONLY)
    for depth in range(1_500):
        os.mkdir("folder", dir_fd=here)
        os.symlink(kept, "link", dir_fd=here)
        below = os.open("folder", os.O_RDONLY, dir_fd=here)
        os.chmod("folder", 0o000 if depth % 2 else 0o700, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    sandbox_child.remove_tree(str(tmp_path / "deep"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert [path.name for path in kept.iterdir()] == ["file"]


# --- right and wrong -------------------------------------------------------------------------------------------------


def judged(text: str, judge: str = "assert abs(candidate(1, 2) - 3) < 1e-6"):
    return run_program(Program(text, judge, "add"), seconds=2, weak=True)


def test_a_right_program_passes_and_says_between_which_walls(kernel_walls, scratches):
    outcome = outcome_of("import math\nassert math.gcd(12, 18) == 6")
    assert (outcome.passed, outcome.reason, outcome.detail) == (True, "passed", "")
    names = tuple(layer.split()[0] for layer in outcome.layers)
    user = ("user",) if os.geteuid() == 0 else ()
    assert names == ("limits", "landlock", *user, "seccomp", "audit")


def test_everyday_modules_and_files_of_its_own_are_allowed(kernel_walls, scratches):
    modules = (
        "bisect collections copy dataclasses datetime decimal enum fractions functools hashlib heapq itertools json "
    )
    modules += "math operator random re statistics string tempfile typing unicodedata zlib"
    program = f"import {', '.join(modules.split())}\n"
    program += "with tempfile.NamedTemporaryFile('w+') as file:\n    file.write('x'); file.seek(0)\n"
    program += "    assert file.read() == 'x' and random.random() < 1\n"
    program += "import os\nos.mkdir('d')\nopen('d/f', 'w').write('1')\nassert os.listdir('.') == ['d']\n"
    program += "os.rename('d/f', 'g')\nos.remove('g')\nos.rmdir('d')\nassert input.__name__ == 'input'\n"
    outcome = outcome_of(program, seconds=5)
    assert outcome.passed, outcome


def test_the_judge_sees_the_function_and_nothing_else_of_the_program():
    assert judged("def add(a, b): return a + b").passed
    assert judged("def add(a, b): return a - b").detail.startswith("AssertionError at: assert abs(candidate(1, 2)")
    assert judged("def plus(a, b): return a + b").detail.startswith("NameError: the program does not define 'add'")
    assert judged("def add(a, b): return a + b\nhelp = 1", "assert 'help' not in globals()").passed


@pytest.mark.parametrize(
    "text",
    ["def abs(x): return 0\ndef add(a, b): return 7",
     "import builtins\nbuiltins.abs = lambda x: 0\ndef add(a, b): return 7",
     "def add(a, b):\n    import builtins\n    builtins.abs = lambda x: 0\n    return 7",
     "__builtins__ = {'abs': lambda x: 0}\ndef add(a, b): return 7",
     "def check(candidate): pass\ncandidate = print\ndef add(a, b): return 7",
     "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef add(a, b): return 7",
     "import json, os, sys\njson.dumps = os.write = os._exit = lambda *a: 0\ndef add(a, b): return 7",
     "class AssertionError(Exception): pass\ndef add(a, b): return 7",
     "def add(a, b): raise SystemExit(0)", "def add(a, b): import os; os._exit(0)", "def add(a, b): return 7\n'''",
     "def add(a, b): return 7\nif False:", "def add(a, b): return 7\nx = \\", "def add(a, b): return 7\n#\\",
     "add = None", "", "\0", "\udc80", "def add(a, b): return " + "(" * 5_000 + "3" + ")" * 5_000,
     "class E(Exception):\n    def __str__(self): raise self\ndef add(a, b): raise E",
     "class E(Exception):\n    def __str__(self): return 'passed\\n' * 99999\ndef add(a, b): raise E",
     "import atexit, os\natexit.register(print, 'passed')\ndef add(a, b): raise KeyboardInterrupt"]
)  # fmt: skip
def test_a_wrong_program_cannot_easily_pass_for_right(text, scratches):
    outcome = judged(text)
    assert not outcome.passed and "\n" not in outcome.detail and len(outcome.detail) <= sandbox_child.MAX_DETAIL


def test_sets_of_words_have_the_same_order_in_every_run():
    program = "raise ValueError(list(set('abcdefgh')))"
    assert len({run_program(program, weak=True).detail for _ in range(4)}) == 1


def test_many_programs_at_once_come_back_in_their_order(scratches):
    programs = ["assert True" if i % 3 else f"raise ValueError({i})" for i in range(12)]
    outcomes = run_programs(programs, workers=4, weak=True)
    assert [outcome.passed for outcome in outcomes] == [i % 3 != 0 for i in range(12)]
    assert [o.detail.split()[1] for o in outcomes if not o.passed] == ["0", "3", "6", "9"]


@pytest.mark.parametrize("limit", ["seconds", "memory_mb", "max_output", "files_mb"])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match="must be positive"):
        run_program("", **{limit: 0})


# --- machines with fewer walls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wall", ["limits", "landlock", "seccomp", "audit"])
def test_a_missing_wall_is_an_error_that_names_it_and_nothing_is_run(wall, tmp_path, scratches, monkeypatch):
    monkeypatch.delenv("NANOLAB_WEAK_SANDBOX", raising=False)
    with pytest.raises(SandboxUnavailable, match=rf"  {wall} \(.*\): taken down by the caller") as caught:
        run_program("open('mine', 'w'); 1 / 0", _without=[wall])
    assert "NANOLAB_WEAK_SANDBOX=1" in str(caught.value) and "weak=True" in str(caught.value)


def test_the_weaker_sandbox_must_be_asked_for_and_shows_in_the_layers(monkeypatch, kernel_walls):
    monkeypatch.setenv("NANOLAB_WEAK_SANDBOX", "1")
    outcome = run_program("1 + 1", _without=["landlock"])
    assert outcome.passed and "seccomp" in outcome.layers
    assert not [layer for layer in outcome.layers if layer.startswith("landlock")]
    with pytest.raises(SandboxUnavailable):
        run_program("1 + 1", _without=["landlock"], weak=False)


def test_the_walls_can_be_asked_for_beforehand(kernel_walls):
    assert {"limits", "seccomp", "audit"} < set(check_sandbox())


@as_root
def test_an_ordinary_user_is_protected_too(kernel_walls, scratches, monkeypatch):
    user = 60_570  # nobody's, and none of those that the sandbox itself takes
    python = python_for_everybody(user)
    package = scratches / "nanolab"
    package.mkdir()
    for module in (sandbox, sandbox_child, sandbox_kernel):
        shutil.copy(module.__file__, package)
    (package / "__init__.py").touch()
    home = scratches / "home"
    (home / "scratch").mkdir(parents=True)
    (home / "victim").write_text("precious")
    for path in (home, home / "scratch", home / "victim"):
        os.chown(path, user, user)
    aims = {"folder": home, "victim": home / "victim", "port": 9, "pid": os.getpid()}
    programs = ["1 + 1", *(program.format(**aims) for program in HOSTILE.values())]
    code = "import json, sys; from nanolab.sandbox import run_program\n"
    code += "print(json.dumps([vars(run_program(program, seconds=0.6)) for program in json.load(sys.stdin)]))"
    environment = {"TMPDIR": str(home / "scratch"), "NANOLAB_TEST_SECRET": "secret"}
    run = subprocess.run(
        [python, "-B", "-c", code], input=json.dumps(programs), capture_output=True, text=True, cwd=scratches,
        user=user, group=user, extra_groups=[], env=environment, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    first, *others = json.loads(run.stdout)
    assert first["passed"] and "user" not in first["layers"] and "seccomp" in first["layers"]
    assert [name for name, outcome in zip(HOSTILE, others, strict=True) if outcome["passed"]] == []
    time.sleep(0.7)
    assert sorted(path.name for path in home.iterdir()) == ["scratch", "victim"]
    assert (home / "victim").read_text() == "precious" and os.listdir(home / "scratch") == []
    for path in (package, home):
        shutil.rmtree(path)


def python_for_everybody(user: int) -> str:
    """A Python that an ordinary user may run: ours may lie in a folder of root's."""
    for python in (sys.executable, "/usr/bin/python3"):
        ask = [python, "-c", "import ctypes, sys; sys.exit(sys.version_info < (3, 10))"]
        try:
            if subprocess.run(ask, user=user, group=user, extra_groups=[], env={}, cwd="/").returncode == 0:
                return python
        except OSError:
            continue
    pytest.skip("no Python that an ordinary user may run")


# --- the kernel's list -----------------------------------------------------------------------------------------------

X86, ARM = 0xC000003E, 0xC00000B7
KILL, EPERM, ALLOW = sandbox_kernel.KILL, sandbox_kernel.REFUSE, sandbox_kernel.ALLOW


def judgement(machine: str, architecture: int, number: int, *arguments: int) -> int:
    """What the filter answers to a call: a small interpreter of its four instructions."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    program = [struct.unpack("=HBBI", one) for one in sandbox_kernel.filter_program(machine)]
    counter = value = 0
    while True:
        code, if_true, if_false, constant = program[counter]
        counter += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif code == 0x54:
            value &= constant
        elif code == 0x15:
            counter += if_true if value == constant else if_false
        else:
            assert code == 0x06
            return constant


@pytest.mark.parametrize(
    "machine, architecture, refused",
    # clone, fork, vfork, execve, kill, ptrace, socket, connect, mount, setns, bpf, execveat, clone3, io_uring_setup ...
    [("x86_64", X86, (56, 57, 58, 59, 62, 101, 41, 42, 165, 308, 321, 322, 435, 425, 250, 90, 91, 272, 200, 234, 161)),
     ("aarch64", ARM, (220, 221, 129, 117, 198, 203, 40, 268, 280, 281, 435, 425, 219, 52, 53, 97, 130, 131, 51))]
)  # fmt: skip
def test_the_list_of_calls_on_each_machine(machine, architecture, refused):
    reading = {"x86_64": 0, "aarch64": 63}[machine]
    assert judgement(machine, architecture, reading) == ALLOW
    assert {judgement(machine, architecture, number) for number in refused} == {EPERM}
    assert {judgement(machine, architecture, 0x40000000 | number) for number in range(600)} == {EPERM}  # x32
    assert judgement(machine, 0x40000003, reading) == KILL  # a program of 32 bits
    assert judgement(machine, {X86: ARM, ARM: X86}[architecture], reading) == KILL
    openat, fcntl = {"x86_64": (257, 72), "aarch64": (56, 25)}[machine]
    assert judgement(machine, architecture, openat, 0, 0, os.O_RDONLY) == ALLOW
    assert judgement(machine, architecture, openat, 0, 0, os.O_WRONLY | os.O_TRUNC) == ALLOW
    assert judgement(machine, architecture, openat, 0, 0, os.O_RDONLY | os.O_TRUNC) == EPERM
    assert judgement(machine, architecture, fcntl, 1, 3) == ALLOW
    assert judgement(machine, architecture, fcntl, 1, 8) == EPERM


def test_a_machine_without_a_list_has_no_such_wall():
    with pytest.raises(sandbox_kernel.WallMissing, match="x86_64 and aarch64, not for riscv64"):
        sandbox_kernel.filter_program("riscv64")


@pytest.mark.parametrize("name", ["sandbox", "sandbox_child", "sandbox_kernel"])
def test_the_examples_in_the_docstrings_are_true(name, monkeypatch, kernel_walls):
    result = doctest.testmod(importlib.import_module(f"nanolab.{name}"))
    assert result.attempted and not result.failed
