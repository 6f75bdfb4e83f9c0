"""Beside the line: all runs in one table, and some of them in one picture. They are read from their files only.

    runs_table()                                 -> one row a run: what was asked, how far it came, what it reached
    compare(["sft_d4", "sft_gentle"])            -> their losses; the legend names the settings that differ

See `trackers.py` for the files.
"""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import psutil

from nanolab.paths import cache_dir, shown
from nanolab.settings import RunsConfig, nearest
from nanolab.trackers import FAILED, FINISHED, METRICS, RUNNING, SETTINGS, STATUS, read_json, read_lines

if TYPE_CHECKING:
    from nanolab.show.figure import Picture

# What train.Report has; everything else in a line of metrics is an evaluation.
OF_A_STEP = {"step", "loss", "lr_multiplier", "muon_momentum", "num_tokens", "real_tokens", "slots", "seconds"}
OF_A_STEP |= {"micro_batches", "num_conversations", "left_out", "grad_norm", "imbalance", "pairs", "mfu"}
NO_RUNS_INSIDE = {"checkpoints", "tokenizer", "replies", "tensorboard", "wandb", "launch"}
UNKNOWN = "unknown"
NAMES_ONLY = {"run", "resume", "report_to", "save", "save_every", "keep_last"}  # settings that change no number
KEY_COLUMNS = ["name", "stage", "model_tag", "steps", "planned", "status", "first_loss", "last_loss"]
SAME_START = 1.0  # seconds by which two accounts of a process's start may differ


def runs_table(folder: str | Path | None = None) -> pd.DataFrame:
    """One row for each run under a folder (`<cache>/runs`), the newest last: results first, then its settings.

    `name` is the run's folder, from `folder` on. `steps` of `planned` were done; `status` is "finished", "stopped",
    "failed" (its process may have been killed), "running", or "unknown" where nobody can tell. `first_loss` and
    `last_loss` in nats a supervised token; then the last value of each evaluation; `tokens_per_second` and `seconds` of
    training steps only, real tokens, no padding; `damaged` counts lines and files that could not be read and were left
    out. A setting that a run does not have is missing there (NaN). Raises FileNotFoundError for a folder that is not
    there.

    >>> runs_table()[["name", "status", "last_loss"]]                                    # doctest: +SKIP
    """
    root = _root(folder)
    rows = [_row(root, run_dir) for run_dir in _run_dirs(root)]
    results = list(dict.fromkeys([*KEY_COLUMNS, *(name for row, _ in rows for name in row)]))
    rates = [name for name in ("tokens_per_second", "seconds", "damaged") if name in results]
    results = [name for name in results if name not in rates] + rates
    settings = dict.fromkeys(name for _, asked in rows for name in asked if name not in results)
    table = pd.DataFrame([{**asked, **row} for row, asked in rows], columns=[*results, *settings])
    return table.astype({"steps": "Int64", "planned": "Int64"})


def read_run(run_dir: Path) -> tuple[pd.DataFrame, int]:
    """A run's metrics.jsonl as a table, one row a step, and how many damaged lines were left out.

    The evaluation after the last step is a row without a loss. Raises FileNotFoundError.
    """
    if not (run_dir / METRICS).exists():
        raise FileNotFoundError(f"{shown(run_dir)} has no {METRICS}.")
    lines, damaged = read_lines(run_dir / METRICS)
    frame = pd.DataFrame(lines)
    return frame.reindex(columns=list(dict.fromkeys(["step", "loss", *frame.columns]))), damaged


def compare(
    runs: Sequence[str | Path], metric: str = "loss", folder: str | Path | None = None, title: str | None = None
) -> "Picture":
    """Draw a metric of several runs over their steps in one picture; the legend names only the settings that differ.

    `runs`: names as `runs_table(folder)` has them, or folders. A metric of every step is smoothed over its own pale
    line; one that is measured now and then is drawn as measured. Of more steps than fit into the picture the lowest
    and the highest of each stretch are drawn, which the picture says. Raises ValueError for an unknown run, or a metric
    that no run has.

    >>> compare(["sft_d4", "sft_gentle"], metric="val_loss")                             # doctest: +SKIP
    """
    from nanolab.show.runs import run_curves

    if isinstance(runs, str | Path) or not len(runs):
        raise ValueError("compare: give a list of runs, compare(['sft_d4', 'sft_gentle']).")
    places = {str(run): _find(run, folder) for run in dict.fromkeys(runs)}
    frames = {name: read_run(place)[0] for name, place in places.items()}
    known = sorted({name for frame in frames.values() for name in frame.columns} - {"step"})
    if metric not in known:
        raise ValueError(f"compare: no run has the metric {metric!r}.{nearest(metric, known)}")
    labels = differing({name: _asked(place) for name, place in places.items()})
    named = {labels[name]: frame.reindex(columns=["step", metric]) for name, frame in frames.items()}
    return run_curves(named, metric, title)


