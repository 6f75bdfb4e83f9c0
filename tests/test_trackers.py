"""What a run leaves behind while it runs: metrics, settings, status, and the same curve in every tracker."""

import doctest
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nanolab import jobs, settings, trackers
from nanolab.cli import main
from nanolab.interrupt import Interrupted
from nanolab.jobs import run, start
from nanolab.paths import cache_dir
from nanolab.settings import BaseConfig, SFTConfig, tracker_names
from nanolab.trackers import About, Feeder, TrackioTracker, read_lines, reported

NUM = 6
LIBRARIES = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in trackers.TRACKERS
]


def quiet(_line: str):
    pass


def config(**changes) -> BaseConfig:
    small = {"depth": 1, "max_seq_len": 32, "device_batch_size": 2, "total_batch_size": 64, "eval_tokens": 64}
    asked = {"model_tag": "d1", "num_iterations": NUM, "eval_every": 2, "dtype": "float32", "keep_last": 3}
    return BaseConfig(**{"data": "toy", "run": "test", **small, **asked, **changes})


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(folder))
        assert main(["tokenizer", "--data=toy", "--vocab_size=300", "--max_chars=50000", "--max_words=50"]) == 0
    return folder / "tokenizer"


@pytest.fixture(autouse=True)
def offline(tmp_path, cache, tokenizer_folder, monkeypatch):
    """A cache folder with a tokenizer, and trackers that write files of this test only and call nobody."""
    cache.mkdir()
    (cache / "tokenizer").symlink_to(tokenizer_folder)
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "TRACKIO_")):
            monkeypatch.delenv(name)
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "TRACKIO_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "1")
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads TRACKIO_DIR when it is imported
    return cache


def written(run_dir: Path) -> list[dict]:
    return read_lines(run_dir / "metrics.jsonl")[0]


def curve(run_dir: Path) -> dict[str, dict[int, list[float]]]:
    """Of metrics.jsonl: name -> step -> values, of which there must be one."""
    found: dict[str, dict[int, list[float]]] = {}
    for line in written(run_dir):
        for name, value in line.items():
            if name != "step" and value is not None:
                found.setdefault(name, {}).setdefault(line["step"], []).append(value)
    return found


# Readers of what the trackers keep, each by its own format


def all_wandb_records(run_dir: Path) -> list:
    files = sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime_ns)
    return [record for path in files for record in trackers.offline_records(path)]


def wandb_curve(run_dir: Path):
    found = {}
    for record in all_wandb_records(run_dir):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    found.setdefault(name, {}).setdefault(row["_step"], []).append(value)
    return found


def trackio_rows(query: str) -> list[tuple]:
    (path,) = Path(os.environ["TRACKIO_DIR"]).glob("nanolab*.db")
    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


def trackio_curve(_run_dir: Path):
    found = {}
    for step, values in trackio_rows("select step, metrics from metrics where run_name = 'test' order by id"):
        for name, value in json.loads(values).items():
            found.setdefault(name, {}).setdefault(step, []).append(value)
    return found


