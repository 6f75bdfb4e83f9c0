"""How fast TRL's SFTTrainer is on the same rows: the peer our step is measured against.

    pip install -e ".[bench]"
    python benchmarks/trl_peer.py [--data toy] [--tokenizer FOLDER] [--task gsm8k] [--steps 2] [--settings one_row ...]
                                  [--device_type cpu]

`trl_rate` trains transformers' NanoChatForCausalLM, the same model, on rows that nanolab rendered, so that the same
tokens are supervised. AdamW for all weights, no saving, no evaluation, no logging. A caller runs several of `SETTINGS`
and reports the best one.

What was read in TRL 1.16 and decides these figures, measured on a CPU only:

loss        the head is fused with the loss and works in tiles, on every device. But only where Triton runs (CUDA, XPU)
            does it select the supervised positions first; elsewhere it projects every position, padding too
            (trl/trainer/utils.py, `compact`), and always takes their entropy and best token for its metrics.
            `loss_type="chunked_nll"` is now another name for the default. A loss of one's own (`compute_loss_func`)
            costs a second forward pass: not tried.
isolation   padding-free and packed rows restart their positions, from which transformers makes a boolean mask of
            (slots, slots) for scaled_dot_product_attention. So documents are isolated without FlashAttention too, but
            attention is computed, and masked, between all of them. "flash" is the same by FlashAttention, which skips
            what is masked.
lengths     `group_by_length` sorts within 50 steps at most. Of fewer than 8 steps' rows it sorts each step's, as here.
precision   TRL's own default is bfloat16, and so it is here on CUDA, whatever the setting. On a CPU it is float32, and
            bfloat16 only where the processor multiplies it. TF32 stays off, also where torch_compile would turn it on
            for the whole process.
cards       TRL refuses a process that sees several: CUDA_VISIBLE_DEVICES=0 shows it one.
"""

import argparse
import gc
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from common import CPU, bench_device

from nanolab.batch import Row
from nanolab.gpt import GPTConfig
from nanolab.memory import PeakMemory
from nanolab.render import conversation_segments, render_conversation
from nanolab.runtime import bfloat16_instructions, describe_machine, synchronize
from nanolab.tasks import GSM8K, sft_mixture
from nanolab.tokenizer import Tokenizer

TASKS = {"gsm8k": lambda data: GSM8K("main", "train", data=data), "mixture": lambda data: sft_mixture(data=data)}
TRL_IGNORE_INDEX = -100  # transformers' target of a position where nothing is learned
MIN_PACKED_TOKENS = 1_024  # TRL's own length of a packed row; longer only if a conversation is longer, or it is cut


@dataclass(frozen=True)
class Setting:
    """One way to run TRL: what it is, its SFTConfig options, and rows a micro-batch (None: as the caller says)."""

    what: str
    options: dict = field(default_factory=dict)
    device_batch_size: int | None = None
    needs: str = ""  # what a machine must have: "bfloat16", a package (and then CUDA too), or nothing
    attention: str = ""  # transformers' attn_implementation; its own choice if empty

    @property
    def packs(self) -> bool:
        """Whether several conversations share a row before training begins."""
        return self.options.get("packing", False)

    @property
    def shuffles(self) -> bool:
        """Whether TRL mixes the conversations of the warm-up among the timed ones."""
        return "train_sampling_strategy" in self.options

    def dtype_on(self, device: torch.device) -> str:
        """The products' dtype."""
        return "bfloat16" if device.type == "cuda" or self.needs == "bfloat16" else "float32"


KEEP = {"gradient_checkpointing": False}  # activations are kept: at these sizes there is memory, and it is faster
GROUPED = {**KEEP, "train_sampling_strategy": "group_by_length"}

