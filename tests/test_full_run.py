"""A full run is known before it starts, refuses what cannot work, and goes on where it stopped."""

import doctest
import math
import os
import subprocess
import sys
import time
from dataclasses import fields

import psutil
import pytest

from nanolab import forecast as forecasting
from nanolab import full_run
from nanolab.checkpoint import META, find_checkpoint
from nanolab.course import STAGES
from nanolab.forecast import (
    fits_card,
    forecast,
    in_words,
    measured,
    measured_rate,
    num_weights,
    planned_steps,
    rate,
    remarks,
)
from nanolab.full_run import CARDS, FullRun, eval_in_processes, grade_stage, pending
from nanolab.gpt import GPT, GPTConfig
from nanolab.interrupt import Interrupted
from nanolab.jobs import run, start, train_tokenizer
from nanolab.launched import LaunchFailed, running
from nanolab.memory import OPTIMIZER_STEP
from nanolab.paths import CLONE
from nanolab.ranks import LAUNCHED_BY
from nanolab.render import render_conversation
from nanolab.settings import BaseConfig, EvalConfig, SFTConfig, TokenizerConfig
from nanolab.tasks import sft_mixture
from nanolab.trackers import METRICS, read_lines

TINY = {"depth": 1, "max_seq_len": 32, "device_batch_size": 1, "total_batch_size": 64, "eval_tokens": 64}
TINY |= {"target_examples_per_step": 2, "eval_steps": 1, "max_problems": 1, "device_type": "cpu", "dtype": "float32"}
TINY |= {"base_iterations": 4, "mid_iterations": 2, "sft_iterations": 2, "save_every": 2, "model_tag": "tiny"}
QUIET = {"say": lambda line: None}


def tokenizer_there():
    return train_tokenizer(TokenizerConfig(data="toy", vocab_size=300, max_chars=5_000, max_words=10), **QUIET)


