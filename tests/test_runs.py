"""All runs in a table and some in a picture, read from the files that they leave behind."""

import doctest
import json
import os
import platform
import subprocess
import sys
from dataclasses import fields
from io import BytesIO

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from nanolab import runs
from nanolab.cli import main
from nanolab.jobs import run, start, train_tokenizer
from nanolab.runs import OF_A_STEP, compare, differing, read_run, runs_table
from nanolab.settings import BaseConfig, TokenizerConfig
from nanolab.show import runs as pictures
from nanolab.show.figure import Picture
from nanolab.show.runs import run_curves, thinned
from nanolab.train import Report


@pytest.fixture
def folder(cache):
    return cache / "runs"


def lines(losses, seconds=0.5, real_tokens=100, **last) -> str:
    """metrics.jsonl of a run with these losses, `last` being the evaluation after it."""
    of_step = {"seconds": seconds, "real_tokens": real_tokens}
    steps = [{"step": step, "loss": loss, **of_step} for step, loss in enumerate(losses)]
    return "".join(json.dumps(line) + "\n" for line in [*steps, *([{"step": len(losses), **last}] if last else [])])


def keep(folder, name, metrics, status=None, planned=None, stage="sft", **settings):
    """A run's folder, as a run leaves it; without a plan as runs did before they kept their settings."""
    run_dir = folder / name
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text(metrics)
    if planned is not None:
        kept = {"stage": stage, "model_tag": "d4", "num_iterations": planned, "settings": {"run": name, **settings}}
        (run_dir / "settings.json").write_text(json.dumps(kept))
    if status is not None:
        (run_dir / "status.json").write_text(json.dumps(status))
    os.utime(run_dir / "metrics.jsonl", (0, len(list(folder.iterdir()))))
    return run_dir


def here(**changes) -> dict:
    process = psutil.Process()
    return {"pid": process.pid, "process_began": process.create_time(), "host": platform.node(), **changes}


# The table


def test_a_row_says_what_was_asked_how_far_it_came_and_what_it_reached(folder):
    metrics = lines([3.0, None, 2.0], seconds=0.5, real_tokens=120, val_loss=1.9, mmlu_acc=0.3)
    keep(
        folder, "sft_d4", metrics, {"status": "finished"}, planned=3, device_batch_size=4, model_tag="", matrix_lr=0.02
    )
    (row,) = runs_table().to_dict("records")
    assert row == {
        "name": "sft_d4",
        "stage": "sft",
        "model_tag": "d4",
        "steps": 3,
        "planned": 3,
        "status": "finished",
        "first_loss": 3.0,
        "last_loss": 2.0,
        "val_loss": 1.9,
        "mmlu_acc": 0.3,
        "tokens_per_second": 240.0,
        "seconds": 1.5,
        "damaged": 0,
        "run": "sft_d4",
        "device_batch_size": 4,
        "matrix_lr": 0.02,
    }


def test_the_last_value_of_each_evaluation_is_taken_whenever_it_was_made(folder):
    metrics = '{"step": 0, "loss": 3.0, "seconds": 1, "val_loss": 2.5, "mmlu_acc": 0.2}\n'
    metrics += '{"step": 1, "loss": 2.0, "seconds": 1, "val_loss": 2.4}\n{"step": 2, "loss": 1.0, "seconds": 1}\n'
    keep(folder, "a", metrics, planned=9)
    (row,) = runs_table().to_dict("records")
    assert (row["val_loss"], row["mmlu_acc"], row["steps"], row["planned"]) == (2.4, 0.2, 3, 9)


