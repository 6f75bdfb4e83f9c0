"""How fast does the model talk? Ours against transformers' `generate`, greedy, the same d4 weights and prompts.

    python benchmarks/generation.py [--vocab_sizes 1024 65536] [--batch_sizes 1 16] [--max_tokens 128] [--rounds 3]

The prompts are GSM8K's test rows, cut by a tokenizer of 1,024 tokens; transformers pads them on the left. Random
weights hardly ever stop, and transformers is told not to; ours ends a row that does, so rates are of tokens said.
Before the clock starts the replies of both are compared: the same tokens, but where the two best logits lie so close
that rounding decides.

Then grading: problems a second of the same task, batches of 32 against one at a time. Measured in turn; medians.
"""

import argparse
import statistics

import torch
from common import in_turn, make_model, print_table, times_as_fast

from nanolab.convert import transformers_settings, transformers_weights
from nanolab.engine import Engine
from nanolab.evaluate import evaluate
from nanolab.gpt import GPT
from nanolab.render import render_for_completion
from nanolab.runtime import describe_machine, pick_device
from nanolab.settings import TOY_VOCAB_SIZE
from nanolab.tasks import GSM8K, load_text
from nanolab.tokenizer import Tokenizer

COLUMNS = ("vocabulary, batch", "ours tokens/s", "transformers tokens/s", "ours is faster by", "same tokens")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy" or a directory of rows')
    parser.add_argument("--vocab_sizes", type=int, nargs="+", default=[1_024, 65_536])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--max_tokens", type=int, default=128)
    parser.add_argument("--max_problems", type=int, default=32, help="of the grading measurement")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{describe_machine(pick_device())}; d{args.depth}, float32, greedy, {args.max_tokens} tokens a reply")
    task = GSM8K("main", "test", data=args.data)
    tokenizer = Tokenizer.train((row["text"] for row in load_text("train", data="toy")), TOY_VOCAB_SIZE)
    print_table(COLUMNS, [compared(args, task, tokenizer, V, B) for V in args.vocab_sizes for B in args.batch_sizes])
    print()
    graded(args, task, tokenizer)


def compared(args, task: GSM8K, tokenizer: Tokenizer, vocab_size: int, batch_size: int) -> list[str]:
    """One row of the table."""
    model = make_model(args.depth, vocab_size).eval()
    engine = Engine(model, tokenizer)
    prompts = [render_for_completion(task[k], tokenizer) for k in range(batch_size)]
    theirs = transformers_generate(model, prompts, args.max_tokens)

    def ours() -> list[list[int]]:
        return engine.generate(prompts, args.max_tokens, temperature=0, batch_size=batch_size)

    said, they_said = ours(), theirs()
    same = sum(a == b[: len(a)] for a, b in zip(said, they_said, strict=True))
    counts = [sum(map(len, replies)) for replies in (said, they_said)]
    seconds = in_turn({"ours": ours, "theirs": theirs}, args.rounds)
    per_token = [[s / n for s in seconds[name]] for name, n in zip(seconds, counts, strict=True)]
    rates = [1 / statistics.median(times) for times in per_token]
    faster = times_as_fast(per_token[1], per_token[0])
    name = f"{vocab_size:,}, {batch_size}"
    return [name, f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{faster:.2f}", f"{same} of {len(said)}"]


def transformers_generate(model: GPT, prompts: list[list[int]], max_tokens: int):
    """A function that lets transformers continue the prompts with the same weights, left-padded, never stopping."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    longest = max(map(len, prompts))
    config = NanoChatConfig(
        **transformers_settings(model.config),
        max_position_embeddings=longest + max_tokens,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    theirs = NanoChatForCausalLM(config).eval()
    missing, unexpected = theirs.load_state_dict(transformers_weights(model.state_dict()), strict=False)
    if unexpected or any("rotary" not in name for name in missing):
        raise SystemExit(f"transformers' model has other weights: {missing + unexpected}")
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    @torch.inference_mode()
    def generate() -> list[list[int]]:
        said = theirs.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False)
        return said[:, longest:].tolist()

    return generate


def graded(args, task: GSM8K, tokenizer: Tokenizer):
    """Problems a second, batched and one at a time, with the replies compared."""
    model = make_model(args.depth, tokenizer.vocab_size)

    def graded_by(batch_size: int):
        return evaluate(model, tokenizer, task, args.max_problems, batch_size, max_tokens=args.max_tokens)

    ways = {name: lambda size=size: graded_by(size) for name, size in (("one at a time", 1), ("batches of 32", 32))}
    same = (ways["one at a time"]().table["reply"] == ways["batches of 32"]().table["reply"]).sum()
    seconds = in_turn(ways, args.rounds)
    rates = {name: args.max_problems / statistics.median(times) for name, times in seconds.items()}
    print(f"Grading {args.max_problems} problems: " + ", ".join(f"{n} {r:.2f} problems/s" for n, r in rates.items()))
    faster = times_as_fast(seconds["one at a time"], seconds["batches of 32"])
    print(f"Batched is faster by {faster:.1f}; {same} of {args.max_problems} replies are the same")


if __name__ == "__main__":
    main()