def differing(settings: dict[str, dict]) -> dict[str, str]:
    """Run -> its name and those of its settings that another run has otherwise: the legend of a comparison.

    What only some runs can have (SFT's settings beside base training's) is not named.

    >>> differing({"a": {"lr": 0.2, "depth": 4}, "b": {"lr": 0.1, "depth": 4}})
    {'a': 'a (lr=0.2)', 'b': 'b (lr=0.1)'}
    """
    given = [asked for asked in settings.values() if asked]
    common = [name for name in given[0] if all(name in asked for asked in given)] if given else []
    differ = [name for name in common if name not in NAMES_ONLY and len({repr(asked[name]) for asked in given}) > 1]
    labels = {}
    for run, asked in settings.items():
        words = ", ".join(f"{name}={_short(asked[name])}" for name in differ if name in asked)
        labels[run] = f"{run} ({words})" if words else run if asked or not differ else f"{run} (settings not kept)"
    return labels


def print_table(config: RunsConfig) -> None:
    """What `nanolab runs` does. Raises FileNotFoundError for a folder that is not there."""
    table = runs_table(config.folder or None)
    if table.empty:
        print(f"No runs in {shown(_root(config.folder or None))}.")
        return
    columns = list(table.columns[: list(table.columns).index("damaged") + 1])
    if not table.damaged.any():
        columns.remove("damaged")
    if config.settings:
        asked = [name for name in table.columns if name not in columns and name not in (*NAMES_ONLY, "damaged")]
        columns += [name for name in asked if table[name].map(repr).nunique() > 1]
    shown_as = {"tokens_per_second": "{:,.0f}", "seconds": "{:,.1f}"}
    formats = {name: shown_as.get(name, "{:.4g}").format for name in columns}
    floats = {name: form for name, form in formats.items() if pd.api.types.is_float_dtype(table[name])}
    print(table[columns].to_string(index=False, na_rep="", formatters=floats))


def _root(folder: str | Path | None) -> Path:
    root = Path(folder) if folder is not None else cache_dir() / "runs"
    if folder is not None and not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    return root


def _run_dirs(root: Path) -> list[Path]:
    """Folders with a run's files, by when their metrics were last written."""
    found = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NO_RUNS_INSIDE]
        if METRICS in files or SETTINGS in files:
            found.append(Path(place))
    return sorted(found, key=lambda run_dir: (_written(run_dir), str(run_dir)))


def _written(run_dir: Path) -> float:
    return max((run_dir / name).stat().st_mtime for name in (METRICS, SETTINGS) if (run_dir / name).exists())


def _row(root: Path, run_dir: Path) -> tuple[dict, dict]:
    """A run's results and its settings."""
    kept, status = read_json(run_dir / SETTINGS), read_json(run_dir / STATUS)
    lines, damaged = read_lines(run_dir / METRICS)
    damaged += sum((run_dir / name).exists() and not read_json(run_dir / name) for name in (SETTINGS, STATUS))
    steps = [line for line in lines if "seconds" in line]  # without the evaluation after the last
    losses = [line["loss"] for line in steps if line.get("loss") is not None]
    seconds = sum(line["seconds"] for line in steps)
    done = steps[-1]["step"] + 1 if steps else 0
    row = {
        "name": run_dir.relative_to(root).as_posix(),
        "stage": kept.get("stage", ""),
        "model_tag": kept.get("model_tag", ""),
        "steps": done,
        "planned": kept.get("num_iterations", pd.NA),
        "status": _status(status, lines),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        **_last_evaluations(lines),
        "tokens_per_second": sum(line.get("real_tokens", 0) for line in steps) / seconds if seconds else None,
        "seconds": seconds,
        "damaged": damaged,
    }
    return row, kept.get("settings") if isinstance(kept.get("settings"), dict) else {}


def _last_evaluations(lines: list[dict]) -> dict[str, float]:
    found = {}
    for line in lines:
        found |= {name: value for name, value in line.items() if name not in OF_A_STEP and value is not None}
    return found


def _status(status: dict, lines: list[dict]) -> str:
    if not status:  # of before runs kept a status: a line without seconds is the evaluation after the last step
        return FINISHED if lines and "seconds" not in lines[-1] else UNKNOWN
    if status.get("status") != RUNNING:
        return str(status.get("status", UNKNOWN))
    if status.get("host") != platform.node():
        return UNKNOWN
    return RUNNING if _alive(status) else FAILED


def _alive(status: dict) -> bool:
    """Whether the very process that wrote the status is there: numbers of processes are given out again."""
    try:
        return abs(psutil.Process(status["pid"]).create_time() - status["process_began"]) < SAME_START
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _asked(run_dir: Path) -> dict:
    """A run's settings, with what was resolved from them; {} where they were not kept."""
    kept = read_json(run_dir / SETTINGS)
    asked = kept.pop("settings", {})
    return {"stage": kept.get("stage"), **asked, **kept} if kept and isinstance(asked, dict) else {}


def _find(run: str | Path, folder: str | Path | None) -> Path:
    for place in (_root(folder) / run, Path(run)):
        if (place / METRICS).exists():
            return place
    root = _root(folder)
    names = [run_dir.relative_to(root).as_posix() for run_dir in _run_dirs(root)]
    there = nearest(str(run), names) if names else " There are none."
    raise ValueError(f"compare: there is no run {str(run)!r} in {shown(root)}.{there}")


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else Path(value).name if os.sep in str(value) else str(value)
