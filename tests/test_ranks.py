"""Several processes are one: the same losses and weights, whoever computes what. On the processor, over gloo.

Slow: each torchrun imports torch in every process, on however few cores there are.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from nanolab.batch import StepDataset
from nanolab.checkpoint import find_checkpoint, load_folder
from nanolab.course import recipe
from nanolab.jobs import encoding_threads, run, start, train_tokenizer
from nanolab.launch import options
from nanolab.layout import imbalance, share_out
from nanolab.meeting import NOTHING_EARLIER
from nanolab.ranks import ALONE, LostContact, Ranks, joined
from nanolab.settings import SFTConfig, TokenizerConfig
from nanolab.stream import StreamDataset
from nanolab.tasks import ARC
from nanolab.train import backward
from tests.conftest import random_model
from tests.ranks_worker import JOBS, LOADED_BY_WORKERS, SAVING, UNPREPARED, outcome, quiet, result

CLONE = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache folder with a tokenizer and a base checkpoint of depth 2, and what one process makes of every job."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(folder))
        patch.delenv("NANOLAB_DATA", raising=False)
        train_tokenizer(TokenizerConfig(data="toy", vocab_size=400, max_chars=100_000), quiet)
        base = recipe("base", "toy", "d2", num_iterations=12, total_batch_size=256, device_batch_size=1)
        list(run(start(base, quiet), quiet))
        return folder, {name: outcome(config) for name, config in JOBS.items()}


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of that cache folder for one test."""
    copy = tmp_path / "cache"
    shutil.copytree(kept[0], copy, dirs_exist_ok=True)
    return copy


def torchrun(folder: Path, *arguments: str, **popen) -> subprocess.Popen:
    names = [name for name in os.environ if name.startswith(("TORCHELASTIC", "NANOLAB", "RANK", "WORLD", "MASTER"))]
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"NANOLAB_CACHE": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CLONE)}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return subprocess.Popen(
        command, env=env, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen
    )


def ended(process: subprocess.Popen, timeout: float = 240) -> str:
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, said[-6000:]
    return said


def on_ranks(world_size: int, *options: str, **to_do: Path) -> dict:
    """What some ranks make of all that is to do, each in its cache folder, in one start."""
    folder = next(iter(to_do.values()))
    path = folder / f"by_{world_size}.pt"
    ranks = ("--standalone", "--nproc-per-node", str(world_size))
    words = [f"{what.replace('_', ' ')}={cache}" for what, cache in to_do.items()]
    ended(torchrun(folder, *ranks, *options, "-m", "tests.ranks_worker", str(path), *words), timeout=600)
    return torch.load(path, weights_only=True)


def about(numbers) -> list:
    """For a comparison up to rounding; None, a loss of nothing, equals only itself."""
    return [number if number is None else pytest.approx(number, rel=TOLERANCE) for number in numbers]


def assert_same(found: dict, alone: dict):
    assert found["losses"] == about(alone["losses"])
    for key in ("num_tokens", "real_tokens", "left_out"):
        assert found[key] == alone[key]
    for ours, theirs in zip(found["metrics"], alone["metrics"], strict=True):
        assert ours.keys() == theirs.keys() and list(ours.values()) == about(theirs.values())
    assert_same_weights(found["weights"], alone["weights"])


def assert_same_weights(found: dict, alone: dict):
    assert found.keys() == alone.keys()
    apart = {name: (found[name] - weight).norm() / weight.norm() for name, weight in alone.items()}
    assert {name: distance.item() for name, distance in apart.items() if not distance < TOLERANCE} == {}


@pytest.fixture(scope="module")
def folders(kept, tmp_path_factory):
    """A function that copies a cache folder, that of `kept` if none is named."""
    return lambda of=kept[0]: shutil.copytree(of, tmp_path_factory.mktemp("copy") / "cache")


@pytest.fixture(scope="module")
def by_two(kept, folders):
    """What two ranks make of everything, and where they have left checkpoints."""
    half, sharded = folders(), folders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(sharded))
        patch.delenv("NANOLAB_DATA", raising=False)
        outcome(SAVING, most=3)  # one process leaves a checkpoint of two steps
    found = on_ranks(2, all=folders(), gradients=folders(), half=half, sharded=sharded)
    return found, {"half": half, "sharded": sharded}


