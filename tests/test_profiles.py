"""The profiles of notebook 15 name what it has, can be started, and fit the machines that they are for."""

import nbformat
import pytest
import yaml

from nanolab.course import NOTEBOOKS
from nanolab.forecast import HEADROOM, GiB, largest_load, num_weights
from nanolab.full_run import CARDS, FullRun
from nanolab.gpt import GPTConfig
from nanolab.memory import estimate_memory
from nanolab.settings import REAL_VOCAB_SIZE, TOY_VOCAB_SIZE, check_settings

PROFILES = {path.stem: path for path in sorted((NOTEBOOKS / "profiles").glob("*.yaml"))}
NAMES = ["gpu24gb", "gpu80gb", "h100x8", "laptop", "quick", "several_machines"]
# What there is where no card is named: the smallest machine that CI gives out, a laptop of 8 GiB with a browser open.
WITHOUT_CARD = {"quick": 4.0, "laptop": 4.0}


def parameters_of_the_notebook() -> dict:
    cells = nbformat.read(NOTEBOOKS / "15_full_run.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, {"__builtins__": {}}, values)
    return values


@pytest.fixture(params=PROFILES)
def profile(request):
    """A profile's name, what it says, and the run that comes of it."""
    said = yaml.safe_load(PROFILES[request.param].read_text(encoding="utf-8"))
    return request.param, said, FullRun.of({**parameters_of_the_notebook(), **said})


def test_there_are_profiles_for_all_kinds_of_machines():
    assert list(PROFILES) == NAMES


def test_the_parameters_of_the_notebook_are_those_of_a_full_run_with_the_same_defaults():
    assert parameters_of_the_notebook() == vars(FullRun())


def test_a_profile_names_only_parameters_that_the_notebook_has_and_gives_them_values_of_their_kind(profile):
    _, said, _ = profile
    there = parameters_of_the_notebook()
    assert set(said) <= set(there)
    kinds = {name: (type(value), type(there[name])) for name, value in said.items()}
    assert {name: pair for name, pair in kinds.items() if pair[0] is not pair[1] and pair != (int, float)} == {}


def test_the_settings_of_every_stage_of_a_profile_can_be_started(profile):
    for stage in profile[2].names:
        check_settings(profile[2].config(stage))


def test_ranks_share_a_profiles_step_in_equal_whole_micro_batches(profile):
    full = profile[2]
    assert full.total_batch_size % (full.device_batch_size * full.max_seq_len * full.ranks) == 0
    assert full.target_examples_per_step >= full.ranks


def test_every_stage_of_a_profile_fits_into_the_card_that_it_names(profile):
    name, _, full = profile
    shape = GPTConfig.from_depth(full.depth, TOY_VOCAB_SIZE if full.data == "toy" else REAL_VOCAB_SIZE)
    on_card = bool(full.card)
    how = {"dtype": "bfloat16", "device_type": "cuda"} if on_card else {"dtype": "float32", "device_type": "cpu"}
    there = HEADROOM * CARDS[full.card] if on_card else WITHOUT_CARD[name] / full.nproc
    for stage in full.names:
        needed = estimate_memory(shape, largest_load(full, stage), **how).total / GiB
        assert needed <= there, f"{stage}: {needed:.1f} GiB of {there:.1f}"
        if on_card and stage == "base":
            twice = FullRun.of({**vars(full), "device_batch_size": 2 * full.device_batch_size})
            assert estimate_memory(shape, largest_load(twice, stage), **how).total / GiB > there, "it could be larger"


def test_the_profile_of_eight_gpus_is_nanochats_speedrun(profile):
    name, _, full = profile
    if name == "h100x8":
        assert (full.depth, full.max_seq_len, full.total_batch_size) == (20, 2048, 524_288)
        assert (full.target_examples_per_step, full.init_lr_frac, full.eval_tokens) == (32, 0.02, 20 * 524_288)
        assert 20 * num_weights(GPTConfig.from_depth(20, REAL_VOCAB_SIZE)) // full.total_batch_size == 21_400


def test_a_profile_says_what_was_not_measured(profile):
    name, _, full = profile
    text = PROFILES[name].read_text(encoding="utf-8")
    assert f"-f notebooks/profiles/{name}.yaml" in text
    if full.device_type != "cpu":
        assert "not measured" in text.lower()
