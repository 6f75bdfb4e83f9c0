"""Step 9: weights become someone to talk to.

    engine = Engine(model, tokenizer)
    engine.reply(conversation)                         -> "Paris."
    engine.generate([ids_1, ids_2], temperature=0)     -> [new ids of each]
    for token in engine.stream(ids): ...               -> one id after the other
    for k, ids in engine.replies(many_prompts): ...    -> (which prompt, its new ids), as each ends

A prompt is read once and its keys and values are kept (prefill), then each new token costs one position. Prompts of
different lengths share a batch: each row writes behind its own length, and what lies behind it is never looked at. A
row that ends leaves its place to a prompt that waits. When the model closes a calculator call the engine computes it
and forces the output's tokens.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch

from nanolab.attention import KVCache
from nanolab.decode import Decoder
from nanolab.gpt import GPT
from nanolab.render import render_for_completion
from nanolab.runtime import DTYPES, autocast
from nanolab.settings import check_temperature
from nanolab.tokenizer import Tokenizer
from nanolab.tools import calculate

REFILL_SHARE = 4  # prompts that wait are read when a quarter of the rows is free: together is cheaper than one by one
PREFILL_SLOTS = 2_048  # slots of prompts read at once: bounds memory, and keeps prompts of unequal lengths apart


@dataclass
class _Row:
    """One prompt being continued."""

    index: int  # of the prompt
    prompt: Sequence[int]
    draws: random.Random  # its own, so that neighbours do not change what it says
    last: int = -1  # the newest token, not yet in the cache
    length: int = 0  # positions in the cache
    num_said: int = 0
    forced: deque[int] = field(default_factory=deque)  # what it must say next
    expression: list[int] | None = None  # ids since <|python_start|>, None outside a call
    done: bool = False


class Engine:
    """Generates with one model and its tokenizer.

    What a row says does not depend on its neighbours in the batch: greedily and by sampling, up to the rounding of
    matrix products of other sizes (a tie within 1e-6 may fall the other way).
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, dtype: str = "float32"):
        self.model, self.tokenizer, self.dtype = model, tokenizer, dtype  # dtype: of the products and the cache
        self._stops = (tokenizer.special("assistant_end"), tokenizer.special("bos"))

    def reply(self, conversation: dict, max_tokens: int = 256, temperature: float = 0.0, **options: Any) -> str:
        """What the model answers to a conversation, as text with its special tokens, without the closing one."""
        prompt = render_for_completion(conversation, self.tokenizer)
        return self.tokenizer.decode(self.generate([prompt], max_tokens, temperature, **options)[0])

    def stream(
        self, prompt: Sequence[int], max_tokens: int = 256, temperature: float = 1.0, **options: Any
    ) -> Iterator[int]:
        """The new ids for one prompt, one at a time, forced tool output included, the closing token not."""
        for _, token in self._events([prompt], max_tokens, temperature, **options):
            if token is not None:
                yield token

    def generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int = 256, temperature: float = 1.0, **options: Any
    ) -> list[list[int]]:
        """The new ids for each prompt; each ends at `<|assistant_end|>` or `<|bos|>` (left out) or at `max_tokens`.

        Args:
            prompts: lists of ids, of any lengths. temperature: 0 is greedy. options: `top_k` (sample among so many),
                `seed` (a number, or one for each prompt), `batch_size` (most rows at once; changes speed and memory).

        >>> Engine(model, tokenizer).generate([[1, 2, 3]], max_tokens=5, temperature=0)      # doctest: +SKIP
        [[17, 4, 9, 250, 3]]
        """
        said = dict(self.replies(prompts, max_tokens, temperature, **options))
        return [said[k] for k in range(len(prompts))]

    def replies(
        self, prompts: Sequence[Sequence[int]], max_tokens: int = 256, temperature: float = 1.0, **options: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """(index of a prompt, its new ids), each as soon as it has ended, not in order; arguments as of `generate`."""
        said = {k: [] for k in range(len(prompts))}
        for k, token in self._events(prompts, max_tokens, temperature, **options):
            if token is None:
                yield k, said.pop(k)
            else:
                said[k].append(token)

    @torch.inference_mode()
    def _events(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        temperature: float,
        top_k: int | None = None,
        seed: int | Sequence = 42,
        batch_size: int = 64,
    ) -> Iterator[tuple[int, int | None]]:
        """(index of a prompt, its next token), and (index, None) once it has ended."""
        waiting = deque(_rows(prompts, seed))
        check_sampling(max_tokens, temperature, top_k, batch_size)
        self.model.eval()
        if not prompts:
            return
        cache = self._cache(prompts, max_tokens, min(batch_size, len(prompts)))
        decoder = self._decoder()
        rows: list[_Row] = []
        while waiting or rows:
            free = batch_size - len(rows)
            if waiting and (not rows or free * REFILL_SHARE >= batch_size):
                asked = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                hidden = self._prefill(cache, len(rows), asked)
                rows += asked
            else:
                asked = rows
                hidden = decoder.step([row.last for row in rows], cache, [row.length for row in rows])
                for row in rows:
                    row.length += 1
            for row, sampled in zip(asked, _chosen(decoder, hidden, asked, temperature, top_k), strict=True):
                yield row.index, self._advance(row, sampled)
                if not row.done and row.num_said == max_tokens:
                    row.done = True
                    yield row.index, None
            _leave(rows, cache)

    def _cache(self, prompts: Sequence[Sequence[int]], max_tokens: int, num_rows: int) -> KVCache:
        config, device = self.model.config, self.model.device
        capacity = max(map(len, prompts)) + max_tokens
        shape = (num_rows, config.n_kv_head, capacity, config.n_embd // config.n_head)
        return KVCache(config.n_layer, shape, device, DTYPES[self.dtype])

    def _decoder(self) -> Decoder:
        return Decoder(self.model, DTYPES[self.dtype])

    def _prefill(self, cache: KVCache, first_row: int, rows: list[_Row]) -> torch.Tensor:
        """Read the prompts of new rows into the cache, a few of similar length at a time; hidden (C, B) behind them."""
        rows.sort(key=lambda row: len(row.prompt))
        last, begin = [], 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or (end + 1 - begin) * len(rows[end].prompt) > PREFILL_SLOTS:
                last.append(self._read(cache, first_row + begin, rows[begin:end]))
                begin = end
        return torch.cat(last, dim=1)

    def _read(self, cache: KVCache, first_row: int, rows: list[_Row]) -> torch.Tensor:
        """One call of the model on whole prompts, padded on the right; hidden (C, B) of their last tokens."""
        inputs, last = padded_right([row.prompt for row in rows], self._stops[0])
        for row in rows:
            row.length = len(row.prompt)
        window = cache.window(first_row, len(rows), 0, inputs.size(1))
        with autocast(self.model.device, self.dtype):
            hidden = self.model.hidden(inputs.to(self.model.device), cache=window)  # (B, T, C)
        return hidden[torch.arange(len(rows)), last].t()

    def _advance(self, row: _Row, sampled: int) -> int | None:
        """The token a row says: a forced one if there is any, else the sampled one; None if that ends it."""
        token = row.forced.popleft() if row.forced else sampled
        if token in self._stops:
            row.done = True
            return None
        row.last, row.num_said = token, row.num_said + 1
        special = self.tokenizer.special
        if token == special("python_start"):
            row.expression = []
        elif token == special("python_end") and row.expression is not None:
            result = calculate(self.tokenizer.decode(row.expression))
            row.expression = None
            if result is not None:
                row.forced.extend([special("output_start"), *self.tokenizer.encode(result), special("output_end")])
        elif row.expression is not None:
            row.expression.append(token)
        return token


def padded_right(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) inputs and (B,) index of each row's last real token.

    >>> padded_right([[5, 6], [7]], pad_id=0)
    (tensor([[5, 6],
            [7, 0]]), tensor([1, 0]))
    """
    last = torch.tensor([len(prompt) - 1 for prompt in prompts])
    inputs = torch.full((len(prompts), int(last.max()) + 1), pad_id, dtype=torch.long)
    for b, prompt in enumerate(prompts):
        inputs[b, : len(prompt)] = torch.tensor(prompt)
    return inputs, last


def _rows(prompts: Sequence[Sequence[int]], seed: int | Sequence) -> Iterator[_Row]:
    if not all(prompts):
        raise ValueError("Every prompt needs at least one id (a conversation begins with <|bos|>).")
    seeds = [f"{seed} {k}" for k in range(len(prompts))] if isinstance(seed, Integral) else list(seed)
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one number, or one for each prompt.")
    return (_Row(k, prompt, random.Random(str(s))) for k, (prompt, s) in enumerate(zip(prompts, seeds, strict=True)))


def _chosen(
    decoder: Decoder, hidden: torch.Tensor, rows: list[_Row], temperature: float, top_k: int | None
) -> list[int]:
    """The next token of each row by its hidden state (C, B), before anything is forced."""
    if temperature == 0:
        return decoder.best(hidden).tolist()
    return sample(decoder.logits(hidden), temperature, top_k, [row.draws.random() for row in rows]).tolist()


def _leave(rows: list[_Row], cache: KVCache):
    """Take ended rows out; the last row takes the place of each, in the list and in the cache."""
    for k in reversed(range(len(rows))):
        if rows[k].done:
            last = rows.pop()
            if k < len(rows):
                rows[k] = last
                cache.move(len(rows), k, last.length)


def check_sampling(max_tokens: int, temperature: float, top_k: int | None, batch_size: int = 1) -> None:
    """Raise ValueError, in words, for settings that no reply can be drawn with."""
    check_temperature(temperature)
    for name, value in (("top_k", top_k), ("max_tokens", max_tokens), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}.")


def sample(logits: torch.Tensor, temperature: float, top_k: int | None, draws: Sequence[float]) -> torch.Tensor:
    """Next ids (B,) from logits (B, V), drawn among the `top_k` best at a temperature above 0.

    `draws`: one number in [0, 1) a row; where it falls in the row's cumulated probabilities is its token. The ids are
    on the processor while torch is to be deterministic (`--deterministic`), else where the logits are.

    >>> sample(torch.tensor([[0.0, 5.0, 1.0]]), 1.0, None, draws=[0.999]).tolist()
    [2]
    """
    if torch.are_deterministic_algorithms_enabled():  # CUDA's sums of many numbers are not, and are refused then
        logits = logits.cpu()
    if top_k is not None:
        worst_kept = logits.topk(min(top_k, logits.size(-1)), dim=-1).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < worst_kept, -torch.inf)
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no other
    cumulated = (logits / temperature).softmax(dim=-1).to(precise).cumsum(dim=-1)  # (B, V)
    places = torch.tensor(draws, dtype=precise, device=logits.device)[:, None] * cumulated[:, -1:]
    drawn = torch.searchsorted(cumulated, places, right=True)  # (B, 1)
    last = torch.searchsorted(
        cumulated, cumulated[:, -1:].contiguous()
    )  # where the sum is full: nothing behind has a chance
    return torch.minimum(drawn, last)[:, 0]