SETTINGS = {
    "default": Setting("padded rows in order, activations computed again in the backward pass"),
    "kept": Setting("padded rows in order, activations kept", KEEP),
    "group_by_length": Setting("padded rows of similar lengths", GROUPED),
    "rows_16": Setting("16 padded rows of similar lengths a micro-batch", GROUPED, device_batch_size=16),
    "one_row": Setting("one row a micro-batch, so without padding", KEEP, device_batch_size=1),
    "padding_free": Setting("rows one after another, isolated by a mask", {**KEEP, "padding_free": True}),
    "packing": Setting("best-fit rows, isolated by a mask", {**KEEP, "packing": True}, device_batch_size=1),
    "compile": Setting("as group_by_length, torch_compile", {**GROUPED, "torch_compile": True}),
    "bf16": Setting("as group_by_length, bfloat16 products", {**GROUPED, "bf16": True}, needs="bfloat16"),
    "liger": Setting(
        "as group_by_length, Liger's kernels if it has any for this model",
        {**GROUPED, "use_liger_kernel": True},
        needs="liger_kernel",
    ),
    "flash": Setting(
        "as padding_free, isolated by FlashAttention",
        {**KEEP, "padding_free": True},
        needs="flash_attn",
        attention="flash_attention_2",
    ),
}


def trl_rate(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    model_config: GPTConfig,
    setting: str,
    steps: int,
    device_batch_size: int = 4,
    examples_per_step: int = 32,
    device: torch.device = CPU,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, float]:
    """Train `steps` + 1 optimizer steps with TRL and give the rates of all but the first.

    Args:
        rows: (ids, mask) of (steps + 1) * examples_per_step conversations. setting: a name in SETTINGS.
        device_batch_size: rows a micro-batch, unless the setting has its own. device: CPU or CUDA.
        weights: to begin with, under the names of transformers; None: random ones.

    Returns: "seconds_per_step" (collating included); of all timed steps "conversations", "slots", "real" and
    "supervised" tokens, counted in the batches that were trained; "supervised_per_second". The timed rows are all but
    the first examples_per_step, except where TRL shuffles (group_by_length): there as many, drawn from all.
    "first_loss": of the first step, nats a supervised token. "peak": the most bytes that model, optimizer and all
    steps held at a time, above what was held before (on CUDA of tensors, else of the process).

    Raises ModuleNotFoundError without TRL, ValueError for an unknown or impossible setting or a wrong number of rows,
    RuntimeError if TRL supervised other tokens than the rows say.

    >>> trl_rate(rows, tokenizer, GPTConfig(), "one_row", steps=2)["supervised_per_second"]    # doctest: +SKIP
    117.3
    """
    check(rows, setting, steps, device_batch_size, examples_per_step, device)
    chosen = SETTINGS[setting]
    size = chosen.device_batch_size or device_batch_size
    warm_up = as_dataset(rows[:examples_per_step], chosen.packs)
    timed = as_dataset(rows[examples_per_step:], chosen.packs)
    accumulation = math.ceil(len(timed) / steps / size)
    data = in_turn(warm_up, timed, accumulation * size)
    gc.collect()  # an earlier trainer, which holds itself, and its weights, in a circle
    memory = PeakMemory(device)
    with tempfile.TemporaryDirectory() as folder:
        config = trl_config(chosen.options, folder, size, accumulation, device)
        model = nanochat_model(model_config, longest(rows), tokenizer.special("assistant_end"), weights)
        if chosen.attention:
            model.set_attn_implementation(chosen.attention)
        trainer, batches, losses, ends = make_trainer(data, config, tokenizer, model, device)
        trainer.train()
    counted = batches[accumulation:]
    if chosen.shuffles:
        check_supervised(batches, rows)
    else:
        check_supervised(counted, rows[examples_per_step:])
    totals = {key: sum(batch[key] for batch in counted) for key in counted[0]}
    seconds = ends[-1] - ends[0]  # from the end of the first step, so that collating is in it
    return {
        "seconds_per_step": seconds / steps,
        **totals,
        "supervised_per_second": totals["supervised"] / seconds,
        "first_loss": float(sum(losses[:accumulation])),  # each is its share of the step's: a sum over all its tokens
        "peak": memory.peak_bytes(),
    }


def check(rows, setting, steps, device_batch_size, examples_per_step, device):
    need_trl()
    if setting not in SETTINGS:
        raise ValueError(f"Unknown setting {setting!r}. There are: {', '.join(SETTINGS)}.")
    if missing := not_here(SETTINGS[setting], device):
        raise ValueError(f"Setting {setting!r} is impossible here: {missing}.")
    if steps < 1 or len(rows) != (steps + 1) * examples_per_step:
        raise ValueError(
            f"{steps} timed steps of {examples_per_step} conversations and one to warm up need at least 1 step and "
            f"{(steps + 1) * examples_per_step} rows, got {len(rows)}."
        )
    size = SETTINGS[setting].device_batch_size or device_batch_size
    if examples_per_step % size:
        raise ValueError(f"examples_per_step {examples_per_step} is not a multiple of {size} rows a micro-batch.")


