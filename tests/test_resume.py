"""A run that is stopped, killed or cut short goes on where it was, to the bit."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from nanolab import course, jobs
from nanolab.checkpoint import (
    OPTIMIZER,
    find_checkpoint,
    load_folder,
    load_training_state,
    read_meta,
    saved_steps,
    stage_dir,
)
from nanolab.cli import main
from nanolab.interrupt import Interrupted, Interrupts
from nanolab.jobs import run, start
from nanolab.settings import BaseConfig, MidConfig, SFTConfig
from nanolab.tasks import GSM8K, SimpleSpelling, Task, TaskMixture
from nanolab.tasks.text import Text

STREAM = {"max_seq_len": 32, "device_batch_size": 2, "total_batch_size": 128, "eval_tokens": 128}
CONFIGS = {
    "base": BaseConfig(data="toy", depth=1, model_tag="d1", num_iterations=12, eval_every=5, **STREAM),
    "mid": MidConfig(data="toy", model_tag="d1", num_iterations=12, eval_every=-1, **STREAM),
    "sft": SFTConfig(
        data="toy",
        model_tag="d1",
        num_iterations=12,
        target_examples_per_step=4,
        device_batch_tokens=128,
        eval_every=4,
        eval_steps=1,
        eval_metrics_max_problems=2,
    ),
}


class Rows(Task):
    """A task of given conversations."""

    def __init__(self, rows):
        super().__init__()
        self.given = rows

    def num_examples(self):
        return len(self.given)

    def get_example(self, index):
        return dict(self.given[index])


def quiet(_line: str):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cache folder with a tokenizer, a base and a mid checkpoint "d1"."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(folder))
        assert main(["tokenizer", "--data=toy", "--vocab_size=400", "--max_chars=100000", "--max_words=100"]) == 0
        for stage in ("base", "mid"):
            list(run(start(changed(stage), say=quiet), say=quiet))
    return folder


@pytest.fixture(autouse=True)
def cache(trained, tmp_path, monkeypatch):
    """A copy of that folder for each test: resuming looks for the latest checkpoint."""
    monkeypatch.setenv("NANOLAB_CACHE", str(tmp_path))
    os.symlink(trained / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


@pytest.fixture
def parents(trained, cache):
    """The base and mid checkpoints, for stages that start from them."""
    (cache / "checkpoints").mkdir()
    for stage in ("base", "mid"):
        os.symlink(trained / "checkpoints" / stage, cache / "checkpoints" / stage)


@pytest.fixture
def few_rows(monkeypatch):
    """A mixture of 22 conversations: five and a half steps of four."""
    mixture = TaskMixture([GSM8K(data="toy", stop=12), SimpleSpelling(10, data="toy")])
    monkeypatch.setattr(jobs.stages, "sft_mixture", lambda data: mixture)


def changed(stage, **changes):
    return type(CONFIGS[stage])(**{**vars(CONFIGS[stage]), **changes})


def weights_of(job):
    return [weight.clone() for weight in job.model.parameters()]


def losses(job, stop=None):
    """The losses of a job's steps, up to `stop` of them."""
    found, training = [], run(job, say=quiet)
    for report in training:
        found.append(report.loss)
        if len(found) == stop:
            os.kill(os.getpid(), signal.SIGINT)
    return found