@pytest.fixture(scope="module")
def by_three(by_two, folders):
    """What three ranks make of everything, also of the checkpoints of two."""
    _, left = by_two
    resumed = {"resume": folders(left["half"]), "resume_sharded": folders(left["sharded"])}
    return on_ranks(3, **resumed, all=folders(), collected=folders(), sharded=folders(left["sharded"]))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_give_the_losses_and_weights_of_one(kept, by_two, by_three, world_size):
    found = {2: by_two[0], 3: by_three}[world_size]["all"]
    for name, alone in kept[1].items():
        print(name)
        assert_same(found[name], alone)
    assert max(found["fewer conversations than ranks"]["imbalance"]) == world_size
    assert found["a step without anything supervised"]["losses"] == [None] * 3
    assert len(found["all skipped"]["left_out"]) == 6


def test_the_jobs_of_that_test_have_steps_with_and_without_anything_to_learn(kept):
    alone = kept[1]
    assert all(loss > 0 for name in ("packed", "mid", "base") for loss in alone[name]["losses"])
    assert alone["a step without anything supervised"]["losses"] == [None] * 3
    assert None not in alone["some ranks have nothing supervised"]["losses"]


@pytest.mark.slow
def test_two_machines_are_one(kept, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test")
    where += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", "-m", "tests.ranks_worker")
    machines = [torchrun(folder, *where, str(folder / f"machine_{k}.pt"), f"one={folder}") for k in (0, 1)]
    for machine in machines:
        ended(machine)
    written = sorted(folder.glob("machine_*.pt"))
    assert len(written) == 1  # by rank 0, wherever it was
    assert_same(torch.load(written[0], weights_only=True)["one"], kept[1]["packed"])


def lines_of(folder: Path) -> list[dict]:
    """What there is of the run's metrics; a line may be half written."""
    path = folder / "runs" / "joining" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def wait_until(condition, processes: list[subprocess.Popen], timeout: float = 120):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.2)