def need_trl():
    if find_spec("trl") is None:
        raise ModuleNotFoundError('TRL is not installed. It is an extra, for Python >= 3.11: pip install -e ".[bench]"')


def not_here(setting: Setting, device: torch.device = CPU) -> str:
    """Why a setting cannot run on this machine, or ""."""
    on_cuda = device.type == "cuda"
    if setting.needs == "bfloat16":
        return "" if on_cuda or bfloat16_instructions() else "this processor has neither AVX512-BF16 nor AMX"
    if setting.needs and not (on_cuda and find_spec(setting.needs)):
        return f"it needs CUDA and the package {setting.needs}"
    return ""


def longest(rows: Sequence[Row]) -> int:
    return max(len(ids) for ids, _ in rows)


def as_dataset(rows: Sequence[Row], packed: bool):
    """Rows as TRL takes them without tokenizing again: input_ids and labels, packed by TRL itself if asked."""
    from datasets import Dataset
    from trl import pack_dataset

    labels = [[t if bit else TRL_IGNORE_INDEX for t, bit in zip(ids, mask, strict=True)] for ids, mask in rows]
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})
    return pack_dataset(data, max(MIN_PACKED_TOKENS, longest(rows)), strategy="bfd") if packed else data


def in_turn(warm_up, timed, first: int):
    """The warm-up's dataset, repeated or cut to `first` rows so that it is one step, then the timed one."""
    from datasets import concatenate_datasets

    return concatenate_datasets([warm_up.select([i % len(warm_up) for i in range(first)]), timed])


def trl_config(options: dict, folder: str, device_batch_size: int, accumulation: int, device: torch.device):
    """TRL's settings: ours for all runs, and on top of them the options of one."""
    from trl import SFTConfig

    common = {
        **of_device(device),
        "optim": "adamw_torch_fused",
        "max_length": None,  # nothing is cut
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},  # labels are there, and packed rows are packed
        "num_train_epochs": 1,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=device_batch_size,
        gradient_accumulation_steps=accumulation,
        **{**common, **options},
    )


def of_device(device: torch.device) -> dict[str, bool]:
    """The options that say where TRL trains, and in which precision.

    >>> of_device(torch.device("cpu"))
    {'use_cpu': True, 'bf16': False}
    """
    if device.type == "cpu":
        return {"use_cpu": True, "bf16": False}
    return {"use_cpu": False, "bf16": True, "tf32": False}  # False: no setting may change what float32 is for the rest


def make_trainer(data, config, tokenizer: Tokenizer, model, device: torch.device):
    """The trainer, and the lists that it fills: counts of each batch, loss of each batch, times of its step ends."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTTrainer

    batches, losses, ends = [], [], []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            synchronize(device)
            ends.append(time.perf_counter())

    trainer = SFTTrainer(
        model, config, train_dataset=data, processing_class=pad_only_tokenizer(tokenizer), callbacks=[Clock()]
    )
    trainer.remove_callback(PrinterCallback)
    collate = trainer.data_collator  # wrapped only now: padding-free refuses a collator that is not its own

    def counting(examples):
        batch = collate(examples)
        batches.append(count(batch))
        return batch

    train_batch = trainer.training_step

    def keeping(*args, **kwargs):
        losses.append(train_batch(*args, **kwargs))
        return losses[-1]

    trainer.data_collator, trainer.training_step = counting, keeping
    return trainer, batches, losses, ends


def nanochat_model(config: GPTConfig, width: int, end_id: int, weights: Mapping[str, torch.Tensor] | None = None):
    """transformers' nanochat of the same shape for rows of up to `width` tokens; random weights if none are given."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    model = NanoChatForCausalLM(
        NanoChatConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=4 * config.n_embd,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            max_position_embeddings=width,
            bos_token_id=None,
            eos_token_id=end_id,
            pad_token_id=None,  # else the embedding of that token would learn nothing
            tie_word_embeddings=False,
        )
    )
    if weights is not None:
        model.load_state_dict(weights)
    return model


