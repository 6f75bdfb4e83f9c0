"""launch: torchrun as a notebook's child. Two processes on the processor, over gloo; where the training does not matter
a small pretended one takes its place (launch_worker.py), which mostly needs no torch.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.run import get_args_parser

from nanolab import ranks
from nanolab.checkpoint import find_checkpoint
from nanolab.cli import Command
from nanolab.course import recipe
from nanolab.interrupt import Interrupted
from nanolab.jobs import STAGE_OF, run, start, train_tokenizer
from nanolab.launch import environment, launch, options
from nanolab.launched import Launched, LaunchFailed, Tail, running
from nanolab.rank_errors import failure
from nanolab.ranks import LAUNCHED_BY, is_gone, launcher_is_gone, this_process
from nanolab.settings import PATHS, BaseConfig, MidConfig, SFTConfig, TokenizerConfig
from nanolab.show import LiveCurve
from nanolab.train import Report

CLONE = Path(__file__).resolve().parent.parent
COMMON = {"data": "toy", "device_type": "cpu", "dtype": "float32", "source": "base", "init_lr_frac": 0.5}
COMMON |= {"eval_steps": 2, "eval_metrics_max_problems": 3, "device_batch_tokens": 300, "target_examples_per_step": 4}
SHORT = {**COMMON, "num_iterations": 4, "eval_every": 2, "eval_metrics_every": 2}
LONG = {**COMMON, "num_iterations": 3_000, "eval_every": -1, "eval_metrics_every": -1}


def quiet(_line: str):
    """Where words go that no test reads."""


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A cache folder with a tokenizer and a base checkpoint of depth 2."""
    folder = tmp_path_factory.mktemp("launch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(folder))
        train_tokenizer(TokenizerConfig(data="toy", vocab_size=400, max_chars=100_000), quiet)
        base = recipe("base", "toy", "d2", num_iterations=12, total_batch_size=256, device_batch_size=1)
        list(run(start(base, quiet), quiet))
    return folder


@pytest.fixture
def folder(parents, cache, monkeypatch):
    """A copy of it for one test; the ranks' processes import this nanolab, as tests of theirs do."""
    shutil.copytree(parents, cache)
    monkeypatch.setenv("PYTHONPATH", str(CLONE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return cache


@pytest.fixture
def worker(folder, monkeypatch):
    """A function that launches launch_worker.py instead of nanolab."""

    def start_worker(does: str, say=quiet, changes: dict | None = None, **how):
        monkeypatch.setenv("WORKER_DOES", does)
        config = SFTConfig(**{**SHORT, "run": "try", **(changes or {})})
        return launch(config, say=say, _module="tests.launch_worker", **how)

    return start_worker


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def family():
    """A function that gives the processes that come from this one and were not there before the test: other tests of
    this process may have left a helper of theirs."""

    def children() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True))

    before = children()
    return lambda: sorted(children() - before, key=lambda process: process.create_time())


def assert_ended(processes: list[psutil.Process], timeout: float = 0):
    assert processes
    deadline = time.monotonic() + timeout
    while (left := running(processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


# The whole thing

CELLS = """
    import json, os
    from pathlib import Path
    from nanolab.launch import launch
    from nanolab.settings import SFTConfig
    from nanolab.show import LiveCurve
    ---
    launched = launch(SFTConfig(**{settings}), nproc=2)
    assert launched.exit_status is None and launched.earlier == []
    lines = []
    with LiveCurve(total=4, title="SFT", earlier=launched.earlier) as curve:
        for line in launched:
            curve.update(line)
            lines.append(line)
    assert launched.exit_status == 0 and list(launched) == []
    written = [json.loads(text) for text in (launched.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines == written
    Path("../lines.json").write_text(json.dumps(lines))
    ---
    os.environ["WORKER_DOES"] = "raises"
    config = SFTConfig(**{settings} | dict(run="failing"))
    for line in launch(config, nproc=2, _module="tests.launch_worker"):
        print(line["step"])
"""


@pytest.mark.slow
def test_papermill_trains_with_two_processes_what_one_does_and_shows_the_error_of_one(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERMILL", "1")
    (tmp_path / "notebooks").mkdir()
    source = textwrap.dedent(CELLS).format(settings=SHORT)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in source.split("---")],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    path, executed = tmp_path / "notebooks" / "full.ipynb", tmp_path / "executed.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(papermill.PapermillExecutionError, match="the words\nof rank 1"):
        papermill.execute_notebook(path, executed, cwd=str(path.parent), progress_bar=False)
    assert (folder / "runs" / "sft_d2" / "launch" / "torchrun.log").exists()
    cells = [cell.outputs for cell in nbformat.read(executed, 4).cells if cell.cell_type == "code"]

    said = "".join(output.get("text", "") for output in cells[1])
    command = f"NANOLAB_CACHE={folder} torchrun --standalone --nproc-per-node 2 -m -- nanolab sft --source=base"
    assert said.startswith(command) and "--data=toy" in said and "redirects" not in said
    assert "\n2 processes train together; this is rank 0's account\n" in said and "\nSaved the sft checkpoint" in said
    assert "seed = " not in said and "Training loss" not in said and "step 4 of 4" in said
    assert any("image/png" in output.get("data", {}) for output in cells[1])

    lines = json.loads((tmp_path / "lines.json").read_text())
    alone = [report.loss for report in run(start(SFTConfig(**SHORT), quiet), quiet)]
    assert [line["loss"] for line in lines[:-1]] == [pytest.approx(loss, rel=1e-5) for loss in alone]
    assert lines[2]["val_loss"] > 0 and lines[4].keys() == {"step", "val_loss", "mmlu_acc", "arc_easy_acc"}

    (error,) = [output for output in cells[2] if output.output_type == "error"]
    assert (error.ename, error.evalue) == ("LaunchFailed", "nanolab (rank 1): the words\nof rank 1")
    assert "".join(output.get("text", "") for output in cells[2]).endswith("0\n1\n")


KERNEL = """
from nanolab.launch import launch
from nanolab.settings import SFTConfig

launched = launch(SFTConfig(**{settings}), nproc=2, max_restarts=2, say=lambda _: None, _module="{module}")
print([line["step"] for line in launched.earlier], flush=True)
for line in launched:
    print(line["step"], flush=True)
"""


@pytest.mark.slow
def test_a_stopped_training_is_saved_and_goes_on_until_its_notebook_is_killed_and_is_saved_again(folder, family):
    said, lines, handler = [], [], signal.getsignal(signal.SIGINT)  # a shell's background jobs have another
    sentence = r'^Stopped after \d+ of 3,000 steps. Go on with resume="latest".$'
    with pytest.raises(Interrupted, match=sentence) as end:
        for line in launch(SFTConfig(**LONG), nproc=2, say=said.append):
            lines.append(line)
            if len(lines) == 2:
                processes = family()
                os.kill(os.getpid(), signal.SIGINT)
    assert len(processes) >= 3
    assert_ended(processes)
    done = int(end.value.args[0].split()[2])
    assert [line["step"] for line in lines] == list(range(done)) and done >= 2
    assert sum(text.startswith("Stopping") for text in said) == 1
    assert find_checkpoint("sft", "d2").name == f"step_{done:06d}"
    assert signal.getsignal(signal.SIGINT) is handler

    script = KERNEL.format(settings=LONG | {"resume": "latest"}, module="nanolab")
    kernel = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=CLONE)
    printed = [kernel.stdout.readline() for _ in range(3)]
    assert printed == [f"{list(range(done))}\n", f"{done}\n", f"{done + 1}\n"]
    processes = psutil.Process(kernel.pid).children(recursive=True)
    assert len(processes) >= 3
    kernel.kill()
    assert_ended(processes, timeout=30)  # by themselves
    kernel.communicate()
    assert json.loads((folder / "runs" / "sft_d2" / "status.json").read_text())["status"] == "stopped"
    assert [path.name for path in (folder / "runs" / "sft_d2" / "launch").glob("*/attempt_*")] == ["attempt_0"]
    steps = steps_in(folder / "runs" / "sft_d2" / "metrics.jsonl")
    assert steps == list(range(len(steps)))
    assert find_checkpoint("sft", "d2").name == f"step_{len(steps):06d}"


def test_the_ranks_of_a_killed_notebook_save_and_are_not_started_again(folder, monkeypatch):
    monkeypatch.setenv("WORKER_DOES", "polite")
    script = KERNEL.format(settings=SHORT | {"run": "try"}, module="tests.launch_worker")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=CLONE) as kernel:
        assert [kernel.stdout.readline() for _ in range(3)] == ["[]\n", "0\n", "1\n"]
        processes = psutil.Process(kernel.pid).children(recursive=True)
        kernel.kill()
        assert_ended(processes, timeout=30)
    (attempt,) = (folder / "runs" / "try" / "launch").glob("*/attempt_*")
    assert [(attempt / rank / "stdout.log").read_text() for rank in "01"] == ["saving\n"] * 2


# When a rank fails, is killed, or is to stop


def test_a_killed_rank_is_told_and_not_those_that_lost_it(worker):
    launched = worker("killed")
    with pytest.raises(LaunchFailed, match=r"^rank 1 was killed \(SIGKILL\): out of memory\?$"):
        list(launched)
    assert launched.exit_status == 1


def test_a_loop_that_is_left_lets_the_ranks_save(worker, family):
    said = []
    launched = worker("polite", said.append, nproc=1)
    for line in launched:
        processes = family()
        if line["step"] == 1:
            break
    assert_ended(processes)
    assert said[1].startswith("Stopping") and said[2:] == ["saving", "Stopped after 2 of 9 steps."]
    assert launched.exit_status == 128 + signal.SIGINT
    with pytest.raises(Interrupted, match="Stopped after 2 of 9 steps"):
        list(launched)


def test_a_traceback_is_told_by_its_last_line_and_its_place_though_another_rank_complained_first(worker):
    with pytest.raises(LaunchFailed) as failed:
        list(worker("lost"))
    why, place = str(failed.value).splitlines()
    assert why == "rank 1: ZeroDivisionError: rank 1 divides by nothing"
    log = Path(place.removeprefix("The whole traceback: "))
    assert log.name == "stderr.log" and log.parent.name == "1" and "KeyError: 3" in log.read_text()


def test_the_error_that_ended_a_rank_is_told_and_not_the_interrupts_that_it_brought_about(tmp_path):
    ends = {"KeyboardInterrupt": 0, "torch.OutOfMemoryError: CUDA out of memory.": 1}
    for line, rank in ends.items():
        folder = tmp_path / "abc" / "attempt_0" / str(rank)
        folder.mkdir(parents=True)
        said = ["Traceback (most recent call last):", '  File "train.py", line 3, in train', "    ^^^^", line]
        (folder / "stderr.log").write_text("".join(f"[rank{rank}]: {text}\n" for text in said) + "\n")
    told = failure(tmp_path, first_rank=8, told_only=False)
    assert told.startswith("rank 9: torch.OutOfMemoryError: CUDA out of memory.\nThe whole traceback: ")


def test_steps_repeated_after_a_restart_are_yielded_once_and_damaged_lines_never(worker, cache):
    metrics = cache / "runs" / "try" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"step": 0, "loss": 9.0}\n')  # of an older run, which this one replaces
    said = []
    launched = worker("twice", said.append, max_restarts=1)
    lines = list(launched)
    assert [(line["step"], line["attempt"]) for line in lines] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]
    assert said[1:] == ["attempt 0 of rank 0", "attempt 1 of rank 0"]
    assert launched.exit_status == 0 and "--max-restarts 1" in said[0]


