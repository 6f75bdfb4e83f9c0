"""Step 9: weights become someone to talk to.

    engine = Engine(model, tokenizer)
    engine.reply(conversation)                         -> "Paris."
    engine.generate([ids_1, ids_2], temperature=0)     -> [new ids of each]
    for token in engine.stream(ids): ...               -> one id after the other

The prompt is read once and its keys and values are kept (prefill), then each new token costs one position. Prompts of
different lengths share a batch: they are padded on the right, each row writes behind its own length, and the padding is
never looked at. When the model closes a calculator call the engine computes it and forces the output's tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from nanolab.attention import KVCache
from nanolab.gpt import GPT
from nanolab.render import render_for_completion
from nanolab.tokenizer import Tokenizer
from nanolab.tools import calculate


@dataclass
class _RowState:
    """One conversation being continued: what it must say next, and whether it is inside a calculator call."""

    forced: list[int] = field(default_factory=list)
    expression: list[int] | None = None  # ids since <|python_start|>, None outside a call
    done: bool = False


class Engine:
    """Generates with one model and its tokenizer."""

    def __init__(self, model: GPT, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self._stops = (tokenizer.special("assistant_end"), tokenizer.special("bos"))

    def reply(self, conversation: dict, max_tokens: int = 256, temperature: float = 0.0, **options) -> str:
        """What the model answers to a conversation, as text with its special tokens, without the closing one."""
        prompt = render_for_completion(conversation, self.tokenizer)
        return self.tokenizer.decode(self.generate([prompt], max_tokens, temperature, **options)[0])

    def stream(
        self, prompt: Sequence[int], max_tokens: int = 256, temperature: float = 1.0, **options
    ) -> Iterator[int]:
        """The new ids for one prompt, one at a time, forced tool output included, the closing token not."""
        for column in self._columns([prompt], max_tokens, temperature, **options):
            yield column[0]

    def generate(
        self, prompts: Sequence[Sequence[int]], max_tokens: int = 256, temperature: float = 1.0, **options
    ) -> list[list[int]]:
        """The new ids for each prompt; each ends at `<|assistant_end|>` or `<|bos|>` (left out) or at `max_tokens`.

        Args:
            prompts: lists of ids, of any lengths. temperature: 0 is greedy. options: `top_k` (sample among so many),
                `seed`.

        >>> Engine(model, tokenizer).generate([[1, 2, 3]], max_tokens=5, temperature=0)      # doctest: +SKIP
        [[17, 4, 9, 250, 3]]
        """
        replies = [[] for _ in prompts]
        for column in self._columns(prompts, max_tokens, temperature, **options):
            for reply, token in zip(replies, column, strict=True):
                if token is not None:
                    reply.append(token)
        return replies

    @torch.inference_mode()
    def _columns(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        temperature: float,
        top_k: int | None = None,
        seed: int = 42,
    ) -> Iterator[list[int | None]]:
        """One new token for every row at a time, None for rows that have ended."""
        if not prompts or not all(prompts):
            raise ValueError("Every prompt needs at least one id (a conversation begins with <|bos|>).")
        self.model.eval()
        generator = torch.Generator(self.model.device).manual_seed(seed)
        rows = [_RowState() for _ in prompts]
        cache, logits = self._prefill(prompts, max_tokens)
        column = None
        for _ in range(max_tokens):
            if column is not None:
                logits = self._decode(cache, [self._stops[0] if token is None else token for token in column])
            sampled = sample(logits, temperature, top_k, generator).tolist()  # (B,)
            column = [self._advance(row, token) for row, token in zip(rows, sampled, strict=True)]
            if all(row.done for row in rows):
                return
            yield column

    def _prefill(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[KVCache, torch.Tensor]:
        """Read all prompts at once: a filled cache, and the logits (B, V) behind each prompt's last token."""
        config, device = self.model.config, self.model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = int(lengths.max())
        inputs = torch.full((len(prompts), width), self._stops[0], dtype=torch.long, device=device)
        for b, prompt in enumerate(prompts):
            inputs[b, : len(prompt)] = torch.tensor(prompt, device=device)
        shape = (len(prompts), config.n_kv_head, width + max_tokens, config.n_embd // config.n_head)
        cache = KVCache(config.n_layer, shape, device, self.model.lm_head.weight.dtype)
        hidden = self.model.hidden(inputs, cache=cache)  # (B, width, C)
        cache.lengths = lengths
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]  # (B, C)
        return cache, self.model.logits(last)

    def _decode(self, cache: KVCache, tokens: list[int]) -> torch.Tensor:
        """Append one token to each row; the logits (B, V) behind it."""
        inputs = torch.tensor(tokens, device=self.model.device)[:, None]  # (B, 1)
        hidden = self.model.hidden(inputs, positions=cache.lengths[:, None], cache=cache)  # (B, 1, C)
        cache.lengths = cache.lengths + 1
        return self.model.logits(hidden[:, 0])

    def _advance(self, row: _RowState, sampled: int) -> int | None:
        """The token a row says: a forced one if there is any, else the sampled one; None once it has ended."""
        if row.done:
            return None
        token = row.forced.pop(0) if row.forced else sampled
        if token in self._stops:
            row.done = True
            return None
        special = self.tokenizer.special
        if token == special("python_start"):
            row.expression = []
        elif token == special("python_end") and row.expression is not None:
            result = calculate(self.tokenizer.decode(row.expression))
            row.expression = None
            if result is not None:
                row.forced = [special("output_start"), *self.tokenizer.encode(result), special("output_end")]
        elif row.expression is not None:
            row.expression.append(token)
        return token


def sample(logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> torch.Tensor:
    """Next ids (B,) from logits (B, V): the best one at temperature 0, else drawn among the `top_k` best.

    >>> sample(torch.tensor([[0.0, 5.0, 1.0]]), 0.0, None, torch.Generator()).tolist()
    [1]
    """
    if temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or more, got {temperature}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be 1 or more, got {top_k}.")
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None:
        worst_kept = logits.topk(min(top_k, logits.size(-1)), dim=-1).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < worst_kept, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