def test_damaged_lines_and_files_are_skipped_and_counted(folder):
    keep(folder, "a", '{"step": 0, "loss": 3.0, "seconds": 1}\n{"step": 1, "lo\n[]\n\n', planned=9)
    (folder / "a" / "settings.json").write_text('{"stage": "sf')
    keep(folder, "b", "\x00\xff not metrics", planned=9)
    first, second = runs_table().to_dict("records")
    assert (first["steps"], first["damaged"], first["stage"]) == (1, 3, "")
    assert (second["steps"], second["damaged"]) == (0, 1) and pd.isna(second["last_loss"])


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"status": "stopped"}, "stopped"),
        ({"status": "failed"}, "failed"),
        (here(status="running"), "running"),
        (here(status="running", process_began=1.0), "failed"),  # another process has its number now
        (here(status="running", pid=2**22 + 1), "failed"),
        (here(status="running", host="elsewhere"), "unknown"),
        ({"status": "running", "host": platform.node()}, "failed"),
    ],
)
def test_a_run_whose_process_is_gone_without_a_word_has_failed(folder, status, expected):
    keep(folder, "a", lines([2.0]), status, planned=2)
    assert runs_table().status.tolist() == [expected]


def test_runs_of_before_settings_were_kept_are_there_with_what_is_known(folder):
    keep(folder, "old", lines([2.0, 1.0], val_loss=1.0))
    keep(folder, "broken", lines([2.0, 1.0]))
    table = runs_table()
    assert table.name.tolist() == ["old", "broken"] and table.status.tolist() == ["finished", "unknown"]
    assert table.planned.isna().all() and table.steps.tolist() == [2, 2]


def test_runs_inside_folders_are_named_by_their_path_and_trackers_own_files_are_passed_over(folder):
    keep(folder, "course/runs/mid_d4", lines([2.0]), planned=1)
    keep(folder, "course/runs/mid_d4/wandb/files", lines([2.0]), planned=1)
    keep(folder, "course/checkpoints/x", lines([2.0]), planned=1)
    assert runs_table().name.tolist() == ["course/runs/mid_d4"]
    assert runs_table(folder / "course" / "runs").name.tolist() == ["mid_d4"]


def test_settings_that_a_run_does_not_have_are_missing_in_its_row(folder):
    keep(folder, "base", lines([2.0]), planned=1, stage="base", depth=4)
    keep(folder, "sft", lines([2.0]), planned=1, batching="packed")
    table = runs_table()
    assert table.depth.tolist()[0] == 4 and table.depth.isna().tolist() == [False, True]
    assert table.batching.isna().tolist() == [True, False]


def test_without_runs_the_table_is_empty_and_a_folder_that_is_not_there_is_an_error(folder):
    assert runs_table().empty and "last_loss" in runs_table()
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        runs_table("nowhere")


def test_a_real_run_is_in_the_table(cache, folder):
    train_tokenizer(TokenizerConfig(data="toy", vocab_size=300, max_chars=50_000, max_words=50), say=str)
    small = {"depth": 1, "max_seq_len": 32, "device_batch_size": 2, "total_batch_size": 64, "eval_tokens": 64}
    for name, rate, stop in (("whole", 0.02, 3), ("half", 0.01, 2)):
        settings = {"data": "toy", "run": name, "num_iterations": 3, "matrix_lr": rate, "save": False}
        job = start(BaseConfig(**settings, **small), say=str)
        for report in run(job, say=str):
            if report.step + 1 == stop and stop < 3:
                break
    del job
    table = runs_table().set_index("name")
    assert table.loc[["whole", "half"], "status"].tolist() == ["finished", "stopped"]
    assert table.loc[["whole", "half"], "steps"].tolist() == [3, 2] and (table.planned == 3).all()
    assert table.matrix_lr.to_dict() == {"whole": 0.02, "half": 0.01} and (table.stage == "base").all()
    assert table.loc["whole", "val_loss"] < table.loc["whole", "first_loss"] and (table.tokens_per_second > 0).all()
    assert legend(compare(["whole", "half"]))[0].startswith("whole (matrix_lr=0.02): ")


# The command


