"""`python -m nanolab tokenizer | base | mid | sft | eval | chat | import | export | runs`: the jobs on the command
line, with options named like the settings.

What does the work is imported after the options are read: torch and datasets take seconds, and `--help` should not.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import tyro
from tqdm import tqdm

from nanolab.interrupt import Interrupted
from nanolab.settings import (
    BaseConfig,
    ChatConfig,
    Config,
    EvalConfig,
    ExportConfig,
    ImportConfig,
    JobConfig,
    MidConfig,
    RunsConfig,
    SFTConfig,
    TokenizerConfig,
    check_settings,
    describe_settings,
)

if TYPE_CHECKING:
    from nanolab.evaluate import Progress
    from nanolab.jobs import Job
    from nanolab.ranks import Ranks

Command = (
    Annotated[TokenizerConfig, tyro.conf.subcommand("tokenizer", description="Train the tokenizer.")]
    | Annotated[BaseConfig, tyro.conf.subcommand("base", description="Base training on plain text.")]
    | Annotated[MidConfig, tyro.conf.subcommand("mid", description="Mid training on conversations.")]
    | Annotated[SFTConfig, tyro.conf.subcommand("sft", description="Supervised fine-tuning.")]
    | Annotated[EvalConfig, tyro.conf.subcommand("eval", description="Grade a checkpoint on held-out rows.")]
    | Annotated[ChatConfig, tyro.conf.subcommand("chat", description="Talk to a checkpoint.")]
    | Annotated[
        ImportConfig, tyro.conf.subcommand("import", description="Make a nanochat or transformers folder ours.")
    ]
    | Annotated[
        ExportConfig, tyro.conf.subcommand("export", description="Write a checkpoint as a transformers folder.")
    ]
    | Annotated[RunsConfig, tyro.conf.subcommand("runs", description="A table of all runs.")]
)


def main(args: list[str] | None = None) -> int:
    """Run one job; the exit status is 0, 1 after an error that is told in one line, 130 or 143 if it was stopped."""
    parent = os.getppid()  # asked now, since it may be gone when the slow imports are done
    config = tyro.cli(Command, prog="nanolab", args=args)
    try:
        return run_job(config, parent)
    except Interrupted as stopped:
        print(f"nanolab: {stopped}", file=sys.stderr)
        return stopped.exit_status
    except KeyboardInterrupt:
        print("nanolab: stopped", file=sys.stderr)
        return 128 + signal.SIGINT


def run_job(config: Config, parent: int | None = None) -> int:
    """Do what the settings ask for; the exit status. `parent`: the process that has started this one."""
    from nanolab.ranks import LostContact, joined, record_error, started_by_torchrun
    from nanolab.sandbox import SandboxUnavailable
    from nanolab.tasks import DataUnavailable

    try:
        if isinstance(config, ChatConfig):
            from nanolab import chat

            check_settings(config)
            return chat.run(config)
        if isinstance(config, RunsConfig):
            from nanolab import runs

            check_settings(config)
            runs.print_table(config)
            return 0
        with joined(getattr(config, "device_type", ""), parent) as ranks:
            if ranks.leads:
                print(describe_settings(config), end="\n\n")
            _work(config, ranks)
    except (ValueError, OSError, DataUnavailable, FloatingPointError, SandboxUnavailable, LostContact) as error:
        who = f"nanolab (rank {os.environ['RANK']})" if started_by_torchrun() else "nanolab"
        record_error(error)
        print(f"{who}: {error}", file=sys.stderr)
        return 1
    return 0


def _work(config: Config, ranks: "Ranks"):
    if not ranks.leads and not isinstance(config, JobConfig | EvalConfig):
        return  # nothing that ranks could share
    if isinstance(config, ImportConfig | ExportConfig):
        from nanolab.convert import commands

        (commands.import_checkpoint if isinstance(config, ImportConfig) else commands.export_checkpoint)(config)
    elif isinstance(config, EvalConfig):
        grade_with_progress(config, ranks)
    else:
        from nanolab import jobs

        if isinstance(config, TokenizerConfig):
            jobs.train_tokenizer(config)
        else:
            train_with_progress(jobs.start(config, ranks=ranks))


def grade_with_progress(config: EvalConfig, ranks: "Ranks") -> None:
    """Grade a checkpoint, a line a task; when somebody watches, a bar with the running accuracy stands below."""
    from nanolab.evaluate import chat_core
    from nanolab.grades import run_eval

    with tqdm(unit="reply", disable=not (sys.stderr.isatty() and ranks.leads)) as bar:

        def show(progress: "Progress"):
            if progress.done == 1:  # another task: its own time left
                bar.reset(progress.total)
            bar.n = progress.done
            bar.set_description(f"{progress.task} {progress.num_correct / progress.done:.1%}")

        graded = run_eval(config, say=tqdm.write, progress=show, ranks=ranks)
    if len(graded) > 1 and ranks.leads:
        print(f"ChatCORE of these {len(graded)} tasks: {chat_core(graded.values()):.3f} (0 is guessing, 1 all right)")


def train_with_progress(job: "Job") -> None:
    """Train a job, a line a step; when somebody watches, a bar with the time left stands below the lines."""
    from nanolab import jobs

    watched = sys.stderr.isatty() and job.ranks.leads
    with tqdm(total=job.num_iterations, unit="step", disable=not watched) as bar:
        for report in jobs.run(job, say=tqdm.write):
            if job.ranks.leads:
                tqdm.write(report.line(job.num_iterations))
            bar.update()
