"""Beside the line: one flat dataclass of settings a job, the same names in notebooks, on the command line and in files.

Defaults of the SFT job are nanochat's, but for the layout (the gradient is the same). Those of base and mid training
fit a laptop; nanochat's own are in the comments.
"""

import functools
import math
import os
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

from nanolab.layout import BATCHINGS

# Few tokens are met often enough to learn their letters in minutes: with 4,096 a d4 spells 20 % of words, with 1,024
# 72 % (LOG.md). A small head is fast, too.
TOY_VOCAB_SIZE = 1_024
REAL_VOCAB_SIZE = 65_536


def default_data() -> str:
    """What `data` is when nothing is said: the environment variable NANOLAB_DATA, or "toy", the built-in rows."""
    return os.environ.get("NANOLAB_DATA") or "toy"


def settings_of_a_job(config_class: type) -> type:
    """Class decorator: a setting that does not exist is an error that names the nearest one that does.

    >>> SFTConfig(num_iteration=5)
    Traceback (most recent call last):
    TypeError: SFTConfig has no setting num_iteration. Did you mean num_iterations?
    """
    init, names = config_class.__init__, [field.name for field in fields(config_class)]

    @functools.wraps(init)
    def checked(self, *args, **settings):
        for name in settings:
            if name not in names:
                raise TypeError(f"{config_class.__name__} has no setting {name}.{nearest(name, names)}")
        init(self, *args, **settings)

    config_class.__init__ = checked
    return config_class


