"""What a run does to its learning rates and to Muon's momentum, step by step, before it is run."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanolab.optim import MOMENTUM_END, MOMENTUM_START
from nanolab.show.curves import STYLES
from nanolab.show.figure import Picture, tidy
from nanolab.show.palette import BLUE, GREEN, PURPLE, VERMILLION
from nanolab.train import Schedule

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)  # those with a contrast of 3 or more to the paper


def schedule_curves(schedules: Mapping[str, Schedule], num_iterations: int) -> Figure:
    """Draw each run's learning-rate multiplier and Muon's momentum over its steps 0 ... num_iterations - 1.

    A schedule is what `train` takes, such as `job.schedule`: step -> (multiplier, momentum). A momentum of None is
    drawn where `make_optimizers` has left it. Raises ValueError without a run or a step, or for more than four runs.

    >>> schedule_curves({"SFT": lambda step: (linear_to_zero(step, 100), None)}, 100)
    <Picture size 810x261 with 2 Axes>
    """
    if not 1 <= len(schedules) <= len(COLOURS):
        raise ValueError(f"schedule_curves draws 1 to {len(COLOURS)} schedules, got {len(schedules)}.")
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be 1 or more, got {num_iterations}.")
    picture = Picture(height=2.7 + 0.2 * len(schedules))
    rates, momenta = picture.subplots(1, 2)
    for index, (name, schedule) in enumerate(schedules.items()):
        pairs = [schedule(step) for step in range(num_iterations)]
        style = {"color": COLOURS[index], "ls": STYLES[index], "marker": "o" if num_iterations == 1 else ""}
        _draw(rates, [multiplier for multiplier, _ in pairs], name, style)
        _draw(momenta, [momentum for _, momentum in pairs], name, style)
    tidy(rates, "Learning rates, times their first value").set(ylim=(0, 1.08))
    tidy(momenta, "Muon's momentum").set(ylim=(MOMENTUM_START - 0.01, MOMENTUM_END + 0.01))
    for ax in (rates, momenta):
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False, fontsize=9, handlelength=3, loc="upper left", bbox_to_anchor=(0, -0.22))
    return picture


def _draw(ax: Axes, values: list[float | None], name: str, style: dict) -> None:
    """One line over the steps, with its first and last value in the legend."""
    if None in values:
        ax.plot([MOMENTUM_END if value is None else value for value in values], lw=1.5, **style)
        ax.lines[-1].set_label(f"{name}: {MOMENTUM_END:.2f}, left alone")
        return
    ax.plot(values, lw=2, label=f"{name}: {values[0]:.2f} to {values[-1]:.3f}", **style)
