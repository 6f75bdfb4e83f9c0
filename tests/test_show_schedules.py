"""The picture of the schedules shows what the package's schedule functions say, for every step."""

import doctest

import pytest

from nanolab import show
from nanolab.optim import (
    MOMENTUM_END,
    MOMENTUM_START,
    MOMENTUM_STEPS,
    WARMDOWN_FROM,
    constant_then_linear,
    linear_to_zero,
    make_optimizers,
    muon_momentum,
)
from nanolab.show import palette, schedules
from nanolab.show.schedules import COLOURS, schedule_curves

NUM = 400  # steps, more than the ramp of the momentum has


def of_base(step):
    return constant_then_linear(step, NUM), muon_momentum(step)


def of_sft(step):
    return linear_to_zero(step, NUM), None


def panels(picture):
    """Each panel's lines as {label: (steps, values)}."""
    return [
        {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines} for ax in picture.axes
    ]


def test_every_step_of_both_schedules_is_drawn_as_the_package_computes_it():
    rates, momenta = panels(schedule_curves({"base": of_base, "SFT": of_sft}, NUM))
    steps = list(range(NUM))
    assert rates["base: 1.00 to 0.012"] == (steps, [constant_then_linear(step, NUM) for step in steps])
    assert rates["SFT: 1.00 to 0.002"] == (steps, [linear_to_zero(step, NUM) for step in steps])
    assert momenta["base: 0.85 to 0.950"] == (steps, [muon_momentum(step) for step in steps])


def test_the_lines_bend_where_the_constants_of_the_optimizer_say():
    rates, momenta = panels(schedule_curves({"base": of_base}, NUM))
    (_, multipliers), (_, momentum) = *rates.values(), *momenta.values()
    assert [step for step in range(NUM) if multipliers[step] < 1][0] == WARMDOWN_FROM * NUM + 1
    assert momentum[0] == MOMENTUM_START
    assert momentum.index(MOMENTUM_END) == MOMENTUM_STEPS


def test_a_momentum_that_is_left_alone_is_drawn_where_the_optimizer_has_it(tiny_model):
    _, momenta = panels(schedule_curves({"SFT": of_sft}, NUM))
    muon = make_optimizers(tiny_model, 0.004, 0.2, 0.02)[1]
    assert momenta == {"SFT: 0.95, left alone": (list(range(NUM)), [muon.param_groups[0]["momentum"]] * NUM)}


def test_runs_differ_in_colour_and_in_line_and_every_colour_stands_out_from_the_paper():
    runs = {str(number): of_base for number in range(len(COLOURS))}
    for ax in schedule_curves(runs, NUM).axes:
        assert len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 4
    assert all(palette.contrast(colour, palette.PAPER) >= 3 for colour in COLOURS)


def test_a_run_of_a_single_step_is_a_point_that_can_be_seen():
    (line,) = schedule_curves({"SFT": lambda step: (1.0, None)}, 1).axes[0].lines
    assert line.get_marker() == "o" and list(line.get_xdata()) == [0]


@pytest.mark.parametrize(
    ("runs", "num_iterations", "sentence"),
    [
        ({}, 10, "draws 1 to 4 schedules, got 0"),
        ({str(number): of_base for number in range(5)}, 10, "draws 1 to 4 schedules, got 5"),
        ({"base": of_base}, 0, "num_iterations must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(runs, num_iterations, sentence):
    with pytest.raises(ValueError, match=sentence):
        schedule_curves(runs, num_iterations)


def test_the_view_is_exported_and_its_example_runs():
    assert show.schedule_curves is schedule_curves and "schedule_curves" in show.__all__
    (example,) = doctest.DocTestFinder(recurse=False).find(schedule_curves, globs=vars(schedules))
    example.globs["linear_to_zero"] = linear_to_zero
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_picture_is_a_png_of_a_few_kilobytes():
    png = schedule_curves({"base": of_base, "SFT": of_sft}, NUM).png()
    assert png.startswith(b"\x89PNG") and len(png) < 40_000