def nearest(word: str, words: list[str] | tuple[str, ...]) -> str:
    """The end of an error: the one of `words` that was probably meant, or, where none is near, all of them.

    >>> nearest("paked", BATCHINGS)
    ' Did you mean packed?'
    """
    found = get_close_matches(str(word), words, n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else f" There are: {', '.join(words)}."


@settings_of_a_job
@dataclass
class TokenizerConfig:
    """Settings of `nanolab tokenizer`."""

    data: str = field(default_factory=default_data)  # "toy", "hub", or a directory of rows
    vocab_size: int = -1  # ids, special tokens included; -1 = 1,024 for toy and 65,536 for everything else
    max_chars: int = 20_000_000  # characters of text to learn from (nanochat: 10 billion)
    max_words: int = 20_000  # words of the spelling tasks' training list to learn from, besides the text


@settings_of_a_job
@dataclass
class BaseConfig:
    """Settings of `nanolab base`: learn language from plain text."""

    run: str = ""  # name of the run's folder under data_cache/runs; "" = base_<model_tag>
    report_to: str = ""  # trackers besides metrics.jsonl, with commas between: wandb, trackio, tensorboard
    data: str = field(default_factory=default_data)  # "toy", "hub", or a directory of rows
    num_shards: int = 1  # the hub's files to train on, 250 million letters each; -1 = all 1,822 (nanochat's d20: 240)
    model_tag: str = ""  # name of the checkpoint; "" = d<depth>
    depth: int = 4  # layers; the width is 64 a layer (nanochat: 20 and 32)
    max_seq_len: int = 512  # tokens a row (nanochat: 2048)
    device_batch_size: int = 8  # rows a micro-batch (nanochat: 32)
    total_batch_size: int = 8_192  # tokens an optimizer step (nanochat: 524,288)
    num_iterations: int = 500  # optimizer steps; -1 = from target_param_data_ratio (a d4: hours on a laptop)
    target_param_data_ratio: int = 20  # tokens a weight (Chinchilla, arXiv:2203.15556), used if num_iterations is -1
    embedding_lr: float = 0.2  # AdamW
    unembedding_lr: float = 0.004  # AdamW
    matrix_lr: float = 0.02  # Muon
    weight_decay: float = 0.0  # AdamW
    grad_clip: float = 1.0  # largest norm of the whole gradient; 0 = no clipping
    eval_every: int = 250  # steps between validation losses; -1 = only at the end
    eval_tokens: int = 65_536  # tokens of one validation (nanochat: 10 million)
    seed: int = 42
    device_type: str = ""  # "cuda", "mps", "cpu"; "" = the first that is there
    dtype: str = "auto"  # of the matrix products: "float32", "bfloat16"; auto = bfloat16 where it is faster
    compile: str = "auto"  # torch.compile: "on", "off"; auto = on for CUDA, where a run is long enough to earn it back
    deterministic: bool = False  # on CUDA: the same bits in every run, slower; a processor always does that
    share_muon: str = "auto"  # with several ranks: "on" = each does its part of Muon's work, "off"; auto = on for CUDA
    shard_weights: bool = (
        False  # with several ranks: each keeps a part of a model too large for one, and of Muon's work
    )
    num_workers: int = -1  # processes that prepare steps ahead; 0 = none, -1 = 1 for CUDA and 0 elsewhere
    save: bool = True  # write a checkpoint at the end, and when interrupted
    save_every: int = -1  # steps between checkpoints on the way; -1 = none
    keep_last: int = -1  # newest checkpoints of this model_tag to keep; -1 = all
    resume: str = ""  # "latest" or the folder of a checkpoint to go on from, to the bit; "" = start anew


@settings_of_a_job
@dataclass
class MidConfig:
    """Settings of `nanolab mid`: learn what conversations look like, every token a target."""

    run: str = ""  # "" = mid_<model_tag>
    report_to: str = ""
    source: str = "base"  # stage of the checkpoint to start from
    data: str = field(default_factory=default_data)
    model_tag: str = ""  # the checkpoint to start from, and to write; "" = the only one there is
    step: int = -1  # step of the checkpoint to start from; -1 = the last
    max_seq_len: int = 512  # tokens a row (nanochat: 2048)
    device_batch_size: int = 8  # rows a micro-batch (nanochat: 32)
    total_batch_size: int = 8_192  # tokens an optimizer step (nanochat: 524,288)
    num_iterations: int = -1  # optimizer steps; -1 = one epoch of the mixture
    embedding_lr: float = 0.2
    unembedding_lr: float = 0.004
    matrix_lr: float = 0.02
    init_lr_frac: float = 1.0  # all learning rates times this
    weight_decay: float = 0.0
    on_bad_row: str = "error"  # what to do with conversations that cannot be rendered: "error", "skip" (and count)
    muon_momentum_ramp: bool = True  # 0.85 to 0.95 over 300 steps; False = 0.95 from the start
    eval_every: int = 150
    eval_tokens: int = 65_536  # (nanochat: 10 million)
    seed: int = 42
    device_type: str = ""
    dtype: str = "auto"
    compile: str = "auto"
    deterministic: bool = False
    share_muon: str = "auto"
    shard_weights: bool = False
    num_workers: int = -1
    save: bool = True
    save_every: int = -1
    keep_last: int = -1
    resume: str = ""


@settings_of_a_job
@dataclass
class SFTConfig:
    """Settings of `nanolab sft`: learn to answer, only the assistant's tokens are targets."""

    run: str = ""  # name of the run's folder under data_cache/runs; "" = sft_<model_tag>
    report_to: str = ""  # trackers besides metrics.jsonl, with commas between: wandb, trackio, tensorboard
    source: str = "mid"  # stage of the checkpoint to start from: "mid" or "base"
    data: str = field(default_factory=default_data)  # "toy", "hub", or a directory of rows
    model_tag: str = ""  # the checkpoint to start from, and to write; "" = the only one there is
    step: int = -1  # step of the checkpoint to start from; -1 = the last
    num_epochs: int = 1  # passes over the mixture, used if num_iterations is -1
    num_iterations: int = -1  # optimizer steps; -1 = from num_epochs
    target_examples_per_step: int = 32  # conversations an optimizer step
    batching: str = "packed"  # layout: "packed", "bucketed", "padded" (nanochat's); changes speed, not the gradient
    device_batch_tokens: int = 4_096  # slots a micro-batch, packed or bucketed: as many as fit into memory
    device_batch_size: int = 4  # conversations a micro-batch, padded
    max_data_tokens: int = -1  # longest conversation, in tokens; -1 = no limit
    overlong: str = "skip"  # what to do with longer ones: "skip", "truncate", "error"
    on_bad_row: str = "error"  # what to do with conversations that cannot be rendered: "error", "skip" (and count)
    loss_average: str = "step"  # "step": one denominator a step; "micro_batch": mean of means, as in nanochat
    embedding_lr: float = 0.2
    unembedding_lr: float = 0.004
    matrix_lr: float = 0.02
    init_lr_frac: float = 0.02  # all learning rates times this: SFT moves weights gently
    weight_decay: float = 0.0
    eval_every: int = 100  # steps between validation losses; -1 = only at the end
    eval_steps: int = 100  # validation loss over eval_steps * device_batch_size conversations
    eval_metrics_every: int = 200  # steps between MMLU and ARC-Easy accuracies; -1 = only at the end
    eval_metrics_max_problems: int = 1024  # problems of each; -1 = all
    seed: int = 42
    device_type: str = ""
    dtype: str = "auto"
    compile: str = "auto"
    deterministic: bool = False
    share_muon: str = "auto"
    shard_weights: bool = False
    num_workers: int = -1
    save: bool = True
    save_every: int = -1
    keep_last: int = -1
    resume: str = ""


@settings_of_a_job
@dataclass
class EvalConfig:
    """Settings of `nanolab eval`: grade a checkpoint on held-out rows."""

    source: str = "sft"  # stage of the checkpoint: "base", "mid" or "sft"
    model_tag: str = ""  # "" = the only one there is
    step: int = -1  # -1 = the last
    data: str = field(default_factory=default_data)
    task_name: str = ""  # one task, or several with "|" between; "" = all of them
    max_problems: int = -1  # problems of each task; -1 = all
    num_samples: int = 1  # replies to each problem, for pass@k; more than 1 needs a temperature
    temperature: float = 0.0  # 0 = greedy
    top_k: int = 50  # tokens to choose among, if the temperature is not 0
    max_tokens: int = 512  # longest reply, in tokens
    batch_size: int = 32  # replies written at once; changes speed, not the grade
    seed: int = 42
    device_type: str = ""
    dtype: str = "float32"  # of the matrix products: "float32", "bfloat16", "auto"
    save: bool = True  # keep the table of every problem under data_cache/runs


@settings_of_a_job
@dataclass
class ChatConfig:
    """Settings of `nanolab chat`: talk to a checkpoint in the terminal."""

    source: str = "sft"  # stage of the checkpoint: "base", "mid" or "sft"
    model_tag: str = ""  # "" = the only one there is
    step: int = -1  # -1 = the last
    prompt: str = ""  # answer this one message and end; "" = talk
    temperature: float = 0.6  # 0 = greedy
    top_k: int = 50  # tokens to choose among
    max_tokens: int = 256  # longest reply, in tokens
    seed: int = 42
    device_type: str = ""


@settings_of_a_job
@dataclass
class ImportConfig:
    """Settings of `nanolab import`: a nanochat or transformers checkpoint becomes one of ours."""

    path: str = ""  # folder of the checkpoint, or
    from_hub: str = ""  # its name on the Hugging Face hub, "karpathy/nanochat-d32"
    tokenizer: str = ""  # folder of nanochat's tokenizer.pkl; "" = the checkpoint's own folder
    step: int = -1  # of a nanochat checkpoint; -1 = the last
    stage: str = "sft"  # what it is here: "base", "mid" or "sft"
    model_tag: str = ""  # name to keep it under; "" = the folder's


@settings_of_a_job
@dataclass
class ExportConfig:
    """Settings of `nanolab export`: a checkpoint becomes a folder that transformers loads."""

    source: str = "sft"  # stage of the checkpoint: "base", "mid" or "sft"
    model_tag: str = ""  # "" = the only one there is
    step: int = -1  # -1 = the last
    to: str = ""  # folder to write; one of an earlier export is replaced
    license: str = ""  # for the model card, as the hub spells it ("mit", "apache-2.0"); "" = none is named


@settings_of_a_job
@dataclass
class RunsConfig:
    """Settings of `nanolab runs`: a table of all runs."""

    folder: str = ""  # where to look; "" = data_cache/runs
    settings: bool = False  # also the settings in which the runs differ


JobConfig = BaseConfig | MidConfig | SFTConfig  # those that train a model
Config = TokenizerConfig | JobConfig | EvalConfig | ChatConfig | ImportConfig | ExportConfig | RunsConfig


# What a setting may be: at least 1; or -1 (its comment says what that means) or at least 1; or one of some words.
POSITIVE = ("depth", "max_seq_len", "device_batch_size", "device_batch_tokens", "total_batch_size")
POSITIVE += ("target_examples_per_step", "num_epochs", "num_samples", "max_tokens", "batch_size", "top_k")
MINUS_ONE_OR_POSITIVE = ("num_iterations", "max_data_tokens", "eval_metrics_max_problems", "vocab_size", "max_problems")
MINUS_ONE_OR_POSITIVE += ("save_every", "keep_last", "num_shards")
FINITE = ("embedding_lr", "unembedding_lr", "matrix_lr", "init_lr_frac", "weight_decay", "grad_clip")  # and 0 or more
PATHS = ("data", "resume", "path", "tokenizer", "to", "folder")  # a Path will do
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 1000  # beyond these, numbers of 32 bits fail
WORDS = {
    "batching": BATCHINGS,
    "compile": ("auto", "on", "off"),
    "share_muon": ("auto", "on", "off"),
    "dtype": ("auto", "float32", "bfloat16"),
    "overlong": ("skip", "truncate", "error"),
    "on_bad_row": ("error", "skip"),
    "loss_average": ("step", "micro_batch"),
    "stage": ("base", "mid", "sft"),
}


TRACKERS = ("wandb", "trackio", "tensorboard")


def tracker_names(report_to: str) -> list[str]:
    """The trackers that `report_to` names, each once. Raises ValueError for one that there is not.

    >>> tracker_names("wandb, tensorboard")
    ['wandb', 'tensorboard']
    """
    names = [name for name in (part.strip() for part in report_to.split(",")) if name]
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"report_to: there is no tracker {name!r}.{nearest(name, TRACKERS)}")
    return list(dict.fromkeys(names))


