"""How fast chats become ids and masks on one core: ours against transformers' chat template, in one run.

    python benchmarks/rendering.py [--data toy] [--tokenizer FOLDER] [--rows 4000] [--passes 7]

Three ways from the same SmolTalk conversations to the same ids and the same masks:

    nanolab                       render_conversation, one conversation a call
    transformers, one a call      apply_chat_template with {% generation %} marks around the replies
    transformers, a list a call   the same for `--batch` conversations at once

transformers gets a `tokenizers` BPE made of our vocabulary. Every row's ids and masks are compared first, which also
warms up; then passes over all rows are timed in turn, and the median counts. Two clocks: on a shared machine the
seconds of the processor (of all threads together) say what one core does, the clock on the wall what one waits.
Needs the extra `dev` (transformers). Real rows take about two minutes, the built-in ones ten seconds.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as PeerBPE
from transformers import PreTrainedTokenizerFast

from nanolab.render import conversation_segments, render_conversation
from nanolab.runtime import describe_machine, pick_device
from nanolab.tasks import SmolTalk
from nanolab.tokenizer import FAST_SPLIT_PATTERN, NUM_BYTES, SPECIAL_TOKENS, Tokenizer

Row = tuple[list[int], list[int]]  # (ids, mask) of one conversation

ONE_CORE = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # read by `tokenizers` at its first call
TOKENIZER_SIZE = 8_192  # trained on the rows when no folder is given

# The frame of nanolab.render for messages of plain text: the system message joins the first user message.
CHAT_TEMPLATE = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}<|bos|>{% for turn in turns %}"
    "{% if turn.role == 'user' %}"
    "<|user_start|>{{ system if loop.first else '' }}{{ turn.content }}<|user_end|>"
    "{% else %}"
    "<|assistant_start|>{% generation %}{{ turn.content }}<|assistant_end|>{% endgeneration %}"
    "{% endif %}{% endfor %}"
)


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that merge into `token`: what byte-pair encoding makes of it before its own merge.

    >>> last_merge(b"the", {b"t": 0, b"h": 1, b"e": 2, b"th": 3, b"the": 4})
    (b'th', b'e')
    """
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [a + b for a, b in zip(parts, parts[1:], strict=False)]
        first = min(range(len(pairs)), key=lambda k: ranks.get(pairs[k], len(ranks)))
        parts[first : first + 2] = [pairs[first]]
    return parts[0], parts[1]


def printable_bytes() -> list[str]:
    """GPT-2's character for each byte: itself where it prints, the next free one from 256 on where it does not."""
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(byte if byte in prints else next(others)) for byte in range(NUM_BYTES)]


