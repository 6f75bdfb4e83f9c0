"""The whole line on built-in rows with a one-layer model: tokenizer, base, mid, SFT, as commands and as jobs."""

import json
import math
import os
import pickle
import re

import pandas as pd
import pytest
import torch

from nanolab import jobs, layout
from nanolab.checkpoint import find_checkpoint, load_checkpoint
from nanolab.cli import main
from nanolab.evaluate import evaluate
from nanolab.grades import GRADED_TASKS, grade, grades_path, kept_evaluations, run_eval, side_by_side
from nanolab.jobs import run, start, starting, train_tokenizer
from nanolab.runtime import set_deterministic
from nanolab.sandbox import SandboxUnavailable
from nanolab.settings import BaseConfig, EvalConfig, MidConfig, SFTConfig, TokenizerConfig
from nanolab.tasks import make_task

SMALL_STREAM = ["--max_seq_len=64", "--device_batch_size=2", "--total_batch_size=256", "--eval_tokens=256"]
SMALL_SFT = ["--num_iterations=3", "--target_examples_per_step=4", "--device_batch_size=2", "--eval_every=2"]
SMALL_SFT += ["--eval_steps=2", "--eval_metrics_every=2", "--eval_metrics_max_problems=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cache folder with a tokenizer, a base and a mid checkpoint "d1", made once for this file's tests."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOLAB_CACHE", str(folder))
        patch.setenv("NANOLAB_DATA", "toy")
        assert main(["tokenizer", "--vocab_size=512", "--max_chars=200000", "--max_words=500"]) == 0
        assert main(["base", "--depth=1", "--num_iterations=3", *SMALL_STREAM]) == 0
        assert main(["mid", "--num_iterations=2", *SMALL_STREAM]) == 0
    return folder


@pytest.fixture(autouse=True)
def cache(trained, monkeypatch):
    monkeypatch.setenv("NANOLAB_CACHE", str(trained))
    monkeypatch.setenv("NANOLAB_DATA", "toy")
    return trained


def lines_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_command_line_prints_settings_validation_steps_and_accuracies_and_saves(capsys):
    assert main(["sft", "--model_tag=d1", *SMALL_SFT]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "target_examples_per_step = 4",
        "Starting from",
        "Step 00000 | Validation loss: ",
        "Step 00000/00003 | Training loss: ",
        "| lrm: 0.667 | num_tokens: ",
        "Step 00002 | mmlu_acc: ",
        "arc_easy_acc: ",
        "Step 00003 | Validation loss: ",
        "Saved the sft checkpoint",
    ):
        assert expected in printed
    model, tokenizer, meta, _ = load_checkpoint("sft", "d1")
    assert meta["step"] == 3 and meta["settings"]["device_batch_size"] == 2
    assert set(meta["metrics"]) == {"val_loss", "mmlu_acc", "arc_easy_acc"}
    assert meta["provenance"]["data"] == "toy" and meta["provenance"]["parent"]["stage"] == "mid"
    assert "torch" in meta["provenance"]["versions"] and tokenizer.vocab_size == 512


def test_options_may_be_written_with_dashes_too(capsys):
    assert main(["sft", "--model-tag", "d1", *[o.replace("_", "-") for o in SMALL_SFT], "--no-save"]) == 0
    assert "num_iterations = 3" in capsys.readouterr().out


def test_an_error_is_told_in_one_line(capsys):
    assert main(["sft", "--model_tag=d99"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nanolab: No mid checkpoint 'd99'") and error.count("\n") == 1


def test_every_step_is_a_line_of_metrics_with_the_documented_names():
    job = start(sft_config(), say=quiet)
    reports = list(run(job, say=quiet))
    lines = lines_of(job.run_dir)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]  # three steps and the evaluation after the last
    for line, report in zip(lines, reports, strict=False):
        assert line["loss"] == report.loss
        documented = {"step", "loss", "lr_multiplier", "num_tokens", "real_tokens", "slots", "seconds"}
        assert documented <= set(line)
    assert "val_loss" in lines[0] and "val_loss" in lines[-1]


def test_two_equal_runs_are_equal_to_the_bit():
    weights, losses = [], []
    for _ in range(2):
        job = start(sft_config(), say=quiet)
        losses.append([report.loss for report in run(job, say=quiet)])
        weights.append(list(job.model.parameters()))
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_evaluation_does_not_change_what_is_trained():
    losses = []
    for every in (1, -1):
        job = start(sft_config(eval_every=every, eval_metrics_every=every), say=quiet)
        losses.append([report.loss for report in run(job, say=quiet)])
    assert losses[0] == losses[1]


def test_one_can_stop_look_and_go_on():
    job = start(sft_config(), say=quiet)
    reports = run(job, say=quiet)
    first = next(reports)
    assert first.step == 0 and job.steps[1].num_conversations == 4 and job.saved is None
    assert [report.step for report in reports] == [1, 2]


def test_the_step_that_has_only_overlong_conversations_goes_by():
    job = start(sft_config(max_data_tokens=10), say=quiet)
    before = [weight.clone() for weight in job.model.parameters()]
    reports = list(run(job, say=quiet))
    assert all(report.loss is None and len(report.left_out) == 4 for report in reports)
    assert all(torch.equal(a, b) for a, b in zip(before, job.model.parameters(), strict=True))


def test_base_and_mid_follow_their_schedules(trained):
    base, mid = lines_of(trained / "runs" / "base_d1"), lines_of(trained / "runs" / "mid_d1")
    assert [line.get("lr_multiplier") for line in base] == pytest.approx([1.0, 1.0, 1.0, None])
    assert [line.get("muon_momentum") for line in mid] == pytest.approx([0.85, 0.85 + 0.1 / 300, None])
    assert base[0]["grad_norm"] > 0 and mid[0]["grad_norm"] is None  # only base training clips
    assert base[0]["num_tokens"] == base[0]["slots"] == 256
    assert base[-1]["val_loss"] < base[0]["val_loss"] and "val_bpb" in base[-1]


def test_the_last_fifth_of_base_and_mid_warms_down():
    stream = {"max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 32, "eval_tokens": 32, "eval_every": -1}
    for config in (BaseConfig(depth=1, num_iterations=10, **stream), MidConfig(num_iterations=10, **stream)):
        config.save, config.run = False, "test"
        multipliers = [report.lr_multiplier for report in run(start(config, say=quiet), say=quiet)]
        assert multipliers == pytest.approx([1.0] * 9 + [0.5])


def test_settings_that_cannot_work_are_refused_before_any_work():
    for setting, value, message in (
        ("device_batch_size", 0, "device_batch_size must be 1 or more"),
        ("target_examples_per_step", 0, "target_examples_per_step must be 1 or more"),
        ("num_iterations", -3, "num_iterations must be 1 or more, or -1"),
        ("batching", "sorted", "batching must be one of padded, bucketed, packed"),
        ("device_batch_tokens", 0, "device_batch_tokens must be 1 or more"),
        ("compile", "yes", "compile must be one of auto, on, off"),
        ("num_workers", -2, "num_workers must be 0 or more, or -1"),
        ("loss_average", "tokens", "loss_average must be one of step, micro_batch"),
        ("source", "rl", "source must be one of base, mid"),
        ("batching", "paked", "got 'paked'. Did you mean packed[?]"),
        ("dtype", "float16", "dtype must be one of auto, float32, bfloat16, got 'float16'. Did you mean bfloat16[?]"),
        ("num_iterations", "10", "num_iterations must be a whole number, got '10'"),
        ("matrix_lr", float("nan"), "matrix_lr must be 0 or more, got nan"),
        ("save", "no", "save must be True or False, got 'no'"),
        ("shard_weights", "on", "shard_weights must be True or False, got 'on'"),
        ("save_every", 5, "save_every=5 and save=False contradict each other"),
        ("overlong", "truncate", "overlong='truncate' needs a limit to be over: set max_data_tokens"),
        ("max_data_tokens", 1, "max_data_tokens=1 leaves nothing to predict"),
    ):
        with pytest.raises(ValueError, match=message):
            start(sft_config(**{setting: value}), say=quiet)
    with pytest.raises(ValueError, match='shard_weights and compile="on" do not go together'):
        start(sft_config(shard_weights=True, compile="on"), say=quiet)
    with pytest.raises(ValueError, match="too small for a single step"):
        start(sft_config(num_iterations=-1, target_examples_per_step=1_000_000), say=quiet)


def test_a_setting_that_does_not_exist_names_the_nearest_one_that_does():
    with pytest.raises(TypeError, match="SFTConfig has no setting num_iteration. Did you mean num_iterations[?]"):
        SFTConfig(num_iteration=5)
    with pytest.raises(TypeError, match="BaseConfig has no setting zzz. There are: run, report_to, data"):
        BaseConfig(zzz=1)


def test_deterministic_is_asked_of_torch_where_it_is_not_so_anyway(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: bool(asked) and asked[-1])
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert set_deterministic(torch.device("cuda"), True).startswith("yes (deterministic algorithms only")
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    assert set_deterministic(torch.device("cuda"), False).startswith("no (on cuda")
    assert set_deterministic(torch.device("cpu"), True).startswith("yes (a processor")
    assert asked == [True, False]  # not again where it is so already: asking loads the compiler


@pytest.mark.parametrize("batching", ["bucketed", "packed"])
def test_every_layout_trains_the_same_weights(batching):
    padded, laid = start(sft_config(batching="padded"), say=quiet), start(sft_config(batching=batching), say=quiet)
    losses = [[report.loss for report in run(job, say=quiet)] for job in (padded, laid)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert padded.metrics["val_loss"] == pytest.approx(laid.metrics["val_loss"], rel=1e-5)


def test_processes_that_prepare_steps_ahead_change_nothing():
    losses = [
        [report.loss for report in run(start(sft_config(num_workers=workers), say=quiet), say=quiet)]
        for workers in (0, 2)
    ]
    assert losses[0] == losses[1]


def test_steps_can_be_handed_to_processes_that_share_nothing(trained):
    """As macOS starts them: what they need is pickled."""
    stream = {"max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 32, "eval_tokens": 32, "save": False}
    for config in (
        BaseConfig(depth=1, num_iterations=2, **stream),
        MidConfig(num_iterations=2, **stream),
        sft_config(),
    ):
        steps = start(config, say=quiet).steps
        handed = pickle.loads(pickle.dumps(steps))
        ours, theirs = steps[1].batches, handed[1].batches
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(ours, theirs, strict=True))


def test_a_job_says_what_its_first_step_looks_like_and_why_it_is_not_compiled():
    lines = []
    start(sft_config(), say=lines.append)
    assert any(line.startswith("Step 0 is packed: 1 micro-batches, 4 conversations, ") for line in lines)
    assert any(line.startswith("torch.compile: off (auto, on cpu ") for line in lines)


@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_a_job_says_how_much_memory_a_step_takes_and_afterwards_how_much_it_took(batching):
    said = []
    job = start(sft_config(batching=batching), say=said.append)
    assert any(line.startswith("Memory of step 0: about ") and "; available: " in line for line in said)
    list(run(job, say=said.append))
    assert job.peak_bytes < 10 * job.estimate.total  # test_memory.py compares the two for a d4 in a fresh process
    assert any(re.match(r"Memory: [\d,.]+ MiB at the peak of a step, .* estimated for step 0: ", line) for line in said)


def test_a_job_that_will_not_fit_warns_with_the_setting_and_a_number(monkeypatch):
    said = []
    monkeypatch.setattr(jobs.starting, "available_bytes", lambda device: 30 * 2**20)
    start(
        sft_config(batching="packed", max_data_tokens=300, target_examples_per_step=99, device_batch_tokens=4096),
        say=said.append,
    )
    warnings = [line for line in said if line.startswith("Warning: This run needs about ")]
    assert len(warnings) == 1 and "30 MiB are available. Set device_batch_tokens to " in warnings[0]


def test_without_a_compiler_training_goes_on_and_says_why(monkeypatch):
    monkeypatch.setattr(
        jobs.stages, "compiler_problem", lambda device: "InvalidCxxCompiler: No working C++ compiler found"
    )
    lines = []
    job = start(sft_config(compile="on"), say=lines.append)
    assert job.compiled is None and len(list(run(job, say=quiet))) == 3
    assert "torch.compile: does not work here, going on without it (InvalidCxxCompiler: No working" in "\n".join(lines)


@pytest.mark.slow
def test_a_compiled_run_trains_the_same_weights_and_compiles_nothing_after_its_warm_up(monkeypatch):
    lines = []
    monkeypatch.setattr(layout, "SMALLEST_SHARE", 2)
    small = {"device_batch_tokens": 64, "max_data_tokens": 65}  # two shapes: 32 and 64
    eager, compiled = (start(sft_config(compile=word, **small), say=lines.append) for word in ("off", "on"))
    if compiled.compiled is None:
        pytest.skip(lines[-1])
    losses = [[report.loss for report in run(job, say=lines.append)] for job in (eager, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert "Compiled shapes: 2; recompilations after the warm-up: 0" in lines


def test_a_validation_without_supervised_tokens_is_none_and_not_nan():
    job = start(sft_config(max_data_tokens=5), say=quiet)
    list(run(job, say=quiet))
    assert lines_of(job.run_dir)[-1]["val_loss"] is None


def test_mid_without_the_momentum_ramp_keeps_095():
    config = MidConfig(num_iterations=1, max_seq_len=64, device_batch_size=2, total_batch_size=256, eval_tokens=256)
    config.muon_momentum_ramp, config.save = False, False
    assert next(run(start(config, say=quiet), say=quiet)).muon_momentum == 0.95


def test_mid_counts_an_epoch_when_no_number_of_steps_is_given():
    config = MidConfig(max_seq_len=64, device_batch_size=64, total_batch_size=2**16, save=False)
    job = start(config, say=quiet)
    tokens = sum(len(job.steps.encode(job.steps.documents[i])) for i in range(len(job.steps.documents)))
    assert job.num_iterations == tokens // 2**16


def test_a_batch_that_rows_cannot_make_up_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"1,000 is not a multiple of device_batch_size \* max_seq_len"):
        start(BaseConfig(total_batch_size=1000), say=quiet)


def test_a_tokenizer_smaller_than_asked_says_so():
    said = []
    config = TokenizerConfig(data="toy", vocab_size=60_000, max_chars=1000, max_words=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanolab.tokenizer.Tokenizer.save", lambda self, folder: folder)
        tokenizer = train_tokenizer(config, say=said.append)
    assert tokenizer.vocab_size < 60_000 and "too small for 60,000 tokens" in said[0]


def test_grades_of_stages_stand_side_by_side():
    with pytest.raises(FileNotFoundError, match="base d1 has not been graded"):
        side_by_side(["base", "mid"], "d1")
    for stage in ("base", "mid"):
        grade(stage, "d1", "toy", tasks=("ARC-Easy", "SimpleSpelling"), max_problems=4, max_tokens=8)
    table = side_by_side(["base", "mid"], "d1")
    assert list(table.columns) == ["chance", "base", "mid", "problems"]
    assert list(table.index) == ["ARC-Easy", "SimpleSpelling", "ChatCORE"] and list(table["problems"]) == [4, 4, 8]
    centered = [(table[stage] - table["chance"])[:2] / (1 - table["chance"][:2]) for stage in ("base", "mid")]
    assert [table.loc["ChatCORE", stage] for stage in ("base", "mid")] == pytest.approx([x.mean() for x in centered])


def test_a_later_grade_of_a_task_replaces_its_own_and_keeps_the_others_and_every_reply():
    grade("mid", "d1", "toy", tasks=("ARC-Easy", "SimpleSpelling"), max_problems=4, max_tokens=8)
    graded = grade("mid", "d1", "toy", tasks=("SimpleSpelling",), max_problems=3, max_tokens=8)
    folder = grades_path("mid", "d1").parent
    kept = json.loads((folder / "grades.json").read_text())
    assert [(row["task"], row["problems"]) for row in kept] == [("ARC-Easy", 4), ("SimpleSpelling", 3)]
    replies = [json.loads(line) for line in (folder / "replies" / "SimpleSpelling.jsonl").read_text().splitlines()]
    assert [row["reply"] for row in replies] == list(graded["SimpleSpelling"].table["reply"]) and len(replies) == 3


def test_what_was_graded_before_is_taken_as_it_is_and_said(monkeypatch):
    tasks, said = ("ARC-Easy", "SimpleSpelling", "GSM8K"), []
    settings = {"max_problems": 4, "max_tokens": 8, "say": said.append}
    first = grade("mid", "d1", "toy", tasks[:2], **settings)
    both = grade("mid", "d1", "toy", tasks, reuse=True, **settings)
    assert list(both) == list(tasks) and said == [
        "mid: kept from an earlier grading of this checkpoint: ARC-Easy, SimpleSpelling"
    ]
    for name in tasks[:2]:
        assert (both[name].accuracy, both[name].interval) == (first[name].accuracy, first[name].interval)
        pd.testing.assert_frame_equal(both[name].table, first[name].table, check_exact=False)
    monkeypatch.setattr("nanolab.grades.run_eval", lambda *_, **__: pytest.fail("graded again"))
    assert list(grade("mid", "d1", "toy", tasks, reuse=True, **settings)) == list(tasks)


@pytest.mark.parametrize("other", [{"max_problems": 3}, {"max_tokens": 9}, {"data": "elsewhere"}])
def test_what_was_graded_otherwise_is_not_taken(other):
    settings = {"source": "mid", "model_tag": "d1", "data": "toy", "max_problems": 4, "max_tokens": 8}
    grade("mid", "d1", "toy", ("ARC-Easy",), max_problems=4, max_tokens=8)
    assert list(kept_evaluations(EvalConfig(**settings), ["ARC-Easy", "MMLU"])) == ["ARC-Easy"]
    assert kept_evaluations(EvalConfig(**{**settings, **other}), ["ARC-Easy"]) == {}
    os.utime(find_checkpoint("mid", "d1") / "meta.json")  # as if trained anew
    assert kept_evaluations(EvalConfig(**settings), ["ARC-Easy"]) == {}


def test_stages_graded_on_different_tasks_still_stand_side_by_side():
    grade("base", "d1", "toy", tasks=("ARC-Easy", "SimpleSpelling"), max_problems=4, max_tokens=8)
    grades_path("mid", "d1").unlink(missing_ok=True)
    grade("mid", "d1", "toy", tasks=("ARC-Easy",), max_problems=2, max_tokens=8)
    for order in (["base", "mid"], ["mid", "base"]):
        table = side_by_side(order, "d1")
        assert list(table.index) == ["ARC-Easy", "SimpleSpelling", "ChatCORE"]
        assert math.isnan(table.loc["SimpleSpelling", "mid"]) and table.loc["SimpleSpelling", "base"] >= 0
        assert list(table["problems"]) == [2, 4, 2]


def test_grades_of_an_older_checkpoint_and_of_sampled_replies_do_not_mix_in():
    grade("mid", "d1", "toy", tasks=("ARC-Easy",), max_problems=2, max_tokens=8)
    os.utime(find_checkpoint("mid", "d1") / "meta.json")  # as if trained anew
    grade("mid", "d1", "toy", tasks=("SimpleSpelling",), max_problems=2, max_tokens=8)
    kept = [row["task"] for row in json.loads(grades_path("mid", "d1").read_text())]
    assert kept == ["SimpleSpelling"]
    sampled = {"num_samples": 2, "temperature": 0.8, "max_problems": 3, "max_tokens": 8}
    run_eval(EvalConfig(source="mid", model_tag="d1", task_name="SimpleSpelling", data="toy", **sampled), say=quiet)
    assert [row["problems"] for row in json.loads(grades_path("mid", "d1").read_text())] == [2]
    assert (grades_path("mid", "d1").parent / "replies" / "SimpleSpelling_temperature_0.8.jsonl").exists()


def test_humaneval_is_left_out_aloud_where_programs_cannot_be_shut_in(monkeypatch):
    def refuse():
        raise SandboxUnavailable("no walls here")

    monkeypatch.setattr("nanolab.grades.check_sandbox", refuse)
    said = []
    graded = grade("mid", "d1", "toy", ("HumanEval", "ARC-Easy"), max_problems=2, max_tokens=4, say=said.append)
    assert list(graded) == ["ARC-Easy"] and said == ["HumanEval is left out: no walls here"]
    assert grade("mid", "d1", "toy", ("HumanEval",), say=quiet) == {}
    everything = EvalConfig(source="mid", model_tag="d1", data="toy", max_problems=1, max_tokens=4)
    assert "HumanEval" not in run_eval(everything, say=said.append) and said[1] == said[0]
    with pytest.raises(SandboxUnavailable, match="no walls here"):
        run_eval(EvalConfig(source="mid", model_tag="d1", task_name="HumanEval", data="toy"), say=quiet)


def test_the_eval_command_grades_what_it_was_told_and_says_what_came(capsys):
    options = ["--source=mid", "--model_tag=d1", "--max_problems=3", "--max_tokens=8", "--data=toy"]
    assert main(["eval", "--task_name=ARC-Easy|GSM8K", *options]) == 0
    said = capsys.readouterr().out
    assert "ARC-Easy: " in said and "of 3 (95 % interval" in said and "ChatCORE of these 2 tasks: " in said
    sampled = ["--task_name=GSM8K", "--num_samples=2", "--temperature=0.8"]
    assert main(["eval", *options, *sampled]) == 0 and "pass@2" in capsys.readouterr().out
    assert main(["eval", *options, "--task_name=SmolTalk"]) == 1
    assert "task_name 'SmolTalk' cannot be graded; there are: ARC-Easy" in capsys.readouterr().err


def test_the_chat_command_answers_one_message(capsys):
    assert main(["chat", "--source=mid", "--model_tag=d1", "--prompt=hello", "--max_tokens=5"]) == 0
    assert capsys.readouterr().out.startswith("mid d1, step ")
    assert main(["chat", "--source=rl"]) == 1
    assert "source must be one of base, mid, sft, got 'rl'" in capsys.readouterr().err


@pytest.mark.parametrize("name", GRADED_TASKS)
def test_every_graded_task_can_be_graded(name):
    model, tokenizer, _, _ = load_checkpoint("mid", "d1")
    graded = evaluate(model, tokenizer, make_task(name), max_problems=3, max_tokens=8)
    assert graded.num_problems == 3 and list(graded.table["problem"]) == [0, 1, 2]
    assert {"prompt", "expected", "reply", "correct"} < set(graded.table.columns)
    assert ("<|output_start|>" in graded.table["expected"][0]) == (name in ("GSM8K", "SpellingBee"))


def sft_config(**changes) -> SFTConfig:
    small = {"num_iterations": 3, "target_examples_per_step": 4, "device_batch_size": 2, "eval_steps": 2}
    return SFTConfig(**{"eval_metrics_max_problems": 2, **small, "save": False, "run": "test", **changes})


def quiet(_line: str):
    pass


def test_a_device_that_computes_another_loss_than_the_processor_is_refused(monkeypatch):
    job = start(sft_config(), quiet)
    said = []
    starting.compare_with_processor(job, said.append)
    loss = said[0].split()[4]
    assert said == [f"Loss of a micro-batch: {loss} on cpu, {loss} on the processor"] and 0 < float(loss) < 20
    right = starting.loss_sum
    monkeypatch.setattr(
        starting, "loss_sum", lambda model, *how: (right(model, *how)[0] * (1 + 0.01 * (model is job.model)), 1)
    )
    with pytest.raises(ValueError, match="cpu computes a loss of .* Try a newer torch, or device_type cpu"):
        starting.compare_with_processor(job, said.append)