def events(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def tensorboard_curve(run_dir: Path):
    accumulator, found = events(run_dir), {}
    for name in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(name):
            found.setdefault(name, {}).setdefault(event.step, []).append(event.value)
    return found


CURVES = {"wandb": wandb_curve, "trackio": trackio_curve, "tensorboard": tensorboard_curve}


def read_up_to(last: int, name: str, run_dir: Path):
    """What a tracker keeps; wandb's own process may write the last steps a moment after the run has ended."""
    deadline = time.monotonic() + 30
    while max(map(max, (told := CURVES[name](run_dir)).values())) < last and time.monotonic() < deadline:
        time.sleep(0.2)
    return told


def assert_same_curve(name: str, run_dir: Path, redone: tuple[int, ...] = ()):
    """`redone`: steps that were done twice. Their numbers are equal to the bit, but for how long they took."""
    kept = curve(run_dir)
    told = read_up_to(max(map(max, kept.values())), name, run_dir)
    for step in redone if name != "tensorboard" else ():
        for timed in ("seconds", "mfu"):
            assert told[timed].pop(step) != kept[timed].pop(step)
    if name == "tensorboard":  # event files hold 32 bits
        kept = {
            name: {k: [float(np.float32(v)) for v in values] for k, values in c.items()} for name, c in kept.items()
        }
    assert told == kept
    assert set(kept["loss"]) == set(range(NUM)) and NUM in kept["val_loss"]
    assert all(len(values) == 1 for c in told.values() for values in c.values())


# The curve


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_tracker_holds_the_curve_of_metrics_jsonl(name):
    job = start(config(report_to=name), say=quiet)
    list(run(job, say=quiet))
    assert_same_curve(name, job.run_dir)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_run_that_goes_on_is_the_same_run_in_the_tracker_and_no_step_is_there_twice(name):
    first = start(config(report_to=name, save_every=2), say=quiet)
    for report in run(first, say=quiet):
        if report.step == 4:
            break  # the last checkpoint is of step 4: the step that was done here is done again
    kept = json.loads((first.run_dir / "status.json").read_text())
    assert kept["status"] == "stopped"
    second = start(config(report_to=name, resume="latest"), say=quiet)
    assert second.first_step == 4
    list(run(second, say=quiet))
    after = json.loads((first.run_dir / "status.json").read_text())
    assert after["status"] == "finished" and after["trackers"][name] == {**kept["trackers"][name], "next_step": NUM + 1}
    assert_same_curve(name, second.run_dir, redone=(4,))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_tracker_that_is_named_only_when_the_run_goes_on_is_told_what_was_before(name):
    first = start(config(num_iterations=NUM, save_every=2), say=quiet)
    next(reports := run(first, say=quiet)), next(reports), next(reports)
    reports.close()
    second = start(config(report_to=name, resume="latest"), say=quiet)
    assert second.first_step == 2
    list(run(second, say=quiet))
    assert_same_curve(name, second.run_dir)


@pytest.mark.parametrize("name", LIBRARIES)
def test_another_run_of_the_same_name_begins_anew(name):
    for seed in (1, 2):
        job = start(config(report_to=name, seed=seed, save=False, keep_last=-1), say=quiet)
        list(run(job, say=quiet))
    if name == "tensorboard":
        assert_same_curve(name, job.run_dir)
    elif name == "wandb":
        assert len({path.name for path in job.run_dir.glob("wandb/offline-run-*/run-*.wandb")}) == 2
    else:
        assert len(trackio_rows("select distinct run_id from metrics")) == 2


KILLED = """
import os, signal
from nanolab.jobs import run, start
from nanolab.settings import BaseConfig
for report in run(start(BaseConfig(**{settings}), say=lambda line: None), say=lambda line: None):
    if report.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_run_that_was_killed_goes_on_in_the_tracker(name):
    code = KILLED.format(settings=vars(config(report_to=name, save_every=2)))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    job = start(config(report_to=name, resume="latest"), say=quiet)
    before = {line["step"] for line in written(job.run_dir)}
    assert job.first_step == 4 and 3 in before
    list(run(job, say=quiet))
    told = CURVES[name](job.run_dir)
    redone = (4,) if name != "tensorboard" and told_before(told, job, 4) else ()  # whether it got there before the kill
    assert_same_curve(name, job.run_dir, redone)


def told_before(told, job, step: int) -> bool:
    """Whether a tracker has a step from the first time that it was done: it took another number of seconds."""
    return told["seconds"][step] != curve(job.run_dir)["seconds"][step]


# Settings and status in the trackers


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_the_settings_as_its_config_and_the_status_and_exit_code_of_an_interrupted_run():
    job = start(config(report_to="wandb"), say=quiet)
    with pytest.raises(Interrupted):
        for _ in run(job, say=quiet):
            signal.raise_signal(signal.SIGINT)
    records = all_wandb_records(job.run_dir)
    (about,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    shown = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert shown["depth"] == 1 and shown["stage"] == "base" and shown["num_iterations"] == NUM
    assert about.display_name == "test" and about.project == "nanolab"
    summaries = [item for record in records for item in record.summary.update]
    assert [json.loads(item.value_json) for item in summaries if item.key == "status"] == ["stopped"]
    assert [record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"] == [130]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_the_settings_and_the_status_as_texts():
    job = start(config(report_to="tensorboard"), say=quiet)
    next(reports := run(job, say=quiet))
    reports.close()
    texts = {
        name: event.tensor_proto.string_val[0].decode()
        for name in events(job.run_dir).Tags()["tensors"]
        for event in events(job.run_dir).Tensors(name)
    }
    assert texts["status/text_summary"] == "stopped" and '"depth": 1' in texts["settings/text_summary"]


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_the_settings_and_an_alert_for_a_run_that_was_stopped():
    job = start(config(report_to="trackio"), say=quiet)
    next(reports := run(job, say=quiet))
    reports.close()
    ((kept,),) = trackio_rows("select config from configs")
    assert json.loads(kept)["depth"] == 1 and json.loads(kept)["stage"] == "base"
    assert trackio_rows("select title from alerts") == [("The run was stopped.",)]


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_a_run_that_goes_on_is_not_mistaken_for_another_of_its_name_in_trackio():
    reports = run(start(config(report_to="trackio", save_every=2), say=quiet), say=quiet)
    assert [next(reports).step for _ in range(3)] == [0, 1, 2]
    reports.close()
    own = json.loads((cache_dir() / "runs" / "test" / "status.json").read_text())["trackers"]["trackio"]["id"]
    TrackioTracker(About(Path("elsewhere/test"), "base", "d1", 3, "float32", {}), None).finish("finished")
    other = TrackioTracker(About(Path("elsewhere/test"), "base", "d1", 3, "float32", {}), None)
    other.log(0, {"loss": 99.0})
    other.finish("finished")
    list(run(start(config(report_to="trackio", resume="latest"), say=quiet), say=quiet))
    by_run = dict(trackio_rows("select run_id, group_concat(step) from metrics group by run_id"))
    new = by_run.keys() - {own, other.kept["id"]}
    assert by_run[own] == "0,1,2" and by_run[other.kept["id"]] == "0" and len(new) == 1
    assert by_run[new.pop()] == ",".join(map(str, range(NUM + 1)))


# Trackers that fail, or are slow


class Heard:
    """A tracker that remembers; what goes wrong, and when, is given."""

    def __init__(self, fails_at: int | None = None, seconds: float = 0.0):
        self.next_step, self.kept, self.heard, self.status = 0, {}, [], None
        self.fails_at, self.seconds = fails_at, seconds

    def log(self, step, values):
        time.sleep(self.seconds)
        if step == self.fails_at:
            raise ConnectionError("the network\nis away")
        self.heard.append(step)

    def finish(self, status):
        self.status = status


def told_to(monkeypatch, **fakes) -> None:
    monkeypatch.setattr(trackers, "TRACKERS", {name: lambda *_, one=one: one for name, one in fakes.items()})
    monkeypatch.setattr(trackers, "find_spec", lambda name: "there")


def test_a_tracker_that_fails_in_mid_run_is_told_of_once_and_the_others_go_on(monkeypatch):
    broken, whole, said = Heard(fails_at=2), Heard(), []
    told_to(monkeypatch, wandb=broken, tensorboard=whole)
    job = start(config(report_to="wandb,tensorboard"), say=quiet)
    assert len([time.sleep(0.01) for _ in run(job, say=said.append)]) == NUM
    warning = "Warning: wandb gets no more of this run: the network is away. metrics.jsonl has all of it."
    assert said.count(warning) == 1 and broken.heard == [0, 1] and broken.status == "finished"
    assert whole.heard == list(range(NUM + 1)) and len(written(job.run_dir)) == NUM + 1
    kept = json.loads((job.run_dir / "status.json").read_text())["trackers"]
    assert kept == {"wandb": {"next_step": 2}, "tensorboard": {"next_step": NUM + 1}}


def test_a_tracker_that_failed_is_told_the_steps_that_it_lacks_when_the_run_goes_on(monkeypatch):
    told_to(monkeypatch, wandb=Heard(fails_at=1))
    list(zip(run(start(config(report_to="wandb", save_every=2), say=quiet), say=quiet), range(5), strict=False))
    asked_with = []

    def again(_about, kept):
        asked_with.append(kept)
        one = Heard()
        one.next_step = kept["next_step"]
        fakes.append(one)
        return one

    fakes = []
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": again})
    list(run(start(config(report_to="wandb", resume="latest"), say=quiet), say=quiet))
    assert asked_with == [{"next_step": 1, "guessed": False}] and fakes[0].heard == list(range(1, NUM + 1))


def test_a_tracker_that_is_left_out_for_a_while_is_gone_on_with_later(monkeypatch):
    def tracker(_about, kept):
        fakes.append(one := Heard())
        one.kept, one.next_step = {"id": kept["id"] if kept else f"id {len(fakes)}"}, kept["next_step"] if kept else 0
        return one

    fakes = []
    told_to(monkeypatch)
    trackers.TRACKERS["wandb"] = tracker
    for report_to, resume, steps in (("wandb", "", 3), ("", "latest", 3), ("wandb", "latest", NUM)):
        job = start(config(report_to=report_to, resume=resume, save_every=2), say=quiet)
        list(zip(range(steps), run(job, say=quiet), strict=False))
    assert [one.kept["id"] for one in fakes] == ["id 1", "id 1"]
    assert fakes[0].heard == [0, 1, 2] and fakes[1].heard == list(range(3, NUM + 1))


def test_a_slow_tracker_does_not_slow_the_training(monkeypatch):
    slow = Heard(seconds=0.3)
    told_to(monkeypatch, wandb=slow)
    reports = run(start(config(report_to="wandb"), say=quiet), say=quiet)
    began = time.perf_counter()
    for _ in range(NUM):
        next(reports)
    assert time.perf_counter() - began < 1.2 and len(slow.heard) < NUM
    list(reports)
    assert slow.heard == list(range(NUM + 1))  # what waits at the end is still handed on


def test_a_tracker_that_hangs_is_left_behind_after_a_while(monkeypatch):
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.2)
    said = []
    feeder = Feeder("wandb", Heard(seconds=3), [])
    feeder.log({"step": 0, "loss": 1.0})
    feeder.finish("finished")
    feeder.wait(0.2, said.append)
    assert len(said) == 1 and "was not done" in said[0]


def test_a_tracker_that_is_too_far_behind_is_given_up(monkeypatch):
    monkeypatch.setattr(trackers, "MAX_WAITING", 3)
    said, feeder = [], Feeder("wandb", Heard(seconds=3), [])
    for step in range(9):
        feeder.log({"step": step})
        feeder.tell(said.append)
    assert len(said) == 1 and "3 steps behind" in said[0]


def test_a_tracker_that_does_not_start_is_an_error_before_any_step_and_the_other_is_ended(monkeypatch):
    def fails(_about, _kept):
        raise RuntimeError("No API key.\nLog in first")

    other = Heard()
    told_to(monkeypatch, tensorboard=other)
    trackers.TRACKERS["wandb"] = fails
    job = start(config(report_to="tensorboard,wandb"), say=quiet)
    with pytest.raises(
        ValueError, match=r"wandb did not start: No API key. Log in first. Without .* WANDB_MODE=offline"
    ):
        list(run(job, say=quiet))
    assert other.status == "failed" and not (job.run_dir / "metrics.jsonl").exists()


# Names and libraries


@pytest.mark.parametrize("config_class", [BaseConfig, SFTConfig])
def test_an_unknown_tracker_is_an_error_that_names_the_nearest(config_class):
    with pytest.raises(ValueError, match=r"no tracker 'tensorbord'. Did you mean tensorboard\?"):
        start(config_class(report_to="wandb,tensorbord"), say=quiet)


def test_names_are_taken_once_and_with_or_without_spaces():
    assert tracker_names(" wandb,trackio , wandb,") == ["wandb", "trackio"] and tracker_names("") == []


def test_a_missing_library_is_an_error_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert main(["base", "--report_to=trackio", "--data=toy"]) == 1
    said = capsys.readouterr()
    assert "pip install 'nanolab[trackio]'" in said.err and said.err.count("\n") == 1 and "Device" not in said.out


def test_no_library_is_imported_unless_it_is_named():
    code = """
    import sys
    from nanolab.jobs import run, start
    from nanolab.settings import BaseConfig
    job = start(BaseConfig(**SETTINGS), say=str)
    list(run(job, say=str))
    print(sorted({name.split(".")[0] for name in sys.modules} & {"wandb", "trackio", "tensorboard"}))
    """
    code = textwrap.dedent(code).replace("SETTINGS", repr(vars(config(num_iterations=1))))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr


# Files


def about(run_dir: Path, **changes) -> About:
    return About(run_dir, **{"stage": "base", "model_tag": "d1", "num_iterations": 3, "dtype": "float32", **changes})


def test_the_settings_are_beside_the_metrics_when_the_first_step_is_reported():
    job = start(config(eval_every=-1), say=quiet)
    next(reports := run(job, say=quiet))
    kept = json.loads((job.run_dir / "settings.json").read_text())
    assert kept["stage"] == "base" and kept["model_tag"] == "d1" and kept["num_iterations"] == NUM
    assert kept["settings"] == vars(job.config)
    status = json.loads((job.run_dir / "status.json").read_text())
    assert status["status"] == "running" and status["pid"] == os.getpid() and status["trackers"] == {}
    reports.close()
    assert json.loads((job.run_dir / "status.json").read_text())["status"] == "stopped"


def test_a_run_that_fails_says_so_and_one_that_ends_says_when(monkeypatch):
    job = start(config(), say=quiet)
    monkeypatch.setattr(jobs.running, "_next_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(run(job, say=quiet))
    assert json.loads((job.run_dir / "status.json").read_text())["status"] == "failed"
    monkeypatch.undo()


def test_only_the_first_of_several_processes_reports(tmp_path):
    of_others, one = tmp_path / "other", about(tmp_path / "run", settings={"report_to": "wandb"}, leads=False)
    with reported(one, lambda: open(of_others, "w"), quiet) as lines:
        lines.write('{"step": 0}\n')
    assert not (tmp_path / "run").exists() and of_others.read_text() == '{"step": 0}\n'


def test_lines_that_are_no_metrics_are_counted(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0, "loss": 2.5}\n{"step": 1, "lo\n\n[1]\n{"step": "2"}\n{"step": 3, "loss": "low"}\n')
    assert read_lines(file) == ([{"step": 0, "loss": 2.5}], 4)
    assert read_lines(tmp_path / "none") == ([], 0)


def test_there_is_an_extra_for_each_tracker():
    extras = Path(trackers.__file__).parent.parent / "pyproject.toml"
    for name in trackers.TRACKERS:
        assert re.search(rf"^{name} = \[", extras.read_text(), re.MULTILINE)


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_long_records_are_read_across_blocks_and_a_cut_file_as_far_as_it_goes(tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record

    long, short = Record(), Record()
    long.output.line, short.output.line = "x" * 40_000, "y" * 50
    first, second = long.SerializeToString(), short.SerializeToString()
    room = trackers.BLOCK - 2 * trackers.HEADER
    parts = [(2, first[:room]), (4, first[room:]), (1, second), (1, second)]
    data = b":W&B" + bytes(3)
    data += b"".join(bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part for kind, part in parts)
    (tmp_path / "run.wandb").write_bytes(data)
    assert [len(record.output.line) for record in trackers.offline_records(tmp_path / "run.wandb")] == [40_000, 50, 50]
    (tmp_path / "run.wandb").write_bytes(data[:-20])
    assert [len(record.output.line) for record in trackers.offline_records(tmp_path / "run.wandb")] == [40_000, 50]


@pytest.mark.parametrize("module", [trackers, settings])
def test_the_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0