def interrupted(job, after):
    found = []
    with pytest.raises(Interrupted, match=f"Stopped after {job.first_step + after} of 12 steps"):
        for report in run(job, say=quiet):
            found.append(report.loss)
            if len(found) == after:
                os.kill(os.getpid(), signal.SIGINT)
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("after", range(1, 12))
def test_sft_stopped_after_any_step_goes_on_to_the_bit(after, num_workers, parents, few_rows):
    whole = start(changed("sft", save=False), say=quiet)
    expected, weights = losses(whole), weights_of(whole)
    first = interrupted(start(changed("sft", num_workers=num_workers), say=quiet), after)
    second = start(changed("sft", num_workers=num_workers, resume="latest"), say=quiet)
    assert second.first_step == after
    assert first + losses(second) == expected
    assert all(map(torch.equal, weights_of(second), weights))
    lines = [json.loads(line) for line in (second.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(13))
    assert [line["loss"] for line in lines[:12]] == expected


@pytest.fixture
def few_documents(monkeypatch, cache):
    """Text and conversations of less than six of the streams' steps, and one conversation that cannot be rendered."""
    bad = {"messages": [{"role": "assistant", "content": "b"}]}
    rows = Rows([{**row, "where": f"row {k}"} for k, row in enumerate([*GSM8K(data="toy", stop=3), bad])])
    mixture = TaskMixture([rows, SimpleSpelling(6, data="toy")])
    monkeypatch.setattr(jobs.stages, "mid_mixture", lambda data: mixture)
    monkeypatch.setattr(jobs.stages, "load_text", lambda split, data, *_: Text(split, data, stop=2))
    monkeypatch.setattr(jobs.stages, "versions", lambda: {})  # asks git, which takes longer than these runs


@pytest.fixture
def undisturbed(parents, few_documents):
    """Losses and weights of the runs of a stage that are not stopped."""
    kept = {}

    def of(stage):
        if stage not in kept:
            whole = start(changed(stage, save=False, **SKIPPING[stage]), say=quiet)
            kept[stage] = losses(whole), weights_of(whole), whole.left_out
            assert whole.steps.count_tokens() < 6 * 128
        return kept[stage]

    return of


SKIPPING = {"base": {}, "mid": {"on_bad_row": "skip"}}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stage", ["base", "mid"])
def test_a_stream_stopped_after_any_step_goes_on_to_the_bit_also_around_its_end(stage, num_workers, undisturbed, cache):
    (cache / "checkpoints" / stage).unlink()
    expected, weights, left_out = undisturbed(stage)
    assert len(left_out) == {"base": 0, "mid": 3}[stage]
    options = {**SKIPPING[stage], "num_workers": num_workers}
    for after in range(1, 12) if num_workers == 0 else (1, 6, 11):
        stopped = start(changed(stage, **options), say=quiet)
        first = interrupted(stopped, after)
        second = start(changed(stage, **options, resume="latest"), say=quiet)
        assert (second.first_step, list(second.place)) == (after, read_meta(stopped.saved)["stream"])
        assert first + losses(second) == expected
        assert stopped.left_out + second.left_out == left_out
        assert all(map(torch.equal, weights_of(second), weights))
        shutil.rmtree(cache / "checkpoints" / stage)


def left_by_a_break(job, last: int) -> list:
    """Run a job's loop up to step `last`; the losses."""
    found = []
    for report in run(job, say=quiet):
        found.append(report.loss)
        if report.step == last:
            break
    return found


def test_the_same_cell_goes_on_with_its_stream(undisturbed):
    expected, weights, _ = undisturbed("base")
    job = start(changed("base", save=False), say=quiet)
    found = interrupted(job, 5) + left_by_a_break(job, 8)
    assert found + losses(job) == expected
    assert all(map(torch.equal, weights_of(job), weights))


def test_a_checkpoint_of_before_streams_had_places_resumes_and_says_that_it_reads_all_again(undisturbed, cache):
    (cache / "checkpoints" / "base").unlink()
    expected, weights, _ = undisturbed("base")
    first, said = interrupted(start(changed("base"), say=quiet), 8), []
    path = find_checkpoint("base", "d1") / "meta.json"
    meta = json.loads(path.read_text())
    assert meta.pop("stream") and meta["settings"].pop("num_shards") == 1
    path.write_text(json.dumps(meta))
    second = start(changed("base", resume="latest"), say=said.append)
    assert "The checkpoint does not say where its stream of text was: everything before it is encoded again." in said
    assert first + losses(second) == expected
    assert all(map(torch.equal, weights_of(second), weights))


@pytest.mark.parametrize("stage", ["base", "mid"])
def test_base_and_mid_go_on_to_the_bit(stage, parents, cache):
    (cache / "checkpoints" / stage).unlink()  # ours, not the parent that was made before
    whole = start(changed(stage, save=False), say=quiet)
    expected = losses(whole)
    first = interrupted(start(changed(stage), say=quiet), 7)
    second = start(changed(stage, resume="latest"), say=quiet)
    assert first + losses(second) == expected
    assert all(map(torch.equal, weights_of(second), weights_of(whole)))


def test_the_same_cell_run_again_goes_on_behind_the_last_finished_step(parents, few_rows):
    whole = start(changed("sft", save=False), say=quiet)
    expected, weights = losses(whole), weights_of(whole)
    job = start(changed("sft", save=False), say=quiet)
    found = interrupted(job, 5) + left_by_a_break(job, 8)
    assert found + losses(job) == expected
    assert all(map(torch.equal, weights_of(job), weights))
    lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(13))


