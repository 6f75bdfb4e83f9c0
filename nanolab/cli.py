"""`python -m nanolab tokenizer | base | mid | sft | eval | chat`: the jobs on the command line, options named like the
settings."""

import signal
import sys
from typing import Annotated

import tyro
from tqdm import tqdm

from nanolab import chat, jobs
from nanolab.evaluate import Progress, chat_core
from nanolab.grades import run_eval
from nanolab.interrupt import Interrupted
from nanolab.sandbox import SandboxUnavailable
from nanolab.settings import (
    BaseConfig,
    ChatConfig,
    EvalConfig,
    MidConfig,
    SFTConfig,
    TokenizerConfig,
    check_settings,
    describe_settings,
)
from nanolab.tasks import DataUnavailable

Command = (
    Annotated[TokenizerConfig, tyro.conf.subcommand("tokenizer", description="Train the tokenizer.")]
    | Annotated[BaseConfig, tyro.conf.subcommand("base", description="Base training on plain text.")]
    | Annotated[MidConfig, tyro.conf.subcommand("mid", description="Mid training on conversations.")]
    | Annotated[SFTConfig, tyro.conf.subcommand("sft", description="Supervised fine-tuning.")]
    | Annotated[EvalConfig, tyro.conf.subcommand("eval", description="Grade a checkpoint on held-out rows.")]
    | Annotated[ChatConfig, tyro.conf.subcommand("chat", description="Talk to a checkpoint.")]
)


def main(args: list[str] | None = None) -> int:
    """Run one job; the exit status is 0, 1 after an error that is told in one line, 130 or 143 if it was stopped."""
    config = tyro.cli(Command, prog="nanolab", args=args)
    try:
        if isinstance(config, ChatConfig):
            check_settings(config)
            return chat.run(config)
        print(describe_settings(config), end="\n\n")
        if isinstance(config, TokenizerConfig):
            jobs.train_tokenizer(config)
        elif isinstance(config, EvalConfig):
            grade_with_progress(config)
        else:
            train_with_progress(jobs.start(config))
    except (ValueError, OSError, DataUnavailable, FloatingPointError, SandboxUnavailable) as error:
        print(f"nanolab: {error}", file=sys.stderr)
        return 1
    except Interrupted as stopped:
        print(f"nanolab: {stopped}", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("nanolab: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def grade_with_progress(config: EvalConfig):
    """Grade a checkpoint, a line a task; when somebody watches, a bar with the running accuracy stands below."""
    with tqdm(unit="reply", disable=not sys.stderr.isatty()) as bar:

        def show(progress: Progress):
            if progress.done == 1:  # another task: its own time left
                bar.reset(progress.total)
            bar.n = progress.done
            bar.set_description(f"{progress.task} {progress.num_correct / progress.done:.1%}")

        graded = run_eval(config, say=tqdm.write, progress=show)
    if len(graded) > 1:
        print(f"ChatCORE of these {len(graded)} tasks: {chat_core(graded.values()):.3f} (0 is guessing, 1 all right)")


def train_with_progress(job: jobs.Job):
    """Train a job, a line a step; when somebody watches, a bar with the time left stands below the lines."""
    with tqdm(total=job.num_iterations, unit="step", disable=not sys.stderr.isatty()) as bar:
        for report in jobs.run(job, say=tqdm.write):
            tqdm.write(report.line(job.num_iterations))
            bar.update()