@pytest.mark.slow
def test_a_machine_that_joins_takes_its_share_from_the_next_step_on(folder, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # torch 2.13 leaves newcomers alone otherwise
    changes = {"num_iterations": 1_000, "save_every": -1, "resume": "latest", "run": "joining"}
    config = SFTConfig(**{**vars(SAVING), **changes})
    where = ("--nnodes", "1:2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-conf", "last_call_timeout=1")
    where += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", "-m", "--", "nanolab", "sft")
    machines = [torchrun(folder, *where, *options(config))]
    wait_until(lambda: len(lines_of(folder)) > 1, machines)
    machines.append(torchrun(folder, *where, *options(config)))
    wait_until(lambda: any(line["imbalance"] > 1 for line in lines_of(folder)), machines)  # one rank alone has 1
    for machine in machines:
        machine.terminate()
    said = [machine.communicate(timeout=60)[0] for machine in machines]
    assert sum("2 processes train together" in text for text in said) == 1

    lines = lines_of(folder)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    joined_at = next(line["step"] for line in lines if line["imbalance"] > 1)
    assert joined_at > 1 and f"Resuming after step {joined_at}" in "".join(said)
    monkeypatch.setenv("NANOLAB_CACHE", str(folder))
    alone = outcome(SFTConfig(**{**vars(config), "save": False, "resume": ""}), most=joined_at + 1)
    assert [line["loss"] for line in lines[: joined_at + 1]] == about(alone["losses"])


@pytest.fixture(scope="module")
def undisturbed(kept):
    """The saving job, done by one process without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(kept[0]))
        patch.delenv("NANOLAB_DATA", raising=False)
        found = outcome(SFTConfig(**{**vars(SAVING), "save": False, "save_every": -1, "share_muon": "auto"}))
    return found


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_resumes_with_one_and_with_three(by_two, by_three, undisturbed, folders, monkeypatch):
    assert by_two[0]["half"]["losses"] == pytest.approx(undisturbed["losses"][:3], rel=TOLERANCE)
    monkeypatch.setenv("NANOLAB_CACHE", str(folders(by_two[1]["half"])))
    assert find_checkpoint("sft", "d2").name == "step_000002"
    with_one = outcome(replace(SAVING, resume="latest"))
    for found in (with_one, by_three["resume"]):
        assert found["losses"] == pytest.approx(undisturbed["losses"][2:], rel=TOLERANCE)
        assert_same_weights(found["weights"], undisturbed["weights"])


@pytest.mark.slow
def test_a_shared_muons_state_comes_together_as_it_is_and_without_torchs_slow_way(by_three):
    found = by_three["collected"]
    assert found["before"]["state"] == {}
    ours, theirs = found["after"], found["own way"]
    assert ours["param_groups"] == theirs["param_groups"] and list(ours["state"]) == list(theirs["state"]) != []
    for number, values in theirs["state"].items():
        assert ours["state"][number].keys() == values.keys() == {"momentum_buffer"}
        assert torch.equal(ours["state"][number]["momentum_buffer"], values["momentum_buffer"])


@pytest.mark.slow
def test_gradients_exist_once_and_stay_where_ranks_add_them_up(by_two):
    found = by_two[0]["gradients"]
    *_, before, last = found["steps"]
    assert last["micro_batches"] > 2 * 2  # some went without the sum over ranks
    assert last["size"] == last["room"] and len(last["storages"]) < found["number"]
    assert last["storages"] == before["storages"] and found["zero"]


def assert_sharded_is_the_same(found: dict, alone: dict, undisturbed: dict):
    for name, of_all in found["jobs"].items():
        print(name)
        assert_same(of_all, alone[name])
    for whole, parts in zip(*found["muon"], strict=True):
        assert torch.allclose(whole, parts, rtol=0, atol=TOLERANCE)
    after = found["stopped in an evaluation"]
    assert set(after["stopped"]) == {signal.SIGTERM}  # rank 1 was stopped, and the others with it
    assert after["measured"]["val_loss"] == pytest.approx(alone["packed"]["metrics"][0]["val_loss"], rel=TOLERANCE)
    for said in ("keeps its part of the weights", "Muon's work is shared", "torch.compile: off"):
        assert sum(said in line for line in after["said"]) == 1
    assert found["resumed"]["losses"] == pytest.approx(undisturbed["losses"][2:], rel=TOLERANCE)
    assert_same_weights(found["resumed"]["weights"], undisturbed["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_that_share_the_weights_give_the_losses_and_weights_of_one(
    kept, by_two, by_three, undisturbed, world_size
):
    found = {2: by_two[0], 3: by_three}[world_size]["sharded"]
    assert set(kept[1]) - set(found["jobs"]) == {LOADED_BY_WORKERS}
    assert_sharded_is_the_same(found, kept[1], undisturbed)


@pytest.mark.slow
def test_a_checkpoint_of_shared_weights_resumes_with_one_process(by_two, undisturbed, folders, monkeypatch):
    monkeypatch.setenv("NANOLAB_CACHE", str(folders(by_two[1]["sharded"])))
    said = []
    config = replace(SAVING, resume="latest", shard_weights=True)
    job = start(config, said.append)
    found = result(job, list(run(job, quiet)))
    assert any("nobody to share with" in line for line in said)
    assert found["losses"] == pytest.approx(undisturbed["losses"][2:], rel=TOLERANCE)
    assert_same_weights(found["weights"], undisturbed["weights"])


@pytest.mark.slow
def test_three_ranks_that_share_the_weights_go_on_from_two(by_three, undisturbed):
    found = by_three["resume sharded"]
    assert found["losses"] == pytest.approx(undisturbed["losses"][2:], rel=TOLERANCE)
    assert_same_weights(found["weights"], undisturbed["weights"])


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_end_is_the_same(folder, undisturbed):
    found = on_ranks(2, "--max-restarts", "1", killed=folder)["killed"]
    assert found["restarts"] == 1
    assert found["steps"] == [2, 3, 4, 5]  # from the checkpoint of two steps, not from the beginning
    assert_same_weights(found["weights"], undisturbed["weights"])
    lines = (folder / "runs" / "sft_d2" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]
    kept_weights = load_folder(find_checkpoint("sft", "d2"), torch.device("cpu"))[0].state_dict()
    assert_same_weights(kept_weights, undisturbed["weights"])


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_and_is_told(folder):
    ranks = ("--standalone", "--nproc-per-node", "2")
    job = ("-m", "nanolab", "sft", "--source", "base", "--data", "/nowhere", "--device_type", "cpu")
    process = torchrun(folder, *ranks, *job)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "nanolab (rank 0): " in said and "/nowhere" in said
    assert "Traceback" not in said.split("nanolab (rank 0): ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", UNPREPARED)
def test_an_error_that_only_one_rank_has_in_preparing_a_step_ends_all_and_what_is_done_is_saved(folder, name):
    kind = UNPREPARED[name][1].__name__
    ranks = ("--standalone", "--nproc-per-node", "2")
    process = torchrun(folder, *ranks, "-m", "tests.ranks_worker", "unprepared", name)
    try:
        said, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()  # torchrun's ranks would wait for each other for hours
        raise
    assert process.returncode == 1
    own_words = {"ValueError": "nanolab (rank 1): its disk is bad", "RuntimeError": "RuntimeError: its disk is bad"}
    assert own_words[kind] in said
    assert f"nanolab (rank 0): Rank 1 cannot go on, so rank 0 stops too. {kind}: its disk is bad" in said
    assert sorted(path.name for path in folder.rglob("sft/d2/step_*")) == ["step_000002", "step_000003"]


@pytest.mark.slow
def test_two_ranks_grade_what_one_grades_and_keep_it_once(folder):
    kept = {}
    for ranks in ((), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")):
        cache = folder.with_name(f"graded_by_{len(ranks)}")
        shutil.copytree(folder, cache)
        job = ("-m", "nanolab", "eval", "--source", "base", "--data", "toy", "--device_type", "cpu")
        job += ("--task_name", "ARC-Easy|SimpleSpelling", "--max_problems", "7", "--max_tokens", "8")
        env = {**os.environ, "NANOLAB_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *ranks, *job], cwd=CLONE, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("ARC-Easy: ") == 1
        (run_dir,) = (cache / "runs").glob("base_d2")
        replies = {path.name: path.read_text() for path in sorted((run_dir / "replies").iterdir())}
        grades = json.loads((run_dir / "grades.json").read_text())
        kept[ranks] = (replies, [{name: grade[name] for name in ("task", "accuracy")} for grade in grades])
    alone, two = kept.values()
    assert two[1] == alone[1] and two[0].keys() == alone[0].keys()
    assert two[0]["SimpleSpelling.jsonl"] == alone[0]["SimpleSpelling.jsonl"]


ORPHANING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "nanolab", "sft", "--device_type=cpu"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


@contextlib.contextmanager
def nobody_answers(folder):
    """The environment of a rank whose rank 0 does not come."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: who connects is refused, and tries again
        env = {**os.environ, "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "NANOLAB_CACHE": str(folder)}
        yield {**env, "MASTER_PORT": str(nobody.getsockname()[1])}


@pytest.mark.slow
def test_a_rank_whose_torchrun_is_gone_does_not_wait_for_the_others(folder):
    with nobody_answers(folder) as env:
        done = subprocess.run(
            [sys.executable, "-c", ORPHANING, "12"], env=env, cwd=CLONE, stdout=subprocess.PIPE, text=True, timeout=60
        )
        rank = int(done.stdout)
        deadline = time.monotonic() + 60
        while psutil.pid_exists(rank) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not psutil.pid_exists(rank)


@pytest.mark.slow
def test_a_rank_whose_torchrun_was_gone_before_it_could_look_does_not_wait_either(folder):
    late = "import os; from nanolab.ranks import joined\nwith joined('cpu', parent=os.getpid()): pass"  # not its parent
    with nobody_answers(folder) as env:
        done = subprocess.run([sys.executable, "-c", late], env=env, cwd=CLONE, timeout=120)
    assert done.returncode == 128 + signal.SIGTERM


def steps_of(toy_mixture, tokenizer, world_size: int, **options) -> list[StepDataset]:
    settings = {"num_examples": 10, "batching": "packed", "device_batch_tokens": 256, **options}
    return [
        StepDataset(toy_mixture, tokenizer, rank=rank, world_size=world_size, **settings) for rank in range(world_size)
    ]


@pytest.fixture(scope="module")
def toy_mixture():
    return ARC("ARC-Easy", "train", data="toy")


def test_ranks_share_a_step_without_gap_or_double(toy_mixture, byte_tokenizer):
    (alone,) = steps_of(toy_mixture, byte_tokenizer, 1)
    for world_size in (2, 3, 16):
        shares = [steps[5] for steps in steps_of(toy_mixture, byte_tokenizer, world_size)]
        assert sum(share.real_tokens for share in shares) == alone[5].real_tokens
        assert sum(share.num_tokens for share in shares) == alone[5].num_tokens
        assert {share.totals for share in shares} == {shares[0].totals}
        assert shares[0].totals.num_tokens == alone[5].num_tokens
        assert shares[0].totals.slots == sum(plan.slots for plan in plans(toy_mixture, byte_tokenizer, world_size))
        assert all(share.rows == alone[5].rows and share.num_conversations == 10 for share in shares)


def plans(mixture, tokenizer, world_size: int) -> list:
    return [steps.plan(5) for steps in steps_of(mixture, tokenizer, world_size)]


def test_the_gradient_of_all_ranks_batches_is_that_of_one_process(toy_mixture, byte_tokenizer):
    model = random_model(byte_tokenizer.vocab_size, depth=1)
    (alone,) = steps_of(toy_mixture, byte_tokenizer, 1)
    shared = [batch for steps in steps_of(toy_mixture, byte_tokenizer, 3) for batch in steps[0].batches]
    gradients = []
    for batches in (alone[0].batches, shared):
        model.zero_grad()
        backward(model, batches)
        gradients.append(model.lm_head.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_a_rank_to_whom_nothing_falls_has_one_batch_without_targets(toy_mixture, byte_tokenizer):
    for static_shapes in (False, True):
        steps = steps_of(toy_mixture, byte_tokenizer, 4, num_examples=2, static_shapes=static_shapes)
        empty = [each[0] for each in steps if each[0].real_tokens == 0]
        assert len(empty) == 2
        assert all([batch.num_tokens for batch in step.batches] == [0] for step in empty)


def test_ranks_share_the_micro_batches_of_a_stream():
    def stream(rank, world_size):
        return StreamDataset([list(range(100))], list, 4, 1, 24, rank=rank, world_size=world_size)

    alone = stream(0, 1)[1].batches
    for world_size in (2, 3):
        shares = [stream(rank, world_size)[1] for rank in range(world_size)]
        rows = [batch.inputs.tolist() for share in shares for batch in share.batches]
        assert sorted(rows) == sorted(batch.inputs.tolist() for batch in alone)
        assert all(share.totals.num_tokens == 24 and share.totals.micro_batches == 6 for share in shares)


def test_ranks_of_a_machine_share_its_cores_for_encoding(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: range(32), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    found = [encoding_threads()]
    for local_world_size in ("2", "8", "64"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local_world_size)
        found.append(encoding_threads())
    assert found == [8, 8, 4, 1]


def test_ranks_go_on_with_a_stream_where_any_of_them_had_left_it():
    documents = [[k] * (k % 7) for k in range(30)]

    def stream(rank, world_size):
        return StreamDataset(documents, list, 4, 1, 24, rank=rank, world_size=world_size)

    alone = stream(0, 1)
    steps = [alone[k] for k in range(12)]
    for world_size, stopped in ((2, 1), (3, 7)):
        shares = []
        for rank in range(world_size):
            assert stream(rank, world_size)[stopped].place == steps[stopped].place
            again = stream(rank, world_size)
            again.start_at(*steps[stopped].place)
            shares.append(again[stopped + 1])
        rows = [batch.inputs.tolist() for share in shares for batch in share.batches]
        assert sorted(rows) == sorted(batch.inputs.tolist() for batch in steps[stopped + 1].batches)


def test_a_stream_that_ranks_cannot_share_evenly_is_refused():
    with pytest.raises(ValueError, match=r"24 cannot be shared by 4 ranks.*multiple of 16"):
        StreamDataset([list(range(100))], list, 4, 1, 24, rank=0, world_size=4)


def test_conversations_are_dealt_by_length_to_eight_ranks_within_a_twentieth(small_tokenizer):
    from nanolab.tasks import sft_mixture

    steps = StepDataset(sft_mixture(data="toy"), small_tokenizer, num_examples=256)
    for step in range(3):
        lengths = [len(ids) - 1 for ids, _ in steps._rows(step)[0]]
        dealt = imbalance([sum(lengths[i] for i in share) for share in share_out(lengths, 8)])
        as_they_come = imbalance([sum(lengths[rank::8]) for rank in range(8)])
        assert dealt < 1.01 < 1.03 < as_they_come


def test_share_out_gives_each_conversation_to_one_rank_and_one_rank_all_in_order():
    lengths = [3, 9, 0, 4, 4, 1]
    assert share_out(lengths, 1) == [[0, 1, 2, 3, 4, 5]]
    assert sorted(i for share in share_out(lengths, 4) for i in share) == [0, 1, 2, 3, 4, 5]
    assert share_out([], 2) == [[], []]
    with pytest.raises(ValueError, match="world_size must be 1 or more"):
        share_out(lengths, 0)


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with joined() as ranks:
        assert ranks == ALONE and ranks.replica(torch.nn.Linear(1, 1)) is None
        assert ranks.gather(3) == [3] and ranks.same("a") == "a" and ranks.sum(2.5) == 2.5 and ranks.any(True)


NCCL_FAILED = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, unhandled system error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nncclSystemError: System call (e.g. socket, malloc) or external "
    "library call failed or device error. \nLast error:\n"
)
NO_ROOM = "Error while creating shared memory segment /dev/shm/nccl-Wm3bTX (size 9637888)"
GLOO_FAILED = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711"
LOST = {  # what rank 1 says of the error
    dist.DistBackendError(NCCL_FAILED + NO_ROOM + "\nException raised from ..."): (
        f"Rank 1 has lost contact with the others, or NCCL failed: {NO_ROOM}"
    ),
    dist.DistBackendError(NCCL_FAILED.partition("\n")[0]): "or NCCL failed: NCCL error in: /pytorch",
    RuntimeError(GLOO_FAILED): f"Another rank is gone, so rank 1 stops too ({GLOO_FAILED}).",
    dist.DistStoreError("wait timeout\nmore"): "Another rank is gone, so rank 1 stops too (wait timeout).",
    LostContact("Rank 0 cannot go on. OSError: gloo"): "Rank 0 cannot go on. OSError: gloo",
}


@pytest.fixture
def second_of_two(monkeypatch):
    """What torchrun tells the second of two processes, and nobody to meet."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("nanolab.ranks.meet", lambda _backend, _parent: (None, NOTHING_EARLIER))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_failed_collective_is_told_with_its_reason(error, second_of_two):
    with pytest.raises(LostContact, match=re.escape(LOST[error])), joined("cpu"):
        raise error


def test_other_errors_than_a_failed_collective_are_told_as_they_are(second_of_two):
    with pytest.raises(RuntimeError, match="^CUDA out of memory$") as found, joined("cpu"):
        raise RuntimeError("CUDA out of memory")
    assert not isinstance(found.value, LostContact)


class Follower(Ranks):
    """A second rank, to which the first says that it goes on from a folder of its own machine."""

    def same(self, _value):
        return Path("/disk/of/rank_0/step_000002")


def test_a_rank_on_a_machine_without_the_checkpoint_says_what_all_machines_need():
    with pytest.raises(FileNotFoundError, match=r"step_000002, which rank 1's machine.*same NANOLAB_CACHE folder"):
        start(replace(SAVING, resume="latest"), quiet, Follower(1, 2))


@pytest.mark.parametrize("device_type", ["mps", ""])
def test_ranks_refuse_mps_named_or_picked(device_type, second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="MPS trains in one process only"), joined(device_type):
        pass


def test_ranks_on_a_mac_train_on_the_processor_if_told_so(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with joined("cpu") as ranks:
        assert (ranks.rank, ranks.world_size) == (1, 2)