def peer_of(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The same vocabulary, cuts and special tokens for transformers, with a chat template that marks replies."""
    characters = printable_bytes()

    def spell(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    ranks = {token: rank for rank, token in enumerate(tokenizer.token_bytes)}
    merges = [last_merge(token, ranks) for token in tokenizer.token_bytes if len(token) > 1]
    bpe = models.BPE(
        vocab={spell(token): rank for token, rank in ranks.items()},
        merges=[(spell(left), spell(right)) for left, right in merges],
        ignore_merges=True,  # a piece that is a token needs no merging, as in tiktoken
    )
    peer = PeerBPE(bpe)
    cut = pre_tokenizers.Split(Regex(FAST_SPLIT_PATTERN), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([cut, as_bytes])
    peer.decoder = decoders.ByteLevel()
    peer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=peer, chat_template=CHAT_TEMPLATE)


def render_with_peer(peer: PreTrainedTokenizerFast, chats: list[list[dict]], batch: int) -> Iterator[Row]:
    """transformers' ids and masks of conversations, `batch` of them a call (0: one at a time, not as a list)."""
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    if batch == 0:
        for chat in chats:
            found = peer.apply_chat_template(chat, **options)
            yield found["input_ids"], found["assistant_masks"]
    else:
        for start in range(0, len(chats), batch):
            found = peer.apply_chat_template(chats[start : start + batch], **options)
            yield from zip(found["input_ids"], found["assistant_masks"], strict=True)


def timed(way: Callable[[], Iterator[Row]]) -> tuple[float, float]:
    """(processor seconds of all threads, seconds on the wall) of one pass over all rows, none of them kept."""
    began, began_wall = time.process_time(), time.perf_counter()
    for _ in way():
        pass
    return time.process_time() - began, time.perf_counter() - began_wall


def report_agreement(rows: dict[str, list[Row]]):
    """Say for how many conversations each way gives the ids, and the masks, of the first way."""
    reference, *others = rows
    for name in others:
        pairs = list(zip(rows[reference], rows[name], strict=True))
        same_ids = sum(ours[0] == theirs[0] for ours, theirs in pairs)
        same_masks = sum(ours[1] == theirs[1] for ours, theirs in pairs)
        print(f"{name}: ids equal {reference}'s in {same_ids:,} of {len(pairs):,} rows, masks in {same_masks:,}")


def report_speed(seconds: dict[str, list[tuple[float, float]]], num_tokens: int):
    """A table of tokens/s by both clocks, and how many times as long as the first way each takes (median of passes)."""
    print("\n| way | tokens/s, processor time | tokens/s, wall | first way is faster by |\n| --- | --- | --- | --- |")
    reference = next(iter(seconds.values()))
    for name, passes in seconds.items():
        processor, wall = (num_tokens / statistics.median(clock) for clock in zip(*passes, strict=True))
        ratio = statistics.median(theirs[0] / ours[0] for theirs, ours in zip(passes, reference, strict=True))
        print(f"| {name} | {processor:,.0f} | {wall:,.0f} | {ratio:.2f} |")


def load_tokenizer(folder: str, conversations: list[dict]) -> Tokenizer:
    """The tokenizer of a folder, or one trained on the conversations when the folder is ""."""
    if folder:
        return Tokenizer.load(folder)
    texts = (s.text for chat in conversations for s in conversation_segments(chat) if not s.is_special)
    return Tokenizer.train(texts, TOKENIZER_SIZE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", default="", help="folder of a saved tokenizer; without one it is trained here")
    parser.add_argument("--rows", type=int, default=4_000, help="conversations of SmolTalk's train split, at most")
    parser.add_argument("--passes", type=int, default=7, help="timed passes of each way")
    parser.add_argument("--batch", type=int, default=1_000, help="conversations a call of the batched peer")
    args = parser.parse_args()

    os.environ.update(ONE_CORE)
    torch.set_num_threads(1)
    task = SmolTalk("train", data=args.data)
    conversations = [task[i] for i in range(min(len(task), args.rows))]
    chats = [conversation["messages"] for conversation in conversations]
    tokenizer = load_tokenizer(args.tokenizer, conversations)
    peer = peer_of(tokenizer)
    ways = {
        "nanolab": lambda: (render_conversation(conversation, tokenizer) for conversation in conversations),
        "transformers, one a call": lambda: render_with_peer(peer, chats, batch=0),
        f"transformers, {args.batch:,} a call": lambda: render_with_peer(peer, chats, batch=args.batch),
    }
    rows = {name: list(way()) for name, way in ways.items()}
    num_tokens = sum(len(ids) for ids, _ in rows["nanolab"])
    print(f"{describe_machine(pick_device('cpu'))}; one core")
    print(f"{len(chats):,} rows, {num_tokens:,} tokens of SmolTalk ({args.data}), vocabulary {tokenizer.vocab_size:,}")
    report_agreement(rows)
    del rows
    gc.freeze()  # or each collection walks over the modules and conversations loaded before, in whichever way it falls
    seconds = {name: [] for name in ways}
    for _ in range(args.passes):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    report_speed(seconds, num_tokens)


if __name__ == "__main__":
    main()
