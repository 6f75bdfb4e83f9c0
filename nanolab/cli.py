"""`python -m nanolab tokenizer | base | mid | sft`: the jobs on the command line, options named like the settings."""

import sys
from typing import Annotated

import tyro
from tqdm import tqdm

from nanolab import jobs
from nanolab.settings import BaseConfig, MidConfig, SFTConfig, TokenizerConfig, describe_settings
from nanolab.tasks import DataUnavailable

Command = (
    Annotated[TokenizerConfig, tyro.conf.subcommand("tokenizer", description="Train the tokenizer.")]
    | Annotated[BaseConfig, tyro.conf.subcommand("base", description="Base training on plain text.")]
    | Annotated[MidConfig, tyro.conf.subcommand("mid", description="Mid training on conversations.")]
    | Annotated[SFTConfig, tyro.conf.subcommand("sft", description="Supervised fine-tuning.")]
)


def main(args: list[str] | None = None) -> int:
    """Run one job; the exit status is 0, or 1 after an error that is told in one line."""
    config = tyro.cli(Command, prog="nanolab", args=args)
    print(describe_settings(config), end="\n\n")
    try:
        if isinstance(config, TokenizerConfig):
            jobs.train_tokenizer(config)
        else:
            train_with_progress(jobs.start(config))
    except (ValueError, OSError, DataUnavailable, FloatingPointError) as error:
        print(f"nanolab: {error}", file=sys.stderr)
        return 1
    return 0


def train_with_progress(job: jobs.Job):
    """Train a job, a line a step; when somebody watches, a bar with the time left stands below the lines."""
    left_out = []
    with tqdm(total=job.num_iterations, unit="step", disable=not sys.stderr.isatty()) as bar:
        for report in jobs.run(job, say=tqdm.write):
            tqdm.write(report.line(job.num_iterations))
            left_out += report.left_out
            bar.update()
    if left_out:
        print(f"{len(left_out)} conversations were skipped or cut for their length, the first: {left_out[0]}")