def test_the_command_prints_the_table_and_with_settings_those_that_differ(folder, capsys):
    keep(folder, "bold", lines([2.0]), {"status": "finished"}, planned=1, matrix_lr=0.02, seed=42)
    keep(folder, "gentle", lines([1.5]), {"status": "stopped"}, planned=2, matrix_lr=0.01, seed=42)
    assert main(["runs"]) == 0
    head, bold, gentle = capsys.readouterr().out.splitlines()
    assert "matrix_lr" not in head and "damaged" not in head and "stopped" in gentle and bold.split()[0] == "bold"
    assert main(["runs", "--settings", f"--folder={folder}"]) == 0
    head, bold, gentle = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "matrix_lr" and bold.split()[-1] == "0.02" and gentle.split()[-1] == "0.01"
    assert main(["runs", "--folder=nowhere"]) == 1 and "no folder nowhere" in capsys.readouterr().err


def test_the_command_says_when_there_are_no_runs(capsys):
    assert main(["runs"]) == 0 and capsys.readouterr().out.startswith("No runs in ")


def test_the_table_needs_neither_torch_nor_matplotlib():
    code = "import sys, nanolab.runs; print(sorted({'torch', 'matplotlib', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# The picture


def legend(picture: Picture) -> list[str]:
    return [text.get_text() for text in picture.legends[0].get_texts()]


def test_the_legend_names_only_the_settings_that_differ(folder):
    keep(folder, "a", lines([2.0, 1.0]), planned=2, matrix_lr=0.02, seed=1, batching="packed", save=True)
    keep(folder, "b", lines([2.5, 1.5]), planned=2, matrix_lr=0.02, seed=2, batching="padded", save=False)
    picture = compare(["a", "b"], title="Two runs")
    assert legend(picture) == ["a (seed=1, batching=packed): 1", "b (seed=2, batching=padded): 1.5"]
    assert "Two runs: step across, loss nats a supervised token upwards" in picture.alt()


def test_equal_runs_are_named_by_their_names_and_those_without_settings_say_so(folder):
    keep(folder, "a", lines([2.0]), planned=1, seed=1)
    keep(folder, "b", lines([1.0]), planned=1, seed=1)
    assert legend(compare(["a", "b"])) == ["a: 2", "b: 1"]
    assert legend(compare([folder / "a", "b"])) == [f"{folder / 'a'}: 2", "b: 1"]
    assert differing({"a": {"lr": 1}, "b": {"lr": 2}, "c": {}})["c"] == "c (settings not kept)"


def test_of_runs_of_two_stages_the_common_settings_and_the_stage_are_named(folder):
    keep(folder, "a", lines([2.0]), planned=1, stage="base", depth=4, seed=1)
    keep(folder, "b", lines([1.0]), planned=1, stage="sft", batching="packed", seed=1)
    assert legend(compare(["a", "b"])) == ["a (stage=base): 2", "b (stage=sft): 1"]


def test_a_metric_measured_now_and_then_is_drawn_as_points_as_measured(folder):
    metrics = "".join(
        json.dumps(
            {"step": step, "loss": 1.0, "seconds": 1, **({"val_loss": 3 - step / 100} if step % 50 == 0 else {})}
        )
        + "\n"
        for step in range(200)
    )
    keep(folder, "a", metrics, planned=200)
    (line,) = compare(["a"], metric="val_loss").axes[0].lines
    assert line.get_xydata().tolist() == [[0, 3], [50, 2.5], [100, 2], [150, 1.5]] and line.get_marker() == "o"


def test_a_metric_that_one_run_lacks_is_said_and_one_that_none_has_is_an_error(folder):
    keep(folder, "a", lines([2.0], val_loss=1.5), planned=1, seed=1)
    keep(folder, "b", lines([1.0]), planned=1, seed=1)
    assert legend(compare(["a", "b"], metric="val_loss")) == ["a: 1.5", "b: no val_loss"]
    with pytest.raises(ValueError, match=r"no run has the metric 'val_los'. Did you mean val_loss\?"):
        compare(["a", "b"], metric="val_los")


def test_unknown_runs_and_a_single_name_are_errors_that_help(folder):
    keep(folder, "sft_d4", lines([2.0]), planned=1)
    with pytest.raises(ValueError, match=r"there is no run 'sft_d5' in .*Did you mean sft_d4\?"):
        compare(["sft_d5"])
    for wrong in ("sft_d4", []):
        with pytest.raises(ValueError, match="give a list of runs"):
            compare(wrong)