def test_a_whole_run_of_rows_that_teach_nothing_moves_nothing_and_says_so(parents, monkeypatch):
    only_users = [{"messages": [{"role": "user", "content": f"Hello {k}"}], "where": f"row {k}"} for k in range(9)]
    too_long = [{"messages": [{"role": "user", "content": "a " * 500}, {"role": "assistant", "content": "b"}]}] * 9
    for rows, left_out in ((only_users, 0), (too_long, 48)):
        monkeypatch.setattr(jobs.stages, "sft_mixture", lambda data, rows=rows: TaskMixture([Rows(rows)]))
        said = []
        job = start(changed("sft", max_data_tokens=100), say=quiet)
        before = weights_of(job)
        assert losses(job) == [None] * 12
        assert all(map(torch.equal, weights_of(job), before))
        assert all(not optimizer.state for optimizer in job.optimizers)
        assert (job.empty_steps, len(job.left_out)) == (12, left_out)
        for _ in run(job, say=said.append):
            pass
        assert "12 steps had no supervised token: they moved no weight." in said
        assert any(line.startswith("48 conversations were skipped or cut") for line in said) == bool(left_out)


def test_the_checkpoint_saved_last_is_the_latest_also_behind_a_longer_run(parents, few_rows):
    list(run(start(changed("sft", save_every=3), say=quiet), say=quiet))
    list(run(start(changed("sft", num_iterations=5, keep_last=2), say=quiet), say=quiet))
    assert saved_steps(stage_dir("sft") / "d1") == [12, 5]
    assert find_checkpoint("sft", "d1").name == "step_000005"
    resumed = start(changed("sft", num_iterations=5, resume="latest"), say=quiet)
    assert resumed.first_step == 5 and losses(resumed) == []


def test_a_path_as_a_setting_is_kept_as_text(parents, few_rows):
    list(run(start(changed("sft", save_every=6), say=quiet), say=quiet))
    job = start(changed("sft", resume=find_checkpoint("sft", "d1", 6)), say=quiet)
    losses(job)
    assert json.loads((job.saved / "meta.json").read_text())["settings"]["resume"].endswith("step_000006")


def test_other_rows_than_the_run_began_with_are_refused(parents, few_rows, monkeypatch):
    list(run(start(changed("sft", save_every=6), say=quiet), say=quiet))
    fewer = TaskMixture([GSM8K(data="toy", stop=11), SimpleSpelling(10, data="toy")])
    monkeypatch.setattr(jobs.stages, "sft_mixture", lambda data: fewer)
    with pytest.raises(ValueError, match="with other rows: it had {'0 GSM8K': 12, .* the data now has {'0 GSM8K': 11"):
        start(changed("sft", resume="latest"), say=quiet)