def test_a_second_interrupt_kills_at_once(worker, family):
    said, steps = [], []

    def say(text: str):
        said.append(text)
        if text.startswith("Stopping"):
            os.kill(os.getpid(), signal.SIGINT)

    launched = worker("stubborn", say)
    with pytest.raises(Interrupted, match="Stopped at once: all processes were killed"):
        for line in launched:
            steps.append(line["step"])
            if len(steps) == 2:
                processes = family()
                os.kill(os.getpid(), signal.SIGINT)
    assert len(processes) == 3
    assert_ended(processes)
    assert launched.exit_status == 128 + signal.SIGKILL


@pytest.mark.parametrize(("first_rank", "ends"), [(0, -signal.SIGKILL), (8, 0)])
def test_ranks_that_do_not_hear_are_killed_only_where_it_is_known_that_they_have_saved_nothing(
    tmp_path, monkeypatch, first_rank, ends
):
    monkeypatch.setattr("nanolab.launched.START_PATIENCE", 0.5)
    saves = [sys.executable, "-c", "import sys, time; sys.stdin.read(); time.sleep(3)"]
    launched = Launched(saves, dict(os.environ), tmp_path, tmp_path, 0, first_rank, quiet)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        list(launched)
    assert launched._process.returncode == ends


def test_a_torchrun_that_is_killed_leaves_no_ranks(worker, monkeypatch, family):
    monkeypatch.setattr("nanolab.launched.PATIENCE", 1)
    with pytest.raises(LaunchFailed, match=r"^torchrun was killed \(SIGKILL\): out of memory\?$"):
        for line in worker("stubborn"):
            if line["step"] == 3:
                processes = family()
                processes[0].kill()
    assert len(processes) == 3
    assert_ended(processes)