def test_a_run_read_back_has_a_row_a_step(folder):
    run_dir = keep(folder, "a", lines([2.0, None], val_loss=1.5) + "{half", planned=2)
    frame, damaged = read_run(run_dir)
    assert damaged == 1 and frame.step.tolist() == [0, 1, 2] and frame.loss.isna().tolist() == [False, True, True]
    with pytest.raises(FileNotFoundError, match=r"has no metrics.jsonl"):
        read_run(folder)


def test_many_points_are_thinned_to_the_lowest_and_highest_so_that_no_spike_is_lost():
    values = pd.Series(np.sin(np.arange(100_000) / 100))
    values[56_789] = 99.0
    values[3] = -99.0
    x, y = thinned(pd.Series(range(100_000)), values)
    assert len(x) <= pictures.MOST_POINTS and (np.diff(x) > 0).all()
    assert y.max() == 99 and y.min() == -99 and x[y.argmax()] == 56_789 and (values[x].to_numpy() == y).all()
    few = thinned(pd.Series([0, 5]), pd.Series([1.0, 2.0]))
    assert [part.tolist() for part in few] == [[0, 5], [1.0, 2.0]]


def test_a_thinned_picture_says_so_and_smooths_before_it_thins():
    frame = pd.DataFrame({"step": range(80_000), "loss": np.linspace(4, 2, 80_000)})
    (ax,) = run_curves({"a": frame}).axes
    pale, smoothed = ax.lines
    assert ax.get_xlabel() == "step (of 80,000; drawn are the lowest and the highest value of every 100)"
    assert len(pale.get_xdata()) <= pictures.MOST_POINTS and pale.get_alpha() == 0.3
    assert smoothed.get_ydata()[-1] == pytest.approx(pictures.smooth(frame.loss).iloc[-1])
    assert run_curves({"a": frame[:100]}).axes[0].get_xlabel() == "step"


def test_more_runs_than_colours_still_differ():
    frames = {f"run {k}": pd.DataFrame({"step": range(100), "loss": np.arange(100.0)}) for k in range(16)}
    strong = [line for line in run_curves(frames).axes[0].lines if line.get_alpha() is None]
    assert len({(line.get_color(), line.get_linestyle()) for line in strong}) == 16


@pytest.mark.parametrize("num_runs", [2, 3, 8])
def test_every_runs_colour_is_in_the_picture_of_few_colours_that_is_saved(num_runs):
    noise = np.random.default_rng(0).normal(0, 0.15, (num_runs, 30_000))
    falling = 2 * np.exp(-np.arange(30_000) / 10_000)
    frames = {
        f"run {k}": pd.DataFrame({"step": range(30_000), "loss": falling + k + noise[k]}) for k in range(num_runs)
    }
    picture = run_curves(frames)
    pixels = np.asarray(Image.open(BytesIO(picture.png())).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in pictures.SERIES[:num_runs]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(pixels - wanted).max(axis=1).min() <= 12, colour
    pale = [line for line in picture.axes[0].lines if line.get_alpha()]
    assert len(pale) == (num_runs if num_runs <= pictures.MOST_PALE else 0)


def test_a_long_legend_stays_inside_the_picture():
    frames = {f"run {k} ({'setting=value, ' * 20})": pd.DataFrame({"step": [0, 1], "loss": [2, 1]}) for k in range(3)}
    picture = run_curves(frames)
    picture.draw_without_rendering()
    place, page = picture.legends[0].get_window_extent(), picture.bbox
    assert place.x0 >= 0 and place.y0 >= 0 and place.x1 <= page.x1 and picture.axes[0].get_window_extent().height > 150


@pytest.mark.parametrize("module", [runs, pictures])
def test_the_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


def test_the_numbers_of_a_step_are_told_from_evaluations():
    assert OF_A_STEP | {"metrics"} == {field.name for field in fields(Report)}
