"""What training changed: accuracies per task and stage, with bars and the chance level."""

from html import escape

from IPython.display import HTML

from nanolab.show.page import legend, view

TABLE = """
.nl-view .nl-results{border-collapse:collapse;table-layout:auto;margin:0}
.nl-view .nl-results tr{background:none!important}
.nl-view .nl-results td,.nl-view .nl-results th{padding:5px 12px;text-align:left;
  background:none;color:inherit;border:0;border-bottom:1px solid rgba(128,128,128,.35);font-size:13px;
  white-space:nowrap}
.nl-bar{position:relative;width:110px;height:9px;margin-top:3px;border-radius:2px;
  background:rgba(128,128,128,.25)}
.nl-fill{position:absolute;left:0;top:0;bottom:0;background:var(--nl-bar);border-radius:2px}
.nl-chance{position:absolute;top:-3px;bottom:-3px;width:0;border-left:2px solid currentColor}
.nl-key{display:inline-block;height:14px;border-left:2px solid currentColor;vertical-align:-2px;
  margin-right:5px}
"""


def before_after_table(
    results: dict[str, dict[str, float]], chance: dict[str, float] | None = None, title: str | None = None
) -> HTML:
    """Draw accuracies (0 to 1) by task and stage as numbers and bars, chance as a mark, and the change.

    `results` is stage -> task -> accuracy, in order of training; the last column is the last stage minus
    the first, in percentage points. `chance` is task -> the accuracy of guessing. Raises ValueError outside
    0 to 1.

    >>> before_after_table({"mid": {"ARC-Easy": 0.28}, "sft": {"ARC-Easy": 0.35}}, chance={"ARC-Easy": 0.25})
    """
    chance, stages = chance or {}, list(results)
    tasks = list(dict.fromkeys(task for by_task in results.values() for task in by_task))
    heads = "".join(f"<th>{escape(head)}</th>" for head in ["task", *stages, "change"])
    body = "".join(_row(task, [results[stage].get(task) for stage in stages], chance.get(task)) for task in tasks)
    key = legend('<span class="nl-key"></span>chance: the accuracy of guessing', "– not measured")
    return view(f'{key}<table class="nl-results"><tr>{heads}</tr>{body}</table>', title, TABLE)


def _row(task: str, accuracies: list[float | None], chance: float | None) -> str:
    cells = "".join(f"<td>{_cell(task, accuracy, chance)}</td>" for accuracy in accuracies)
    return f"<tr><th>{escape(task)}</th>{cells}<td>{_change(accuracies)}</td></tr>"


def _cell(task: str, accuracy: float | None, chance: float | None) -> str:
    if accuracy is None:
        return "–"
    if not 0 <= accuracy <= 1:
        raise ValueError(f"before_after_table: {task} has the accuracy {accuracy}; it must lie between 0 and 1")
    mark = "" if chance is None else f'<span class="nl-chance" style="left:{chance:.1%}"></span>'
    about = "" if chance is None else f" (chance {chance:.1%})"
    fill = f'<span class="nl-fill" style="width:{accuracy:.1%}"></span>'
    return f'{100 * accuracy:.1f} %<div class="nl-bar" title="{accuracy:.1%}{about}">{fill}{mark}</div>'


def _change(accuracies: list[float | None]) -> str:
    first, last = accuracies[0], accuracies[-1]
    if len(accuracies) < 2 or first is None or last is None:
        return "–"
    return f"{100 * (last - first):+.1f} points".replace("-", "−")