def check_settings(config: Config) -> None:
    """Raise ValueError, naming the setting and what it may be, for settings that cannot work.

    >>> check_settings(SFTConfig(device_batch_size=0))
    Traceback (most recent call last):
    ValueError: device_batch_size must be 1 or more, got 0.
    """
    for name, value in asdict(config).items():
        _check_kind(name, value, type(getattr(type(config), name, "")))
        if name in POSITIVE and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}.")
        if name in MINUS_ONE_OR_POSITIVE and value != -1 and value < 1:
            raise ValueError(f"{name} must be 1 or more, or -1, got {value}.")
        if name in FINITE and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more, got {value}.")
        if name in WORDS and value not in WORDS[name]:
            raise ValueError(f"{name} must be one of {', '.join(WORDS[name])}, got {value!r}.{_meant(value, name)}")
    if hasattr(config, "source") and config.source not in (allowed := _sources(config)):
        raise ValueError(f"source must be one of {', '.join(allowed)}, got {config.source!r}.")
    tracker_names(getattr(config, "report_to", ""))
    check_temperature(getattr(config, "temperature", 0))
    if getattr(config, "num_workers", 0) < -1:
        raise ValueError(f"num_workers must be 0 or more, or -1, got {config.num_workers}.")
    if isinstance(config, BaseConfig | MidConfig) and config.total_batch_size % (micro := _micro_batch(config)):
        raise ValueError(
            f"total_batch_size {config.total_batch_size:,} is not a multiple of device_batch_size * max_seq_len = "
            f"{config.device_batch_size} * {config.max_seq_len} = {micro:,} tokens."
        )
    for problem in _contradictions(config):
        raise ValueError(problem)