def test_a_step_broken_off_before_the_weights_moved_leaves_nothing_behind(parents, few_rows, monkeypatch):
    expected = losses(start(changed("sft", save=False), say=quiet))
    job = start(changed("sft", device_batch_tokens=128), say=quiet)
    found = [report.loss for _, report in zip(range(3), run(job, say=quiet), strict=False)]
    calls, hidden = [], type(job.model).hidden

    def fails_the_second_time(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory, say")
        return hidden(*args, **options)

    monkeypatch.setattr(type(job.model), "hidden", fails_the_second_time)
    with pytest.raises(RuntimeError, match="out of memory"):
        for report in run(job, say=quiet):
            found.append(report.loss)
    assert find_checkpoint("sft", "d1").name == "step_000003"
    monkeypatch.setattr(type(job.model), "hidden", hidden)
    assert found + losses(job) == expected


def test_a_step_broken_off_while_the_weights_moved_spoils_the_job_and_is_not_saved(parents, few_rows, monkeypatch):
    job = start(changed("sft", save_every=1), say=quiet)
    next(run(job, say=quiet))

    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job.optimizers[-1], "step", breaks)
    with pytest.raises(KeyboardInterrupt):
        list(run(job, say=quiet))
    with pytest.raises(ValueError, match="broken off while the weights moved"):
        list(run(job, say=quiet))
    with pytest.raises(FileNotFoundError):
        find_checkpoint("sft", "d1")


def test_an_error_in_a_row_saves_the_steps_before_it_and_names_it_also_from_a_worker(parents, monkeypatch):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"messages": [{"role": "assistant", "content": "b"}]}
    mixture = TaskMixture([Rows([good] * 9 + [bad] + [good] * 10)])
    last = next(k for k in range(20) if len(mixture[k]["messages"]) == 1) // 4  # the step with the bad row
    assert last > 0
    monkeypatch.setattr(jobs.stages, "sft_mixture", lambda data: mixture)
    for num_workers in (0, 1):
        job = start(changed("sft", num_iterations=5, num_workers=num_workers), say=quiet)
        with pytest.raises(ValueError, match="^task row 9, turn 1: the role is 'assistant'") as raised:
            losses(job)
        assert "Traceback" not in str(raised.value)
        assert job.saved == find_checkpoint("sft", "d1") and job.saved.name == f"step_{last:06d}"


def test_a_stop_in_the_last_evaluation_finds_everything_saved(parents, few_rows):
    job = start(changed("sft", eval_every=-1), say=quiet)
    evaluate = job.evaluate

    def stopped(step, guard):
        if step == 12:
            with guard():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return evaluate(step, guard)

    job.evaluate = stopped
    with pytest.raises(Interrupted, match="in the last evaluation; all steps are done, they are saved") as raised:
        losses(job)
    assert raised.value.exit_status == 130 and find_checkpoint("sft", "d1").name == "step_000012"
    finished = start(changed("sft", eval_every=-1, resume="latest"), say=quiet)
    assert losses(finished) == []
    assert json.loads((finished.saved / "meta.json").read_text())["metrics"].keys() >= {"val_loss", "mmlu_acc"}


def test_a_stop_in_an_evaluation_on_the_way_does_not_wait_for_its_end(parents, few_rows):
    job = start(changed("sft"), say=quiet)
    evaluate = job.evaluate

    def stopped(step, guard):
        if step == 8:
            with guard():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                raise AssertionError("the evaluation went on")
        return evaluate(step, guard)

    job.evaluate = stopped
    with pytest.raises(Interrupted, match="Stopped after 8 of 12 steps") as raised:
        losses(job)
    assert raised.value.exit_status == 143 and find_checkpoint("sft", "d1").name == "step_000008"


def test_lines_of_metrics_that_are_not_ours_are_left_out_when_resuming(parents, few_rows):
    job = start(changed("sft"), say=quiet)
    interrupted(job, 3)
    with open(job.run_dir / "metrics.jsonl", "a") as file:
        file.write('[1]\n{"step": "four"}\nnull\n{"step": 2, "lo')
    losses(start(changed("sft", resume="latest"), say=quiet))
    lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(13))


