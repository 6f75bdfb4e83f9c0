"""Beside the line: runs that differ in one thing only, for notebook 12.

    assistant_only   what the reply is made of             the masking of chat training
    all_tokens       everything that comes next            the user's words and the frame too
    wrong_bits       the mask moved one to the right       the first token of a reply is never a target
    own_token        the targets not moved at all          "say again what you have just read"

A rule makes the targets of one conversation; `ChangedTargets` lays out a StepDataset's steps with the targets of a
rule, everything else being equal: conversations, order, layout, inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean, stdev

import pandas as pd
import torch
from torch.utils.data import Dataset

from nanolab.batch import IGNORE_INDEX, Row, Step, StepDataset, shift
from nanolab.gpt import GPT
from nanolab.jobs import Job, run
from nanolab.render import render_for_completion
from nanolab.tokenizer import Tokenizer

Rule = Callable[[Sequence[int], Sequence[int]], list[int]]  # (ids, mask) -> targets of the inputs ids[:-1]


def assistant_only(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """The targets of chat training: the next id where its mask is 1.

    >>> assistant_only([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    [-1, -1, -1, -1, 2, 7]
    """
    return shift(ids, mask)[1]


def all_tokens(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """Every next id is a target, whoever says it; the mask is not looked at.

    >>> all_tokens([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    [4, 1, 5, 6, 2, 7]
    """
    return list(ids[1:])


def wrong_bits(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """A mistake: the next id where the mask of the input, not its own, is 1 (notebook 05, section 4).

    >>> wrong_bits([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    [-1, -1, -1, -1, -1, 7]
    """
    return [token if bit else IGNORE_INDEX for token, bit in zip(ids[1:], mask[:-1], strict=True)]


def own_token(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """A mistake: the id at the position itself where its mask is 1, as if nobody had moved the targets.

    >>> own_token([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])
    [-1, -1, -1, -1, -1, 2]
    """
    return [token if bit else IGNORE_INDEX for token, bit in zip(ids[:-1], mask[:-1], strict=True)]


class ChangedTargets(StepDataset):
    """The steps of a StepDataset with the targets of a rule: same conversations, order, layout and inputs.

    Raises ValueError where the rule does not give one target an input.

    >>> job.steps = ChangedTargets(job.steps, all_tokens)      # before run(job)      # doctest: +SKIP
    """

    def __init__(self, steps: StepDataset, rule: Rule):
        super().__init__(
            steps.mixture,
            steps.tokenizer,
            steps.num_examples,
            steps.device_batch_size,
            steps.max_data_tokens,
            steps.overlong,
            steps.batching,
            device_batch_tokens=steps.device_batch_tokens,
            static_shapes=steps.static_shapes,
            on_bad_row=steps.on_bad_row,
        )
        self.rule = rule

    def __getitem__(self, step: int) -> Step:
        rows, left_out, names = self._rows(step)
        laid = self._plan_of(rows)
        changed = [_with_targets(ids, self.rule(ids, mask)) for ids, mask in rows]
        pairs = zip(self._batches_of(laid, rows), self._batches_of(laid, changed), strict=True)
        batches = [replace(own, targets=other.targets, num_tokens=other.num_tokens) for own, other in pairs]
        return Step(batches, len(rows), left_out, names)


def _with_targets(ids: Sequence[int], targets: Sequence[int]) -> Row:
    """A row of the same length whose `shift` has these targets; its inputs are of no use."""
    if len(targets) != len(ids) - 1:
        raise ValueError(f"A rule must give one target an input: {len(ids) - 1}, got {len(targets)}.")
    bits = [int(target != IGNORE_INDEX) for target in targets]
    return [0, *(target if bit else 0 for target, bit in zip(targets, bits, strict=True))], [0, *bits]


class LaterSteps(Dataset):
    """The steps of a data set from step `first` on: item s is steps[first + s]. The same run, on other rows.

    >>> LaterSteps([10, 11, 12], first=1)[0]
    11
    """

    def __init__(self, steps: Dataset, first: int):
        if first < 0:
            raise ValueError(f"Steps count from 0, got first={first}.")
        self.steps, self.first = steps, first

    def __getitem__(self, step: int) -> Step:
        return self.steps[self.first + step]


def right_targets(rule: Rule, rows: Sequence[Row]) -> tuple[int, int]:
    """(targets a rule gives in these conversations, how many of them are those of chat training).

    >>> right_targets(all_tokens, [([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])])
    (6, 2)
    """
    given = right = 0
    for ids, mask in rows:
        for target, true in zip(rule(ids, mask), assistant_only(ids, mask), strict=True):
            given += target != IGNORE_INDEX
            right += target == true != IGNORE_INDEX
    return given, right


def share_of_assistant(rows: Sequence[Row]) -> float:
    """The share, 0 ... 1, of all next tokens that the assistant says: what all-token targets spend on replies.

    Raises ValueError if there is no next token.

    >>> round(share_of_assistant([([3, 4, 1, 5, 6, 2, 7], [0, 0, 0, 0, 0, 1, 1])]), 3)
    0.333
    """
    given, right = right_targets(all_tokens, rows)
    if given == 0:
        raise ValueError("These conversations have no next token to predict: there is no share.")
    return right / given


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The mean of a[k] - b[k] and its standard error, where a[k] and b[k] were measured on the same rows.

    What the rows do to both is gone from the difference, so it is known better than either mean. Raises ValueError for
    lists of different lengths, or of fewer than two.

    >>> paired_difference([3.0, 5.0], [2.0, 4.0])
    (1.0, 0.0)
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"Pairs need two lists of the same length, 2 or more; these have {len(a)} and {len(b)}.")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return mean(differences), stdev(differences) / len(differences) ** 0.5


def first_difference(a: Sequence[float], b: Sequence[float]) -> int | None:
    """The first step at which two runs' losses are not the same number; None if all of them are.

    Raises ValueError for runs of different lengths.

    >>> first_difference([6.9, 5.0, 4.0], [6.9, 5.0, 4.000001])
    2
    """
    if len(a) != len(b):
        raise ValueError(f"The runs have {len(a)} and {len(b)} steps: compare runs of the same length.")
    return next((step for step, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)


@torch.inference_mode()
def probability_of_letters(model: GPT, tokenizer: Tokenizer, conversations: Sequence[dict]) -> float:
    """The probability, 0 ... 1, that a multiple-choice reply begins with one of its row's letters, right or wrong.

    The mean over the conversations. It says whether a model has learned the form of such a reply, which comparing the
    letters with each other (as `evaluate` does) cannot. Raises ValueError without any conversation.

    >>> probability_of_letters(model, tokenizer, [ARC("ARC-Easy", "test", data="toy")[0]])      # doctest: +SKIP
    0.97
    """
    if not conversations:
        raise ValueError("There are no conversations to ask the model about.")
    model.eval()
    shares = []
    for conversation in conversations:
        prompt = torch.tensor([render_for_completion(conversation, tokenizer)], device=model.device)  # (1, T)
        probabilities = model.logits(model.hidden(prompt)[0, -1]).softmax(-1)  # (V,)
        letter_ids = [tokenizer.encode(letter)[0] for letter in conversation["letters"]]
        shares.append(float(probabilities[letter_ids].sum()))
    return mean(shares)


def train_quietly(job: Job) -> pd.DataFrame:
    """Run a job without a word; one row a step: step, loss (nats a target), num_tokens, and `val_loss` where measured.

    The validation loss after the last step is in `job.metrics`.
    """
    reports = run(job, say=lambda line: None)
    return pd.DataFrame(
        {"step": report.step, "loss": report.loss, "num_tokens": report.num_tokens, **report.metrics}
        for report in reports
    )


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    """All weights as one flat vector, a copy: two runs are equal to the bit if `torch.equal` says so of theirs.

    >>> weights_of(torch.nn.Linear(2, 1)).shape
    torch.Size([3])
    """
    return torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])
