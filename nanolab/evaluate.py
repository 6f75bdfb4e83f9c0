"""Step 9: weights get a grade.

    evaluate(model, tokenizer, task, max_problems=200)  -> Evaluation(accuracy=0.41, chance=0.25, table=...)
    chat_core([evaluation, ...])                        -> one number for several tasks, 0 where guessing is
    mean_loss(model, batches)                           -> nats a supervised token

Multiple choice ("categorical") needs no generation: one forward pass over the prompt, and of the logits behind its last
token only those of the row's own letters are compared. Everything else ("generative") is answered in words and graded
by the task. Every problem is kept, with the reply and the verdict, as a table to be read afterwards.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from nanolab.batch import IGNORE_INDEX, Batch
from nanolab.engine import Engine, check_sampling, padded_right
from nanolab.gpt import GPT
from nanolab.interrupt import Interrupted
from nanolab.ranks import launcher_is_gone
from nanolab.render import PART_FRAMES, render_for_completion
from nanolab.runtime import autocast
from nanolab.tasks import Task
from nanolab.tokenizer import Tokenizer

NORMAL_95 = 1.96  # standard deviations on either side that hold 95 % of a normal distribution
CHOICE_SLOTS = 8_192  # slots of multiple-choice prompts in one forward pass, at most


@dataclass
class Evaluation:
    """How a model did on a task.

    `table` has one row a reply: problem, sample, prompt, expected, reply, correct; of replies in words also tokens, of
    letters the probability given to the one picked, of programs why they are right or wrong.
    """

    task: str
    num_correct: int  # replies
    num_problems: int
    chance: float  # accuracy of guessing
    table: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """Share of the replies that are correct."""
        return self.num_correct / len(self.table) if len(self.table) else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy."""
        return wilson_interval(self.accuracy, self.num_problems)

    @property
    def centered(self) -> float:
        """The accuracy on a scale on which guessing is 0 and everything right is 1."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    def pass_at(self, k: int) -> float:
        """Chance that at least one of k replies to a problem is correct, from the n replies there are (k <= n).

        Source: Evaluating Large Language Models Trained on Code, arXiv:2107.03374, section 2.1.
        """
        by_problem = self.table.groupby("problem")["correct"].agg(["size", "sum"])
        if not 1 <= k <= by_problem["size"].min():
            raise ValueError(f"pass@{k} needs at least {k} samples a problem; there are {by_problem['size'].min()}.")
        return float(sum(_pass_at(k, n, c) for n, c in by_problem.itertuples(index=False)) / len(by_problem))

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.task}: {self.accuracy:.1%} of {self.num_problems} "
            f"(95 % interval {low:.1%} to {high:.1%}, chance {self.chance:.0%})"
        )


@dataclass
class Progress:
    """Where an evaluation stands: replies graded, of how many, and how many of them are correct."""

    task: str
    done: int
    total: int
    num_correct: int

    def __str__(self) -> str:
        return f"{self.task}: {self.done} of {self.total}, {self.num_correct / max(self.done, 1):.1%} correct"


def evaluate(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    max_problems: int | None = None,
    batch_size: int = 32,
    max_tokens: int = 256,
    dtype: str = "float32",
    *,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 42,
    progress: Callable[[Progress], None] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Evaluation:
    """Grade a model on the first `max_problems` (None or -1: all) rows of a task; the model is left in eval mode.

    Args:
        task: anything with `len`, `[]`, `name`, `eval_type` and `evaluate(conversation, reply)`. batch_size: prompts at
            once; changes the time and not the grade. num_samples, temperature, top_k, seed: of generative tasks, for
            pass@k; problem and sample number decide what is drawn, whatever shares the batch. progress: called with a
            Progress whenever replies have been graded. share: (k, n) grades every n-th problem from the k-th on, for n
        ranks that do the task together, see `merged`.

    Raises ValueError for a task that cannot be graded, and for several samples of one and the same greedy reply.

    >>> evaluate(model, tokenizer, ARC("ARC-Easy", "test", data="toy")).accuracy       # doctest: +SKIP
    0.46
    """
    if task.eval_type not in ("categorical", "generative"):
        raise ValueError(f"{task.name} is for training only: its replies cannot be graded.")
    check_sampling(max_tokens, temperature, top_k, batch_size)
    if max_problems not in (None, -1) and max_problems < 1:
        raise ValueError(f"max_problems must be 1 or more, or -1 for all, got {max_problems}.")
    if len(task) == 0:
        raise ValueError(f"{task.name} has no rows: there is nothing to grade.")
    if num_samples > 1 and (temperature == 0 or task.eval_type == "categorical"):
        raise ValueError(f"{num_samples} samples of {task.name} would all be the same: set a temperature, or 1 sample.")
    limit = len(task) if max_problems in (None, -1) else min(max_problems, len(task))
    problems = range(limit)[share[0] :: share[1]]
    conversations = {i: task[i] for i in problems}
    if task.eval_type == "categorical":
        chance = sum(1 / len(c["letters"]) for c in conversations.values()) / max(len(problems), 1)
        replies = picked_letters(model, tokenizer, conversations, batch_size, dtype)
    else:
        chance = 0.0
        options = {"num_samples": num_samples, "temperature": temperature, "top_k": top_k, "seed": seed}
        replies = written_replies(model, tokenizer, conversations, batch_size, max_tokens, dtype, **options)
    table = _graded(task, conversations, replies, len(problems) * num_samples, progress)
    return Evaluation(task.name, int(table["correct"].sum()), len(problems), chance, table)


def merged(shares: Sequence[Evaluation]) -> Evaluation:
    """The evaluation that several ranks have done together, each its share of the problems.

    >>> halves = [evaluate(model, tokenizer, task, share=(k, 2)) for k in (0, 1)]       # doctest: +SKIP
    >>> merged(halves).accuracy == evaluate(model, tokenizer, task).accuracy            # doctest: +SKIP
    True
    """
    if len(shares) == 1:
        return shares[0]
    num_problems = sum(share.num_problems for share in shares)
    chance = sum(share.chance * share.num_problems for share in shares) / max(num_problems, 1)
    table = pd.concat([share.table for share in shares if len(share.table)] or [shares[0].table])
    table = table.sort_values(["problem", "sample"], ignore_index=True)
    return Evaluation(shares[0].task, sum(share.num_correct for share in shares), num_problems, chance, table)


def _graded(task, conversations, replies: Iterator[dict], total: int, progress) -> pd.DataFrame:
    """The table of an evaluation, in the order of the problems, graded as the replies arrive."""
    rows, num_correct = [], 0
    for reply in replies:
        if launcher_is_gone():
            raise Interrupted("Stopped grading: its torchrun is gone.", signal.SIGTERM)
        conversation = conversations[reply["problem"]]
        correct, why = _verdict(task, conversation, reply["reply"])
        num_correct += correct
        expected = _text(conversation["messages"][-1]["content"])
        about = {"prompt": _prompt_text(conversation), "expected": expected}
        rows.append(
            {"problem": reply["problem"], "sample": reply["sample"], **about, **reply, "correct": correct, **why}
        )
        if progress is not None:
            progress(Progress(task.name, len(rows), total, num_correct))
    columns = ["problem", "sample", "prompt", "expected", "reply", "correct"]
    table = pd.DataFrame(rows, columns=None if rows else columns)
    return table.sort_values(["problem", "sample"], ignore_index=True)


def _verdict(task, conversation: dict, reply: str) -> tuple[bool, dict[str, str]]:
    """Whether a reply is right, and for tasks that can say it (HumanEval) why."""
    if not hasattr(task, "verdict"):
        return bool(task.evaluate(conversation, reply)), {}
    outcome = task.verdict(conversation, reply)
    return outcome.passed, {"why": f"{outcome.reason}: {outcome.detail}" if outcome.detail else outcome.reason}


def picked_letters(
    model: GPT, tokenizer: Tokenizer, conversations: Mapping[int, dict], batch_size: int, dtype: str = "float32"
) -> Iterator[dict]:
    """For each multiple-choice conversation (by problem number) its letter with the highest logit behind the prompt.

    Yields {"problem", "sample": 0, "reply": the letter, "probability": of it among the row's letters}. Prompts are
    batched by length, so little is padded.
    """
    model.eval()
    prompts = [render_for_completion(conversation, tokenizer) for conversation in conversations.values()]
    numbers = list(conversations)
    for group in batches_by_length(prompts, batch_size, CHOICE_SLOTS):
        logits = _logits_behind([prompts[k] for k in group], model, tokenizer, dtype)  # (B, V)
        for row, i in zip(logits, (numbers[k] for k in group), strict=True):
            letters = conversations[i]["letters"]
            letter_ids = [_single_id(letter, tokenizer, conversations[i]) for letter in letters]
            probabilities = row[letter_ids].softmax(-1)
            best = int(probabilities.argmax())
            yield {"problem": i, "sample": 0, "reply": letters[best], "probability": float(probabilities[best])}


@torch.inference_mode()
def _logits_behind(prompts: Sequence[Sequence[int]], model: GPT, tokenizer: Tokenizer, dtype: str) -> torch.Tensor:
    """(B, V) logits behind each prompt's last token, on the CPU."""
    inputs, last = padded_right(prompts, tokenizer.special("assistant_end"))
    with autocast(model.device, dtype):
        hidden = model.hidden(inputs.to(model.device))  # (B, T, C)
        return model.logits(hidden[torch.arange(len(prompts)), last]).cpu()


def written_replies(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Mapping[int, dict],
    batch_size: int,
    max_tokens: int,
    dtype: str = "float32",
    *,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 42,
) -> Iterator[dict]:
    """The model's replies to each conversation, by its problem's number, as each is finished.

    Yields {"problem", "sample", "reply": text with special tokens, "tokens": its length}; a reply of `max_tokens` was
    cut. Longest prompts first: prompts of similar length are read together, and memory is at its peak at once.
    """
    engine = Engine(model, tokenizer, dtype)
    prompts = {i: render_for_completion(conversation, tokenizer) for i, conversation in conversations.items()}
    asked = [(i, s) for i in prompts for s in range(num_samples)]
    asked.sort(key=lambda pair: -len(prompts[pair[0]]))
    seeds = [f"{seed} {i} {s}" for i, s in asked]
    options = {"top_k": top_k, "seed": seeds, "batch_size": batch_size}
    for k, ids in engine.replies([prompts[i] for i, _ in asked], max_tokens, temperature, **options):
        problem, sample = asked[k]
        yield {"problem": problem, "sample": sample, "reply": tokenizer.decode(ids), "tokens": len(ids)}


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """95 % confidence interval of a share of `number` problems; (0, 1) without any.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    >>> [round(x, 3) for x in wilson_interval(0.5, 100)]
    [0.404, 0.596]
    """
    if number == 0:
        return 0.0, 1.0
    square = NORMAL_95**2 / number
    middle = share + square / 2
    half = NORMAL_95 * math.sqrt(share * (1 - share) / number + square / (4 * number))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def chat_core(evaluations: Iterable[Evaluation]) -> float:
    """ChatCORE: the mean over tasks of the accuracy centred on chance; 0 is guessing, 1 is everything right.

    Source: karpathy/nanochat, scripts/chat_eval.py.

    >>> easy = Evaluation("ARC-Easy", 1, 2, 0.25, pd.DataFrame({"correct": [True, False]}))
    >>> round(chat_core([easy]), 3)
    0.333
    """
    centered = [evaluation.centered for evaluation in evaluations]
    return sum(centered) / len(centered)


def _pass_at(k: int, n: int, c: int) -> float:
    """1 - C(n - c, k) / C(n, k): not all of k drawn out of n replies, c of them correct, are wrong."""
    return 1 - math.comb(int(n - c), k) / math.comb(int(n), k)


def mean_loss(model: GPT, batches: Iterable[Batch], dtype: str = "float32") -> float | None:
    """Loss in nats a supervised token over all batches together; None if nothing in them is supervised."""
    return ratio([loss_sum(model, batches, dtype)])


def bits_per_byte(
    model: GPT, batches: Iterable[Batch], num_bytes: torch.Tensor, dtype: str = "float32"
) -> float | None:
    """Loss in bits a byte of text, which does not depend on the vocabulary; None if there is no text.

    `num_bytes` (V,) is the bytes behind each id. Special tokens have none and are left out of the loss too. Source:
    karpathy/nanochat, nanochat/loss_eval.py.
    """
    return ratio([text_sum(model, batches, num_bytes, dtype)])


def ratio(sums: Iterable[tuple[float, int]]) -> float | None:
    """One mean of several parts' (sum, number), as ranks have them; None if there is nothing to divide by.

    >>> ratio([(3.0, 2), (5.0, 2)])
    2.0
    """
    total, number = (sum(each) for each in zip(*sums, strict=True))
    return total / number if number else None


@torch.inference_mode()
def loss_sum(model: GPT, batches: Iterable[Batch], dtype: str = "float32") -> tuple[float, int]:
    """(nats, supervised tokens) of the batches together: what `mean_loss` divides."""
    model.eval()
    nats, num_tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(model.device)
        with autocast(model.device, dtype):
            nats += model(batch.inputs, batch.targets, loss_reduction="sum", borders=batch.borders).item()
        num_tokens += batch.num_tokens
    return nats, num_tokens


def text_sum(
    model: GPT, batches: Iterable[Batch], num_bytes: torch.Tensor, dtype: str = "float32"
) -> tuple[float, int]:
    """(bits, bytes) of the text in the batches: what `bits_per_byte` divides, its arguments."""
    text_only, total_bytes = [], 0
    for batch in batches:
        of_target = num_bytes[batch.targets.clamp(min=0)] * (batch.targets != IGNORE_INDEX)  # (B, T)
        total_bytes += int(of_target.sum())
        targets = batch.targets.masked_fill(of_target == 0, IGNORE_INDEX)
        text_only.append(Batch(batch.inputs, targets, batch.real_tokens, batch.borders))
    return loss_sum(model, text_only, dtype)[0] / math.log(2), total_bytes


def batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int, slots: int | None = None) -> list[list[int]]:
    """Indices of the prompts, shortest first, at most `batch_size` at a time and at most `slots` with their padding.

    >>> batches_by_length([[1, 2, 3], [1], [1, 2]], batch_size=2)
    [[1, 2], [0]]
    """
    groups = []
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        full = not groups or len(groups[-1]) == batch_size
        if full or (slots is not None and (len(groups[-1]) + 1) * len(prompts[i]) > slots):
            groups.append([])
        groups[-1].append(i)
    return groups


def _single_id(letter: str, tokenizer: Tokenizer, conversation: dict) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise ValueError(f"{conversation.get('where', 'conversation')}: the answer {letter!r} is not a single token.")
    return ids[0]


def _text(content) -> str:
    """A message as text, tool calls and outputs between their special tokens, as they show in a decoded reply."""
    if isinstance(content, str):
        return content
    frames = (PART_FRAMES[part["type"]] for part in content)
    pieces = (f"{start or ''}{part['text']}{end or ''}" for part, (start, end, _) in zip(content, frames, strict=True))
    return "".join(pieces)


def _prompt_text(conversation: dict) -> str:
    return "\n\n".join(_text(message["content"]) for message in conversation["messages"][:-1])