def train(config, most=None):
    """Train in this process, as the launched ones would; the number of steps that were done."""
    done = 0
    for _ in run(start(config, **QUIET), **QUIET):
        done += 1
        if done == most:
            break
    return done


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": "base,sf"}, "there is no stage 'sf'. Did you mean sft?"),
        ({"stages": "sft,base"}, "in this order"),
        ({"stages": ""}, "must be some of base, mid, sft"),
        ({"nproc": 3}, "total_batch_size 2,048 cannot be shared by 3 ranks"),
        ({"nproc": 0}, "nproc and nnodes must be 1 or more"),
        ({"nnodes": 2}, "say its rdzv_endpoint"),
        ({"nnodes": 2, "node_rank": 2, "rdzv_endpoint": "a:1"}, "node_rank from 0"),
        ({"card": "H10"}, "'H10' is not known. Did you mean H100?"),
        ({"batching": "paked"}, "batching must be one of"),
        ({"shard_weights": True, "compile": "on"}, 'shard_weights and compile="on" do not go together'),
        ({"max_seq_len": 0}, "max_seq_len must be 1 or more"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_started(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        FullRun(**changes)


def test_parameters_become_the_settings_of_each_stage():
    full = FullRun(**TINY, data="toy", report_to="tensorboard", compile="off")
    base, sft = full.config("base"), full.config("sft")
    assert isinstance(base, BaseConfig) and isinstance(sft, SFTConfig)
    assert (base.depth, base.num_iterations, base.total_batch_size, base.resume) == (1, 4, 64, "latest")
    assert (sft.num_iterations, sft.eval_metrics_max_problems, sft.report_to, sft.source) == (
        2,
        1,
        "tensorboard",
        "mid",
    )
    assert FullRun(max_problems=-1).config("sft").eval_metrics_max_problems == 1024


# A value of each field that is neither its default nor a stage's.
OTHERS = {"data": "hub", "model_tag": "other", "depth": 3, "num_shards": 5, "max_seq_len": 64, "device_batch_size": 3}
OTHERS |= {"total_batch_size": 384, "target_examples_per_step": 7, "batching": "bucketed", "device_batch_tokens": 900}
OTHERS |= {"max_data_tokens": 700, "init_lr_frac": 0.4, "eval_tokens": 4_321, "eval_steps": 9, "device_type": "cpu"}
OTHERS |= {"dtype": "float32", "compile": "off", "report_to": "tensorboard", "num_workers": 4, "save_every": 11}
OTHERS |= {"keep_last": 3, "shard_weights": True}
NOT_MEANT = {"base": {"num_workers"}, "mid": {"num_workers", "init_lr_frac"}, "sft": {"device_batch_size"}}


@pytest.mark.parametrize("stage", STAGES)
def test_every_field_that_is_a_setting_of_a_stage_arrives_there(stage):
    settings = vars(FullRun(**OTHERS).config(stage))
    names = {field.name for field in fields(FullRun)} & set(settings)
    assert names <= set(OTHERS)
    assert {name for name in names if settings[name] != OTHERS[name]} == NOT_MEANT[stage]


def test_a_run_without_the_mid_stage_goes_on_from_base():
    assert FullRun(stages="base,sft").config("sft").source == "base"
    assert FullRun(stages="mid,sft").config("mid").source == "base"


def test_a_forecast_has_the_steps_and_tokens_of_the_run_that_follows():
    tokenizer, full = tokenizer_there(), FullRun(**TINY, nproc=1)
    forecasts = {each.stage: each for each in forecast(full, tokenizer)}
    for stage in full.names:
        assert train(pending(full, stage)) == forecasts[stage].steps
        lines = read_lines(full_run.cache_dir() / "runs" / f"{stage}_tiny" / METRICS)[0]
        tokens = [line["real_tokens"] for line in lines if "seconds" in line]
        assert sum(tokens) / len(tokens) == pytest.approx(forecasts[stage].tokens, rel=0 if stage != "sft" else 0.8)
        assert planned_steps(full_run.cache_dir() / "runs" / f"{stage}_tiny", 99) == forecasts[stage].steps
    table = measured(full, list(forecasts.values()), 1e9)
    assert list(table.steps) == ["4", "2", "2"] and set(table.index) == {"base", "mid", "sft"}


def test_conversations_that_are_skipped_count_into_a_forecast_step_and_have_no_tokens():
    tokenizer, mixture = tokenizer_there(), sft_mixture(data="toy")
    lengths = [len(render_conversation(mixture[i], tokenizer)[0]) for i in range(forecasting.SAMPLE)]
    middle = sorted(lengths)[len(lengths) // 2]
    (sft,) = forecast(FullRun(**TINY, nproc=1, max_data_tokens=middle), tokenizer)[2:]
    kept = [length - 1 for length in lengths if length <= middle]
    assert len(kept) < len(lengths)
    assert sft.tokens == pytest.approx(2 * sum(kept) / len(lengths))


def test_a_limit_that_leaves_no_conversation_is_named():
    tokenizer = tokenizer_there()
    with pytest.raises(ValueError, match=r"max_data_tokens=2 leaves no conversation to train on: the shortest of .*"):
        forecast(FullRun(**TINY, max_data_tokens=2), tokenizer)


def test_full_steps_are_those_that_the_job_counts():
    tokenizer = tokenizer_there()
    full = FullRun(**{**TINY, "base_iterations": -1, "mid_iterations": -1, "sft_iterations": -1, "depth": 2})
    base, mid, sft = forecast(full, tokenizer)
    job = start(full.config("base"), **QUIET)
    assert base.steps == job.num_iterations
    train(FullRun(**{**TINY, "depth": 2}).config("base"))
    epoch = start(full.config("mid"), **QUIET).num_iterations
    assert mid.steps == pytest.approx(epoch, rel=0.1) and mid.passes == pytest.approx(1, abs=0.01)
    assert sft.passes == pytest.approx(1, abs=0.01) and sft.steps == 4_200


def test_weights_are_those_of_the_model():
    shape = GPTConfig.from_depth(2, 300)
    assert num_weights(shape) == GPT(shape).num_parameters()["total"]


def test_a_card_gives_a_share_of_its_peak_and_a_processor_is_measured():
    shape = GPTConfig.from_depth(1, 300)
    assert 1e8 < measured_rate(shape, 64, "float32") < 1e13
    full = FullRun(**TINY, card="H100")
    speed, words = rate(full, [])
    assert speed == pytest.approx(0.4 * 989.4e12) and "not measured" in words


def test_more_processes_take_less_time_and_no_less_memory():
    tokenizer = tokenizer_there()
    one, two = (forecast(FullRun(**{**TINY, "nproc": n}), tokenizer)[0] for n in (1, 2))
    assert one.memory.total == two.memory.total and one.micro_batches == 2 * two.micro_batches
    assert one.seconds(1e9, 1) == 2 * two.seconds(1e9, 2)
    assert list(in_words([one], 1e9, 1).index) == ["base"]
    assert in_words([one], None, 1).training.iloc[0] == "unknown"


def test_the_forecast_of_shared_weights_is_of_a_ranks_part():
    tokenizer = tokenizer_there()
    tiny = {**TINY, "nproc": 2, "data": "toy"}
    whole, part, alone = (
        forecast(FullRun(**{**tiny, **more}), tokenizer)
        for more in ({}, {"shard_weights": True}, {"shard_weights": True, "nproc": 1})
    )
    for stage, shared in zip(whole, part, strict=True):
        states = [each.memory.moments[OPTIMIZER_STEP]["optimizer states"] for each in (stage, shared)]
        assert states[0] == pytest.approx(2 * states[1], rel=1e-3)
    assert [each.memory for each in alone] == [each.memory for each in forecast(FullRun(**TINY, nproc=1), tokenizer)]


def test_a_stage_that_does_not_fit_its_card_is_told():
    full = FullRun(depth=20, max_seq_len=2048, device_batch_size=128, total_batch_size=524_288, card="L4")
    each = forecast(full, tokenizer_there())[0]
    assert not fits_card(full, each) and each.memory.total > CARDS["L4"] * forecasting.GiB


def test_rows_that_are_read_again_and_again_are_remarked_upon():
    often = FullRun(**{**TINY, "base_iterations": 1_000_000})
    (remark,) = remarks(forecast(often, tokenizer_there()))
    assert remark.startswith("base: the rows are gone through ")
    assert remarks(forecast(FullRun(**TINY), tokenizer_there())) == []


def test_a_stage_goes_on_where_it_stopped_is_done_once_and_begins_anew_behind_a_newer_parent():
    tokenizer_there()
    full, said = FullRun(**TINY, nproc=1), []
    assert pending(full, "base", said.append).resume == "latest" and not said
    assert train(pending(full, "base"), most=3) == 3  # left behind the checkpoint of step 2
    assert train(pending(full, "base")) == 2  # and so goes on with steps 2 and 3
    assert pending(full, "base", said.append) is None and "done already, 4 steps" in said[0]
    train(pending(full, "mid"))
    assert pending(full, "mid", said.append) is None
    meta = find_checkpoint("base", "tiny") / META
    os.utime(meta, ns=(meta.stat().st_mtime_ns + 10**12,) * 2)  # as if base had been made again
    assert pending(full, "mid", said.append).resume == "" and "begins anew" in said[-1]


def test_other_settings_than_those_of_the_checkpoint_are_refused_by_the_run():
    tokenizer_there()
    train(pending(FullRun(**TINY), "base"))
    other = pending(FullRun(**{**TINY, "base_iterations": 8}), "base")
    with pytest.raises(ValueError, match="num_iterations was 4, is 8"):
        start(other, **QUIET)


def test_a_stage_is_graded_once():
    tokenizer_there()
    full = FullRun(**TINY, max_tokens=4)
    train(pending(full, "base"))
    first = grade_stage(full, "base", **QUIET)
    again = grade_stage(full, "base", **QUIET)
    assert list(first) == list(again) and all(first[name].num_problems == 1 for name in first)


@pytest.mark.slow
def test_processes_share_a_grading():
    tokenizer_there()
    full, said = FullRun(**{**TINY, "max_problems": 3}, max_tokens=4), []
    train(pending(full, "base"))
    settings = {"source": "base", "model_tag": "tiny", "data": "toy", "device_type": "cpu", "max_problems": 3}
    eval_in_processes(EvalConfig(**settings, max_tokens=4, batch_size=64, task_name="ARC-Easy|GSM8K"), 2, said.append)
    graded = grade_stage(full, "base", **QUIET)
    assert said == [str(graded["ARC-Easy"]), str(graded["GSM8K"])]


@pytest.mark.slow
def test_a_grading_that_fails_says_why_and_nothing_else():
    with pytest.raises(LaunchFailed, match=r"^nanolab \(rank [01]\): No base checkpoint[^\n]*$"):
        eval_in_processes(EvalConfig(source="base", model_tag="tiny", task_name="GSM8K", device_type="cpu"), 2)


KERNEL = """
from nanolab.full_run import eval_in_processes
from nanolab.settings import EvalConfig

config = EvalConfig(source="base", model_tag="tiny", data="toy", task_name="GSM8K", device_type="cpu")
config.num_samples, config.temperature, config.max_tokens = 1_000, 1.0, 1_000  # it would take very long
eval_in_processes(config, 2)
"""


@pytest.mark.slow
def test_a_grading_ends_with_its_notebook(monkeypatch):
    tokenizer_there()
    train(pending(FullRun(**TINY), "base"))
    logs = full_run.cache_dir() / "runs" / "base_tiny" / full_run.GRADING
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with subprocess.Popen([sys.executable, "-c", KERNEL], cwd=CLONE) as kernel:
        wait_until(lambda: any("Grading" in path.read_text() for path in logs.glob("*/attempt_0/0/stdout.log")), 60)
        processes = psutil.Process(kernel.pid).children(recursive=True)
        kernel.kill()
    assert len(processes) == 3
    wait_until(lambda: running(processes) == [], 30)


def wait_until(holds, seconds: float):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_grading_ends_with_its_torchrun(monkeypatch):
    tokenizer_there()
    full = FullRun(**TINY, max_tokens=4)
    train(pending(full, "base"))
    monkeypatch.setenv(LAUNCHED_BY, f"{2**22 + 1}:0")  # no process has this number
    with pytest.raises(Interrupted, match="torchrun is gone"):
        grade_stage(full, "base", **QUIET)


def test_the_examples_in_the_docstrings_are_true():
    options = doctest.ELLIPSIS
    assert doctest.testmod(full_run, optionflags=options).failed == 0
    assert doctest.testmod(forecasting, optionflags=options).failed == 0


def test_text_of_several_files_that_nobody_has_counted_is_forecast_all_the_same(tmp_path, small_tokenizer):
    folder = tmp_path / "pretrain_text"
    for split, name in (("train", "a"), ("train", "b"), ("validation", "a")):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{name}.jsonl").write_text('{"text": "once upon a time"}\n' * 3)
    base = forecast(FullRun(stages="base", data=str(tmp_path)), small_tokenizer)
    assert math.isnan(base[0].passes) and base[0].steps == 30
    assert in_words(base, None, ranks=2).loc["base", "times through the rows"] == "unknown"
