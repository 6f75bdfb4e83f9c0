"""Notebook 12: its runs differ in one thing only, and its exercises accept right answers and refuse wrong ones."""

import math
from statistics import mean, pstdev, stdev

import pytest
import torch

from nanolab import experiments
from nanolab.batch import IGNORE_INDEX, StepDataset, shift
from nanolab.exercises import does_it_matter as checks
from nanolab.experiments import ChangedTargets, LaterSteps
from nanolab.tasks import ARC, sft_mixture

RULES = (experiments.assistant_only, experiments.all_tokens, experiments.wrong_bits, experiments.own_token)
IDS, MASK = [3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1]


@pytest.fixture(params=["padded", "bucketed", "packed"])
def steps(request, small_tokenizer) -> StepDataset:
    return StepDataset(sft_mixture(data="toy"), small_tokenizer, 6, 2, batching=request.param, device_batch_tokens=512)


def test_rules_by_hand():
    assert [rule(IDS, MASK) for rule in RULES] == [
        [-1, -1, -1, -1, 2, 7],
        [4, 1, 5, 6, 2, 7],
        [-1, -1, -1, -1, -1, 7],
        [-1, -1, -1, -1, -1, 2],
    ]


def test_the_rule_of_chat_training_changes_nothing(steps):
    changed = ChangedTargets(steps, experiments.assistant_only)
    for ours, theirs in zip(changed[3].batches, steps[3].batches, strict=True):
        assert torch.equal(ours.targets, theirs.targets) and ours.num_tokens == theirs.num_tokens


@pytest.mark.parametrize("rule", RULES[1:])
def test_another_rule_changes_the_targets_and_nothing_else(steps, rule):
    changed, true = ChangedTargets(steps, rule)[3], steps[3]
    assert changed.rows == true.rows and changed.num_conversations == 6
    for ours, theirs in zip(changed.batches, true.batches, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs) and ours.real_tokens == theirs.real_tokens
        assert not torch.equal(ours.targets, theirs.targets)
        assert ours.num_tokens == int((ours.targets != IGNORE_INDEX).sum())
        if theirs.borders is not None:
            assert torch.equal(ours.borders, theirs.borders)


def test_static_rows_have_tables_as_the_compiler_was_warmed_up_for(small_tokenizer):
    how = {"batching": "packed", "device_batch_tokens": 1024, "static_shapes": True}
    steps = StepDataset(sft_mixture(data="toy"), small_tokenizer, 6, **how)
    changed = ChangedTargets(steps, experiments.all_tokens)
    tables = [len(batch.borders) for batch in changed[0].batches]
    assert tables == [len(batch.borders) for batch in steps[0].batches] and set(tables) == {6 + 2}


def test_all_tokens_makes_every_real_slot_a_target_and_no_padding(steps):
    changed = ChangedTargets(steps, experiments.all_tokens)[0]
    assert changed.num_tokens == changed.real_tokens


def test_own_token_repeats_the_input(steps):
    for batch in ChangedTargets(steps, experiments.own_token)[0].batches:
        learned = batch.targets != IGNORE_INDEX
        assert learned.any() and torch.equal(batch.targets[learned], batch.inputs[learned])


def test_a_rule_of_another_length_is_refused(steps):
    with pytest.raises(ValueError, match="one target an input"):
        ChangedTargets(steps, lambda ids, mask: list(ids))[0]


def test_later_steps_are_the_same_steps_moved():
    assert LaterSteps([10, 11, 12], 1)[1] == 12
    with pytest.raises(ValueError, match="count from 0"):
        LaterSteps([10], -1)


def test_right_targets_are_counted():
    assert [experiments.right_targets(rule, [(IDS, MASK)]) for rule in RULES] == [(2, 2), (6, 2), (1, 1), (1, 0)]


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no next token"):
        experiments.share_of_assistant([([3], [0])])


def test_pairs_of_unequal_runs_are_refused():
    with pytest.raises(ValueError, match="same length"):
        experiments.paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="same length"):
        experiments.first_difference([1.0, 2.0], [1.0])


