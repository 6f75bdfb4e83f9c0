"""Step 9: weights get a grade.

    evaluate(model, tokenizer, task, max_problems=200)  -> Evaluation(accuracy=0.41, chance=0.25, table=...)
    mean_loss(model, batches)                           -> nats a supervised token

Multiple choice ("categorical") needs no generation: one forward pass over the prompt, and of the logits behind its last
token only those of the row's own letters are compared. Everything else ("generative") is answered greedily and graded
by the task.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from nanolab.batch import IGNORE_INDEX, Batch
from nanolab.engine import Engine
from nanolab.gpt import GPT
from nanolab.render import PART_FRAMES, render_for_completion
from nanolab.runtime import autocast
from nanolab.tokenizer import Tokenizer


@dataclass
class Evaluation:
    """How a model did on a task. `table` has one row a problem: prompt, expected, reply, correct."""

    task: str
    num_correct: int
    num_problems: int
    chance: float  # accuracy of guessing
    table: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """Share of the problems answered correctly."""
        return self.num_correct / self.num_problems if self.num_problems else math.nan

    def __str__(self) -> str:
        return f"{self.task}: {self.accuracy:.1%} of {self.num_problems} (chance {self.chance:.0%})"


def evaluate(
    model: GPT,
    tokenizer: Tokenizer,
    task,
    max_problems: int | None = None,
    batch_size: int = 32,
    max_tokens: int = 256,
    dtype: str = "float32",
) -> Evaluation:
    """Grade a model on the first `max_problems` (None or -1: all) rows of a task; the model is left in eval mode.

    Raises ValueError for a task that cannot be graded.

    >>> evaluate(model, tokenizer, ARC("ARC-Easy", "test", data="toy")).accuracy       # doctest: +SKIP
    0.46
    """
    limit = len(task) if max_problems in (None, -1) else min(max_problems, len(task))
    conversations = [task[i] for i in range(limit)]
    if task.eval_type == "categorical":
        replies = pick_letters(model, tokenizer, conversations, batch_size, dtype)
        chance = sum(1 / len(c["letters"]) for c in conversations) / max(limit, 1)
    elif task.eval_type == "generative":
        replies = generate_replies(model, tokenizer, conversations, batch_size, max_tokens, dtype)
        chance = 0.0
    else:
        raise ValueError(f"{task.name} is for training only: its replies cannot be graded.")
    table = pd.DataFrame(
        {
            "prompt": [_prompt_text(conversation) for conversation in conversations],
            "expected": [_text(conversation["messages"][-1]["content"]) for conversation in conversations],
            "reply": replies,
            "correct": [task.evaluate(c, reply) for c, reply in zip(conversations, replies, strict=True)],
        }
    )
    return Evaluation(task.name, int(table["correct"].sum()), limit, chance, table)


@torch.inference_mode()
def pick_letters(
    model: GPT, tokenizer: Tokenizer, conversations: Sequence[dict], batch_size: int, dtype: str = "float32"
) -> list[str]:
    """For each multiple-choice conversation, its own letter with the highest logit behind the prompt.

    Prompts are batched by length, so little is padded; the answers come back in the order of the conversations.
    """
    model.eval()
    prompts = [render_for_completion(conversation, tokenizer) for conversation in conversations]
    picked = [""] * len(prompts)
    for group in batches_by_length(prompts, batch_size):
        inputs, last = _pad_right([prompts[i] for i in group], model.device, tokenizer.special("assistant_end"))
        with autocast(model.device, dtype):
            hidden = model.hidden(inputs)  # (B, T, C)
            logits = model.logits(hidden[torch.arange(len(group), device=model.device), last])  # (B, V)
        for row, i in enumerate(group):
            letters = conversations[i]["letters"]
            letter_ids = [_single_id(letter, tokenizer, conversations[i]) for letter in letters]
            picked[i] = letters[int(logits[row, letter_ids].argmax())]
    return picked


@torch.inference_mode()
def generate_replies(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[dict],
    batch_size: int,
    max_tokens: int,
    dtype: str = "float32",
) -> list[str]:
    """The model's greedy reply to each conversation, in batches of similar prompt length."""
    engine = Engine(model, tokenizer)
    prompts = [render_for_completion(conversation, tokenizer) for conversation in conversations]
    replies = [""] * len(prompts)
    for group in batches_by_length(prompts, batch_size):
        with autocast(model.device, dtype):
            generated = engine.generate([prompts[i] for i in group], max_tokens, temperature=0)
        for i, ids in zip(group, generated, strict=True):
            replies[i] = tokenizer.decode(ids)
    return replies


@torch.inference_mode()
def mean_loss(model: GPT, batches: Iterable[Batch], dtype: str = "float32") -> float | None:
    """Loss in nats a supervised token over all batches together; None if nothing in them is supervised."""
    model.eval()
    loss_sum, num_tokens = 0.0, 0
    for batch in batches:
        batch = batch.to(model.device)
        with autocast(model.device, dtype):
            loss_sum += model(batch.inputs, batch.targets, loss_reduction="sum", borders=batch.borders).item()
        num_tokens += batch.num_tokens
    return loss_sum / num_tokens if num_tokens else None


def bits_per_byte(
    model: GPT, batches: Iterable[Batch], num_bytes: torch.Tensor, dtype: str = "float32"
) -> float | None:
    """Loss in bits a byte of text, which does not depend on the vocabulary; None if there is no text.

    `num_bytes` (V,) is the bytes behind each id. Special tokens have none and are left out of the loss too. Source:
    karpathy/nanochat, nanochat/loss_eval.py.
    """
    text_only, total_bytes = [], 0
    for batch in batches:
        of_target = num_bytes[batch.targets.clamp(min=0)] * (batch.targets != IGNORE_INDEX)  # (B, T)
        total_bytes += int(of_target.sum())
        targets = batch.targets.masked_fill(of_target == 0, IGNORE_INDEX)
        text_only.append(Batch(batch.inputs, targets, batch.real_tokens, batch.borders))
    nats_per_token = mean_loss(model, text_only, dtype)
    if nats_per_token is None:
        return None
    return nats_per_token * sum(batch.num_tokens for batch in text_only) / math.log(2) / total_bytes


def batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Indices of the prompts, shortest first, `batch_size` at a time.

    >>> batches_by_length([[1, 2, 3], [1], [1, 2]], batch_size=2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _pad_right(prompts: Sequence[Sequence[int]], device, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) inputs and (B,) index of each row's last real token."""
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    inputs = torch.full((len(prompts), int(last.max()) + 1), pad_id, dtype=torch.long, device=device)
    for b, prompt in enumerate(prompts):
        inputs[b, : len(prompt)] = torch.tensor(prompt, device=device)
    return inputs, last


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