def _check_kind(name: str, value: object, kind: type):
    """Raise ValueError for a value of another kind than the setting's default, as a papermill file may give it."""
    kinds = {int: int, float: (int, float), bool: bool, str: (str, Path) if name in PATHS else str}[kind]
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} must be {KINDS[kind]}, got {value!r}.")


def _meant(value: str, name: str) -> str:
    hint = nearest(value, WORDS[name])
    return hint if "mean" in hint else ""


def _contradictions(config: Config) -> list[str]:
    """Settings that are fine each by itself and cannot be meant together."""
    problems = []
    if not getattr(config, "save", True):
        for name in ("save_every", "keep_last"):
            if getattr(config, name, -1) != -1:
                problems.append(f"{name}={getattr(config, name)} and save=False contradict each other: leave one out.")
    if getattr(config, "overlong", "skip") != "skip" and config.max_data_tokens == -1:
        problems.append(
            f"overlong={config.overlong!r} needs a limit to be over: set max_data_tokens (tokens a conversation)."
        )
    if getattr(config, "shard_weights", False) and config.compile == "on":
        problems.append(
            'shard_weights and compile="on" do not go together: compiled blocks were not tried with weights that ranks '
            'gather for each pass. Set compile to "auto" or "off".'
        )
    if isinstance(config, ImportConfig) and bool(config.path) == bool(config.from_hub):
        problems.append("Say where the checkpoint is: either path (a folder) or from_hub (owner/name), and not both.")
    if isinstance(config, ExportConfig) and not config.to:
        problems.append("Say which folder to write: to.")
    if getattr(config, "max_data_tokens", -1) == 1:
        problems.append("max_data_tokens=1 leaves nothing to predict: every conversation has a first and a next token.")
    return problems


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless replies can be drawn at this temperature.

    >>> check_temperature(-1)
    Traceback (most recent call last):
    ValueError: temperature must be 0 (greedy) or from 0.001 to 1000, got -1.
    """
    if temperature != 0 and not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:  # also true of NaN
        raise ValueError(
            f"temperature must be 0 (greedy) or from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}, got {temperature}."
        )


def _sources(config: MidConfig | SFTConfig | EvalConfig | ChatConfig | ExportConfig) -> tuple[str, ...]:
    """Stages whose checkpoints a job can take: training goes on from base or mid; any can be graded, used, exported."""
    return ("base", "mid") if isinstance(config, MidConfig | SFTConfig) else ("base", "mid", "sft")


def _micro_batch(config: BaseConfig | MidConfig) -> int:
    return config.device_batch_size * config.max_seq_len


def describe_settings(config: Config) -> str:
    """The resolved settings, one `name = value` a line, for printing before any work.

    >>> describe_settings(TokenizerConfig(data="toy")).splitlines()[0]
    'data = toy'
    """
    return "\n".join(f"{name} = {value}" for name, value in asdict(config).items())