def test_a_model_of_equal_logits_gives_the_letters_their_share_of_the_vocabulary(small_tokenizer, tiny_model):
    torch.nn.init.zeros_(tiny_model.lm_head.weight)
    row = ARC("ARC-Easy", "test", data="toy")[0]
    share = experiments.probability_of_letters(tiny_model, small_tokenizer, [row, row])
    assert share == pytest.approx(len(row["letters"]) / small_tokenizer.vocab_size, rel=1e-4)
    with pytest.raises(ValueError, match="no conversations"):
        experiments.probability_of_letters(tiny_model, small_tokenizer, [])


def test_weights_are_copied():
    model = torch.nn.Linear(2, 1)
    before = experiments.weights_of(model)
    torch.nn.init.zeros_(model.weight)
    assert before.shape == (3,) and not torch.equal(before, experiments.weights_of(model))


def test_the_packages_answers_are_accepted(capsys):
    checks.check_without_end(checks.without_end)
    checks.check_share(experiments.share_of_assistant)
    checks.check_paired(experiments.paired_difference)
    checks.check_order_matters((1.1, 2.2, 3.3))
    checks.check_first_difference(experiments.first_difference)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_folded_solutions_are_accepted():
    def my_rule(ids, mask, end):
        targets = []
        for position in range(len(ids) - 1):
            said, bit = ids[position + 1], mask[position + 1]
            targets.append(said if bit and said != end else -1)
        return targets

    def my_paired(a, b):
        differences = [x - y for x, y in zip(a, b, strict=True)]
        middle = sum(differences) / len(differences)
        variance = sum((d - middle) ** 2 for d in differences) / (len(differences) - 1)
        return middle, (variance / len(differences)) ** 0.5

    def my_first_difference(a, b):
        for step in range(len(a)):
            if a[step] != b[step]:
                return step
        return None

    checks.check_without_end(my_rule)
    checks.check_share(lambda rows: sum(sum(mask[1:]) for _, mask in rows) / sum(len(ids) - 1 for ids, _ in rows))
    checks.check_paired(my_paired)
    checks.check_first_difference(my_first_difference)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ids, mask, end: shift(ids, mask)[1], "still a target"),
        (lambda ids, mask, end: [-1 if i == end else i for i in ids[1:]], "expected"),
        (lambda ids, mask, end: shift(ids, mask)[1][:-1], "one target an input"),
        (lambda ids, mask, end: [-1] * (len(ids) - 1), "expected"),
    ],
)
def test_wrong_rules_are_refused(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_without_end(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: sum(sum(mask) for _, mask in rows) / sum(len(ids) for ids, _ in rows),
        lambda rows: mean(sum(mask[1:]) / (len(ids) - 1) for ids, mask in rows),
        lambda rows: 1 - experiments.share_of_assistant(rows),
    ],
)
def test_wrong_shares_are_refused(wrong):
    with pytest.raises(AssertionError, match="divide"):
        checks.check_share(wrong)


def differences(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda a, b: (mean(a) - mean(b), math.hypot(stdev(a), stdev(b)) / len(a) ** 0.5), "pairs first"),
        (lambda a, b: (mean(a) - mean(b), pstdev(differences(a, b)) / len(a) ** 0.5), "n - 1"),
        (lambda a, b: (mean(a) - mean(b), stdev(differences(a, b))), "root of n"),
        (lambda a, b: (mean(b) - mean(a), 0.0), "mean of a - b"),
    ],
)
def test_wrong_pairs_are_refused(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_paired(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((1.0, 2.0, 3.0), "Both sums"),
        ((1e8, -1e8, 1.0), "None may be above 10"),
        ((float("nan"), 1.0, 2.0), "None may be"),
        ((1.0, 2.0), "Three numbers"),
    ],
)
def test_numbers_that_add_up_alike_are_refused(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_order_matters(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: next((s for s in range(len(a)) if abs(a[s] - b[s]) > 1e-6), None),  # a tolerance
        lambda a, b: next((s for s in range(len(a)) if a[s] != b[s]), len(a)),  # a number where there is none
        lambda a, b: next((s + 1 for s in range(len(a)) if a[s] != b[s]), None),  # counted from 1
        lambda a, b: next((s for s in range(len(a)) if a[s] != b[s]), False),
    ],
)
def test_wrong_first_differences_are_refused(wrong):
    with pytest.raises(AssertionError, match="equal to the bit|Equal to the bit"):
        checks.check_first_difference(wrong)