def pad_only_tokenizer(tokenizer: Tokenizer):
    """What TRL must be given as a tokenizer. It tokenizes nothing here, so it knows the padding and nothing else."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    pad = "<|assistant_end|>"
    words = tokenizers.models.WordLevel({pad: tokenizer.special(pad)}, unk_token=pad)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words), pad_token=pad, eos_token=pad)


def count(batch: dict) -> dict[str, int]:
    """What one of TRL's batches holds; padding-free ones have positions instead of an attention mask.

    >>> import torch
    >>> ids = torch.tensor([[5, 6, 7], [5, 8, 8]])
    >>> count({"input_ids": ids, "attention_mask": ids.ne(8), "labels": torch.where(ids == 7, 7, -100)})
    {'conversations': 2, 'slots': 6, 'real': 4, 'supervised': 1}
    """
    ids, labels = batch["input_ids"], batch["labels"]
    flat = "attention_mask" not in batch
    return {
        "conversations": int((batch["position_ids"] == 0).sum()) if flat else ids.size(0),
        "slots": ids.numel(),
        "real": ids.numel() if flat else int(batch["attention_mask"].sum()),
        "supervised": int((labels[:, 1:] != TRL_IGNORE_INDEX).sum()),  # a label is predicted one position earlier
    }


def check_supervised(batches: list[dict], rows: Sequence[Row]):
    trained, wanted = sum(batch["supervised"] for batch in batches), sum(sum(mask[1:]) for _, mask in rows)
    if trained != wanted:
        raise RuntimeError(
            f"TRL trained on {trained:,} supervised tokens, but the rows have {wanted:,}: not comparable."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="toy", help='"toy", "hub" or a directory of rows')
    parser.add_argument("--tokenizer", help="folder of a saved one; without it one of --vocab_size is trained")
    parser.add_argument("--task", choices=TASKS, default="gsm8k")
    parser.add_argument("--vocab_size", type=int, default=65_536, help="of the model; its tokenizer may be smaller")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each setting, after one to warm up")
    parser.add_argument("--device_batch_size", type=int, default=4)
    parser.add_argument("--examples_per_step", type=int, default=32)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--device_type", choices=("", "cpu", "cuda"), default="cpu", help='"": CUDA if there is one')
    args = parser.parse_args()

    need_trl()
    device = bench_device(args.device_type)
    mixture = TASKS[args.task](args.data)
    conversations = [mixture[i] for i in range((args.steps + 1) * args.examples_per_step)]
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train_on(conversations, args.vocab_size)
    if tokenizer.vocab_size > args.vocab_size:
        parser.error(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model only --vocab_size {args.vocab_size:,}."
        )
    rows = [render_conversation(conversation, tokenizer) for conversation in conversations]
    model_config = GPTConfig.from_depth(args.depth, args.vocab_size)
    report_head(args, device)
    for name in args.settings:
        if missing := not_here(SETTINGS[name], device):
            print(f"| {name} | not run: {missing} |  |  |  |  |", flush=True)
            continue
        sizes = (args.steps, args.device_batch_size, args.examples_per_step)
        report(name, trl_rate(rows, tokenizer, model_config, name, *sizes, device=device))


def train_on(conversations: list[dict], vocab_size: int) -> Tokenizer:
    texts = (s.text for c in conversations for s in conversation_segments(c) if not s.is_special)
    return Tokenizer.train(texts, vocab_size)


def report_head(args, device: torch.device):
    from datasets import disable_progress_bars
    from trl import __version__

    disable_progress_bars()
    print(f"TRL {__version__}, {describe_machine(device)}; d{args.depth}, vocabulary {args.vocab_size:,}")
    print(
        f"{args.task} rows of {args.data}, {args.examples_per_step} a step, {args.steps} steps after one to warm up\n"
    )
    print("| setting | what | s/step | slots | padding | supervised/s |\n| --- | --- | --- | --- | --- | --- |")


def report(name: str, found: dict[str, float]):
    padding = 1 - found["real"] / found["slots"]
    print(
        f"| {name} | {SETTINGS[name].what} | {found['seconds_per_step']:.2f} | {found['slots']:,} | {padding:.1%} "
        f"| {found['supervised_per_second']:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