def test_a_launch_that_nobody_looks_at_ends_with_its_object(worker, family):
    launched = worker("machines", nproc=1)
    processes = family()
    del launched
    assert_ended(processes)


def test_two_machines_are_started_with_the_command_that_was_said(worker, cache):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = []
    launched = worker("machines", said.append, nproc=1, nnodes=2, rdzv_endpoint=f"127.0.0.1:{port}")
    where, other = said[1].split(": ", 1)
    assert where == "On machine 1" and "--node-rank 1" in other and f"--rdzv-endpoint 127.0.0.1:{port}" in other
    *variables, torchrun = shlex.split(other)[:3]
    assert variables == ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600", f"NANOLAB_CACHE={cache}"] and torchrun == "torchrun"
    arguments = shlex.split(other)[3:]
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    with subprocess.Popen(command, cwd=CLONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as machine:
        assert [line["step"] for line in launched] == [0]
    assert machine.returncode == 0 and "rank 0 of 2" in said


# Before anything is started


@pytest.mark.parametrize(
    ("changes", "how", "words"),
    [
        ({}, {"nproc": 0}, "nproc must be a whole number, 1 or more, got 0"),
        ({}, {"nproc": 2.0}, "nproc must be a whole number"),
        ({}, {"max_restarts": -1}, "max_restarts must be a whole number, 0 or more"),
        ({}, {"nnodes": 2}, "nnodes > 1 needs rdzv_endpoint"),
        ({}, {"nnodes": 2, "rdzv_endpoint": "host"}, "nnodes > 1 needs rdzv_endpoint"),
        ({}, {"nnodes": 2, "node_rank": 2, "rdzv_endpoint": "host:1"}, "node_rank must be less than nnodes"),
        ({}, {"rdzv_endpoint": "host:1"}, "leave it out, or set nnodes"),
        ({"batching": "paked"}, {}, "Did you mean packed"),
        ({"report_to": "wandbb"}, {}, "there is no tracker"),
        ({"device_type": "tpu"}, {}, "device_type 'tpu' is not available"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(changes, how, words, folder, family):
    with pytest.raises(ValueError, match=words):
        launch(SFTConfig(**{**SHORT, **changes}), say=quiet, **how)
    assert family() == [] and not (folder / "runs" / "sft_d2").exists()


def test_a_missing_parent_and_other_jobs_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="No mid checkpoint"):
        launch(SFTConfig(data="toy", device_type="cpu"), say=quiet)
    with pytest.raises(TypeError, match="got TokenizerConfig"):
        launch(TokenizerConfig(), say=quiet)


def test_a_run_that_another_process_trains_is_left_alone(folder):
    run_dir = folder / "runs" / "sft_d2"
    run_dir.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        began = psutil.Process(other.pid).create_time()
        status = {"status": "running", "host": os.uname().nodename, "pid": other.pid, "process_began": began}
        (run_dir / "status.json").write_text(json.dumps(status))
        with pytest.raises(ValueError, match=f"sft_d2 is still running, as process {other.pid}"):
            launch(SFTConfig(**SHORT), say=quiet)
        other.kill()


def values(name: str, kind: type):
    """What a setting may hold, odd texts included; no NUL and no half of a pair, which no command line can hold."""
    texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    texts |= st.sampled_from(["", "-x", "--", "--save", "a b", "a=b", "'", '"', "None", "@file", "\n", "$HOME", "é"])
    numbers = st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10)
    kinds = {bool: st.booleans(), int: st.integers(-(10**9), 10**9), float: numbers, str: texts}
    paths = st.sampled_from([Path("../rows"), Path("/data/some rows")])
    return kinds[kind] | paths if name in PATHS else kinds[kind]


@st.composite
def configs(draw):
    config = draw(st.sampled_from([BaseConfig, MidConfig, SFTConfig]))()
    for name in draw(st.lists(st.sampled_from([field.name for field in fields(config)]), unique=True)):
        setattr(config, name, draw(values(name, type(getattr(config, name)))))
    return config


@settings(max_examples=100, deadline=None)
@given(config=configs())
def test_options_on_the_command_line_are_the_settings(config):
    job = [STAGE_OF[type(config)], *options(config)]
    command = shlex.split(shlex.join(["--standalone", "-m", "--", "nanolab", *job]))
    parsed = get_args_parser().parse_args(command)
    assert (parsed.training_script, parsed.training_script_args) == ("nanolab", job)
    found = tyro.cli(Command, args=job)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    assert type(found) is type(config) and vars(found) == plain


# The parts


def test_the_ranks_inherit_the_environment_but_nothing_of_another_torchrun(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOLAB_CACHE", "lab")
    monkeypatch.setenv("HF_HOME", "/models")
    for name in ("RANK", "LOCAL_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "3")
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
    env = environment(nproc=2)
    assert not {"RANK", "LOCAL_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & set(env)
    assert env["HF_HOME"] == "/models" and env["NANOLAB_CACHE"] == str(tmp_path / "lab")
    assert env["OMP_NUM_THREADS"] == "7" and env["PYTHONPATH"].split(":")[0] == str(CLONE)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in environment(nproc=2)  # torchrun makes it 1
    assert environment(nproc=1)["OMP_NUM_THREADS"] == str(torch.get_num_threads())


def test_a_tail_gives_whole_lines_of_a_file_that_comes_grows_and_is_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    with open(path, "a") as file:
        file.write("o\nthree\nhalf")
        file.flush()
        assert tail.lines() == ["two", "three"]
    beside = tmp_path / "beside"
    beside.write_text("one\n2\n")
    with open(path, "a") as file:
        file.write(" a line\n")
    os.replace(beside, path)
    assert tail.lines() == ["half a line", "one", "2"]
    assert tail.lines() == []


def test_a_process_is_gone_when_it_has_ended_also_if_another_has_its_number(monkeypatch):
    assert not is_gone(this_process())
    assert is_gone(f"{os.getpid()}:{psutil.Process().create_time() - 100}")
    with subprocess.Popen(["sleep", "60"]) as other:
        name = f"{other.pid}:{psutil.Process(other.pid).create_time()}"
        monkeypatch.setenv(LAUNCHED_BY, name)
        assert not launcher_is_gone()
        other.kill()
        deadline = time.monotonic() + 10
        while not launcher_is_gone() and time.monotonic() < deadline:  # a zombie: nobody has asked for its status
            time.sleep(0.1)
        assert ranks.launcher_is_gone() and other.returncode is None
    assert is_gone(name)
    monkeypatch.delenv(LAUNCHED_BY)
    assert not launcher_is_gone()


def test_a_curve_takes_lines_of_metrics_as_it_takes_reports(capsys):
    numbers = {"loss": 2.0, "lr_multiplier": 1.0, "muon_momentum": 0.9, "num_tokens": 10, "real_tokens": 30}
    reports = [Report(step=step, slots=32, seconds=0.5, **numbers, metrics={"val_loss": 2.5}) for step in range(4)]
    lines = []
    for report in reports:
        line = dict(vars(report))
        lines.append({**line, **line.pop("metrics"), "left_out": 0})
        lines[-1].pop("metrics")
    curves = [LiveCurve(total=4, live=False, clock=lambda: 0.0) for _ in range(2)]
    for report, line in zip(reports, lines, strict=True):
        curves[0].update(report)
        curves[1].update(line)
    assert curves[0].rows == curves[1].rows and curves[0].caption() == curves[1].caption()
    resumed = LiveCurve(total=4, live=False, clock=lambda: 0.0, earlier=lines[:3])
    resumed.update(lines[3])
    resumed.update({"step": 4, "val_loss": 2.25})  # the evaluation behind all steps
    assert resumed.caption().startswith("step 4 of 4 · loss 2.000 · ") and resumed.caption().endswith("val_loss 2.250")
    assert resumed.frame["step"].tolist() == [0, 1, 2, 3] and resumed.figure().png()
