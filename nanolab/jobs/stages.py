"""What the jobs of base, mid and SFT are made of."""

from functools import partial

import torch
from torch.nn.parallel import DistributedDataParallel

from nanolab.checkpoint import load_checkpoint, load_folder
from nanolab.compiled import CompiledGPT, compiler_problem
from nanolab.gpt import GPT, GPTConfig
from nanolab.jobs.evaluations import sft_evaluation, stream_evaluation
from nanolab.jobs.job import Here, Job, Say
from nanolab.jobs.steps import conversation_ids, encoding_threads, sft_shapes, step_dataset, stream_maker
from nanolab.jobs.vocabulary import tokenizer_dir
from nanolab.memory import PeakMemory
from nanolab.optim import constant_then_linear, linear_to_zero, make_optimizers, muon_momentum
from nanolab.paths import shown
from nanolab.runtime import seed_everything, versions
from nanolab.settings import BaseConfig, MidConfig, SFTConfig
from nanolab.stream import TextIds
from nanolab.tasks import load_text, mid_mixture, mid_validation, sft_mixture
from nanolab.tokenizer import Tokenizer


def start_base(config: BaseConfig, here: Here) -> Job:
    """A job on plain text, with a fresh model."""
    train_text = load_text("train", config.data, config.num_shards)
    validation_text = load_text("validation", config.data)
    memory = PeakMemory(here.device)  # rows are loaded, the model is not
    seed_everything(config.seed)
    if here.origin is None:
        tokenizer = Tokenizer.load(tokenizer_dir())
        model = GPT(GPTConfig.from_depth(config.depth, tokenizer.vocab_size, config.max_seq_len))
    else:
        model, tokenizer, _, _ = load_folder(here.origin)
    replica = _spread(model, config, here)
    make_stream = stream_maker(config, TextIds(tokenizer, encoding_threads()), here.ranks)
    num_iterations = config.num_iterations
    if num_iterations == -1:
        num_iterations = config.target_param_data_ratio * model.num_parameters()["total"] // config.total_batch_size
    _say_steps(here.say, f"Base text: {train_text.described()}", config, num_iterations)
    here.say(f"Weights: {_counts(model.num_parameters())}")
    return Job(
        config=config,
        stage="base",
        model_tag=config.model_tag or f"d{config.depth}",
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=make_stream(train_text),
        num_iterations=num_iterations,
        schedule=lambda step: (constant_then_linear(step, num_iterations), muon_momentum(step)),
        evaluate=stream_evaluation(model, tokenizer, make_stream(validation_text), config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=_compiled(config, model, here),
        shapes=((config.device_batch_size, config.max_seq_len),),
        grad_clip=config.grad_clip,
        provenance=_provenance(config, train_text.counts(), parent=None),
    )


def start_mid(config: MidConfig, here: Here) -> Job:
    """A job on a stream of conversations, every token supervised, that goes on from a base model."""
    mixture, validation = mid_mixture(data=config.data), mid_validation(data=config.data)
    memory = PeakMemory(here.device)
    model, tokenizer, meta = _load_parent(config, here)
    replica = _spread(model, config, here)
    make_stream = stream_maker(config, partial(conversation_ids, tokenizer), here.ranks)
    steps = make_stream(mixture)
    num_iterations = config.num_iterations
    if num_iterations == -1:
        here.say(f"Counting the tokens of {len(mixture):,} conversations, to know how many steps an epoch has ...")
        num_iterations = max(1, steps.count_tokens() // config.total_batch_size)
    _say_steps(here.say, f"Mid mixture: {len(mixture):,} conversations", config, num_iterations)

    def schedule(step: int) -> tuple[float, float | None]:
        return constant_then_linear(step, num_iterations), muon_momentum(step) if config.muon_momentum_ramp else None

    return Job(
        config=config,
        stage="mid",
        model_tag=meta["model_tag"],
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=steps,
        num_iterations=num_iterations,
        schedule=schedule,
        evaluate=stream_evaluation(model, tokenizer, make_stream(validation), config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=_compiled(config, model, here),
        shapes=((config.device_batch_size, config.max_seq_len),),
        provenance=_provenance(config, _row_counts(mixture), parent=meta),
    )


def start_sft(config: SFTConfig, here: Here) -> Job:
    """A job on masked conversations, that goes on from a mid (or base) model."""
    mixture = sft_mixture(data=config.data)
    memory = PeakMemory(here.device)
    model, tokenizer, meta = _load_parent(config, here)
    replica = _spread(model, config, here)
    compiled = _compiled(config, model, here)
    static_shapes = compiled is not None or here.keeps_graphs
    steps = step_dataset(
        mixture, tokenizer, config.target_examples_per_step, config, here.ranks, static_shapes=static_shapes
    )
    num_iterations = config.num_iterations
    if num_iterations == -1:
        num_iterations = len(steps) * config.num_epochs
    here.say(
        f"SFT mixture: {len(mixture):,} conversations of {config.data}; {num_iterations:,} steps of "
        f"{config.target_examples_per_step} conversations"
    )
    return Job(
        config=config,
        stage="sft",
        model_tag=meta["model_tag"],
        model=model,
        tokenizer=tokenizer,
        optimizers=_optimizers(model, config, here),
        memory=memory,
        peak=here.peak,
        steps=steps,
        num_iterations=num_iterations,
        schedule=lambda step: (linear_to_zero(step, num_iterations), None),
        evaluate=sft_evaluation(model, tokenizer, config, num_iterations, here),
        dtype=here.dtype,
        replica=replica,
        compiled=compiled,
        shapes=sft_shapes(steps, here.say) if compiled is not None else (),
        loss_average=config.loss_average,
        provenance=_provenance(config, _row_counts(mixture), parent=meta),
    )


def _spread(model: GPT, config, here: Here) -> DistributedDataParallel | None:
    """Bring the model to its device: this rank's part of it, or all and, with several ranks, the replica."""
    if _shards(config, here):
        here.ranks.shard(model, here.device)
        here.say(f"Each of {here.ranks.world_size} ranks keeps its part of the weights, gradients and optimizer states")
        return None
    if config.shard_weights:
        here.say("shard_weights: there is one process and nobody to share with, going on as usual")
    model.to(here.device)
    return here.ranks.replica(model)


def _shards(config, here: Here) -> bool:
    """Whether the ranks share the weights."""
    return config.shard_weights and here.ranks.world_size > 1


def _compiled(config, model: GPT, here: Here) -> CompiledGPT | None:
    """The compiled form of the model if the settings, the device and the machine's compiler say so; says why not."""
    if config.compile == "off":
        return None
    if _shards(config, here):
        here.say("torch.compile: off (auto, it was not tried with weights that ranks gather for each pass)")
        return None
    if config.compile == "auto" and model.device.type != "cuda":
        here.say(f"torch.compile: off (auto, on {model.device.type} warming up costs more than a short run gains)")
        return None
    problems = [problem for problem in here.ranks.gather(compiler_problem(model.device)) if problem is not None]
    if problems:
        here.say(f"torch.compile: does not work here, going on without it ({problems[0]})")
        return None
    here.say("torch.compile: on")
    return CompiledGPT(model)


def _load_parent(config: MidConfig | SFTConfig, here: Here) -> tuple[GPT, Tokenizer, dict]:
    """The model to start from, on the processor: the parent's, or the one to go on with (`here.origin`)."""
    say = here.say
    if here.origin is not None:
        seed_everything(config.seed)
        return load_folder(here.origin)[:3]
    model, tokenizer, meta, path = load_checkpoint(config.source, config.model_tag, config.step)
    made_of = meta.get("provenance", {}).get("data", "unknown data")
    if meta["step"] < (planned := meta.get("num_iterations", 0)):
        say(f"Note: {shown(path)} is of step {meta['step']:,} of {planned:,}; its run was not finished.")
    say(f"Starting from {shown(path)} (trained on {made_of}, vocabulary {tokenizer.vocab_size:,})")
    seed_everything(config.seed)
    return model, tokenizer, meta


def _say_steps(say: Say, rows: str, config: BaseConfig | MidConfig, num_iterations: int):
    say(f"{rows} of {config.data}; {num_iterations:,} steps of {config.total_batch_size:,} tokens")


def _optimizers(model: GPT, config, here: Here) -> list[torch.optim.Optimizer]:
    several, on_cuda = here.ranks.world_size > 1, model.device.type == "cuda"
    sharded = _shards(config, here)  # then Muon's work is shared with the weights
    share_muon = several and not sharded and (config.share_muon == "on" or (config.share_muon == "auto" and on_cuda))
    if several:
        shared = share_muon or sharded
        here.say("Muon's work is shared by the ranks" if shared else "Every rank does all of Muon's work")
    return make_optimizers(
        model,
        unembedding_lr=config.unembedding_lr,
        embedding_lr=config.embedding_lr,
        matrix_lr=config.matrix_lr,
        weight_decay=config.weight_decay,
        init_lr_frac=getattr(config, "init_lr_frac", 1.0),  # base training has none
        dtype=here.dtype,
        share_muon=share_muon,
    )


def _row_counts(mixture) -> dict[str, int]:
    return {f"{k} {task.name}": len(task) for k, task in enumerate(mixture.tasks)}


def _provenance(config, rows: dict[str, int], parent: dict | None) -> dict:
    """Where the weights come from: data source, rows, package versions, and the checkpoint it all started with."""
    kept = None if parent is None else {key: parent[key] for key in ("stage", "model_tag", "step")}
    return {"data": str(config.data), "rows": rows, "versions": versions(), "parent": kept}


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())