def test_a_checkpoint_of_an_unfinished_run_is_finished_by_the_course(parents, few_rows):
    whole = start(changed("sft", save=False), say=quiet)
    losses(whole)
    interrupted(start(changed("sft"), say=quiet), 4)
    said = []
    path = course.ensure_checkpoint("sft", "toy", "d1", said.append)
    assert path.name == "step_000012" and any("is of step 4 of 12 -> going on" in line for line in said)
    assert all(map(torch.equal, load_folder(path).model.parameters(), weights_of(whole)))


def test_checkpoints_on_the_way_are_kept_as_many_as_asked_for(parents, few_rows):
    list(run(start(changed("sft", save_every=3, keep_last=2), say=quiet), say=quiet))
    assert saved_steps(stage_dir("sft") / "d1") == [9, 12]


def test_a_named_checkpoint_is_gone_on_from(parents, few_rows):
    job = start(changed("sft", save_every=5), say=quiet)
    expected = losses(job)
    path = find_checkpoint("sft", "d1", 5)
    resumed = start(changed("sft", resume=str(path)), say=quiet)
    assert losses(resumed) == expected[5:]
    assert all(map(torch.equal, weights_of(resumed), weights_of(job)))


def test_resuming_without_a_checkpoint_starts_anew_and_says_so(parents, few_rows):
    said = []
    job = start(changed("sft", resume="latest"), say=said.append)
    assert job.first_step == 0 and "resume: there is no sft checkpoint yet, starting anew." in said


def test_a_finished_run_has_nothing_left_to_do(parents, few_rows):
    job = start(changed("sft"), say=quiet)
    list(run(job, say=quiet))
    again = start(changed("sft", resume="latest"), say=quiet)
    assert losses(again) == [] and all(map(torch.equal, weights_of(again), weights_of(job)))


def test_other_settings_a_missing_folder_and_a_start_without_state_are_told_apart(parents, few_rows, cache):
    list(run(start(changed("sft", save_every=6), say=quiet), say=quiet))
    with pytest.raises(ValueError, match="num_iterations was 12, is 20; matrix_lr was 0.02, is 0.5"):
        start(changed("sft", resume="latest", num_iterations=20, matrix_lr=0.5), say=quiet)
    with pytest.raises(FileNotFoundError, match="is no checkpoint's folder"):
        start(changed("sft", resume="nowhere"), say=quiet)
    (find_checkpoint("sft", "d1") / OPTIMIZER).unlink()
    with pytest.raises(ValueError, match="has no optimizer.pt: it can be trained further as a start, not resumed"):
        start(changed("sft", resume="latest"), say=quiet)


def test_a_training_state_that_would_run_code_is_refused(parents, few_rows, cache):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(cache / "harm"),))

    list(run(start(changed("sft"), say=quiet), say=quiet))
    path = find_checkpoint("sft", "d1")
    torch.save({"optimizers": Harm()}, path / OPTIMIZER)
    with pytest.raises(ValueError, match="optimizer.pt is not the file that was saved"):
        load_training_state(path)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if k != "files"}))  # as if of old
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged or holds more than plain data"):
        load_training_state(path)
    (path / OPTIMIZER).write_bytes(b"PK\x03\x04 not a file of ours")
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged or holds more than plain data"):
        load_training_state(path)
    assert not (cache / "harm").exists()


def test_a_second_signal_stops_at_once_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupts.asked == signal.SIGINT
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is before


COMMAND = [sys.executable, "-m", "nanolab", "sft", "--data=toy", "--model_tag=d1", "--num_iterations=40"]
COMMAND += ["--target_examples_per_step=4", "--eval_every=-1", "--eval_steps=1", "--eval_metrics_max_problems=2"]
COMMAND += ["--save_every=1", "--keep_last=2", "--resume=latest"]
KILLS = 20
STEPS = 3 * KILLS  # more than all killed runs get to, also where the machine is busy and a kill comes late
KILLED_COMMAND = [*COMMAND, "--model_tag=d4", f"--num_iterations={STEPS}"]


def saving(folder):
    """Whether a checkpoint is being written: it is not yet where it will be."""
    return any(path.name.startswith(".") for path in folder.glob("*"))


# The command line again and again, each time in a process of its own, forked from one that has imported everything
# and made the built-in rows.
FORKED = """
import os, sys
import torch._dynamo  # as torch does for its first optimizer
import nanolab.jobs
from nanolab.cli import main
from nanolab.tasks import sft_mixture

sft_mixture(data="toy")
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os._exit(main(line.split()))
    print(pid, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(f"\\nended {status}", flush=True)
"""


def kill_at_a_random_moment(draws, folder, server):
    """Run the command and kill it, every third time while it saves; whether it died there, or None if it ended.

    Half of the times it is let do two steps, the first of which is then saved: however slow a disk is, a run gets on.
    """
    server.stdin.write(" ".join(KILLED_COMMAND[3:]) + "\n")
    server.stdin.flush()
    pid, said, steps_left = None, [], draws.choice((1, 2))
    for line in server.stdout:
        said.append(line)
        pid = pid or (int(line) if line.strip().isdigit() else None)
        steps_left -= line.startswith("Step 00")
        if not steps_left or line.startswith("ended"):  # a step is done, the next begins: any moment now
            break
    time.sleep(draws.uniform(0, 0.1))
    if draws.random() < 1 / 3:
        while psutil.pid_exists(pid) and not saving(folder):
            time.sleep(0.0005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while not said[-1].startswith("ended"):
        said.append(server.stdout.readline())
        assert said[-1], "".join(said)  # the server itself is gone
    assert said[-1].split()[1] in ("0", str(-signal.SIGKILL)), "".join(said)
    return None if said[-1].split()[1] == "0" else saving(folder)


@pytest.mark.slow
def test_a_d4_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_run(cache, tmp_path_factory):
    for stage in ("base", "mid"):
        changes = {"model_tag": "d4", "num_iterations": 1} | ({"depth": 4} if stage == "base" else {})
        list(run(start(changed(stage, **changes), say=quiet), say=quiet))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    draws, folder = random.Random(0), stage_dir("sft") / "d4"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "-c", FORKED], env=environment, **pipes) as server:
        kills = [kill_at_a_random_moment(draws, folder, server) for _ in range(KILLS)]
    assert None not in kills and sum(kills) >= 3, kills  # all were killed, some while a checkpoint was being written
    finished = subprocess.run(KILLED_COMMAND, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "Resuming after step" in finished.stdout, finished.stdout
    assert not saving(folder)  # what the killed ones left is swept up
    elsewhere = tmp_path_factory.mktemp("undisturbed")
    os.symlink(cache / "tokenizer", elsewhere / "tokenizer")
    (elsewhere / "checkpoints").mkdir()
    os.symlink(cache / "checkpoints" / "mid", elsewhere / "checkpoints" / "mid")
    whole = subprocess.run(
        [*KILLED_COMMAND, "--save_every=-1"], env={**environment, "NANOLAB_CACHE": str(elsewhere)}, capture_output=True
    )
    assert whole.returncode == 0
    paths = [root / "checkpoints" / "sft" / "d4" / f"step_{STEPS:06d}" for root in (cache, elsewhere)]
    ended, undisturbed = (load_folder(path).model for path in paths)
    assert all(map(torch.equal, ended.parameters(), undisturbed.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_its_status_and_a_checkpoint(number, status, parents):
    process = subprocess.Popen(
        [*COMMAND, "--save_every=-1", "--num_iterations=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Step 00003"):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and 'Go on with resume="latest"' in errors
    assert find_checkpoint("sft", "d1").name >= "step_000003"
