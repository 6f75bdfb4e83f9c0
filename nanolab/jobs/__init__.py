"""Beside the line: puts the steps together. A settings object becomes a job, a job yields one report a step.

    job = start(SFTConfig(model_tag="d4", num_iterations=10))     # loads, prints what was loaded, touches no weight
    for report in run(job):                                       # evaluates, trains, evaluates, saves
        print(report.loss)
    job.metrics                                                   # the last evaluation

The job's parts (`job.model`, `job.steps[0]`, `job.optimizers`) are there to be looked at before, between and
after steps.

job          what a job is made of
starting     settings become a job
stages       what the jobs of base, mid and SFT are made of
steps        where a job's steps come from
evaluations  what is measured before a step and at the end
running      a job's steps, one after another, until the last or a stop
loading      steps are prepared ahead of the training
metrics      the run's metrics.jsonl
saving       a job's checkpoint, and going on from one
vocabulary   the tokenizer that base training needs
"""

from nanolab.jobs.job import STAGE_OF, Here, Job, Say
from nanolab.jobs.running import OR_AGAIN, run
from nanolab.jobs.saving import FREE_WHEN_RESUMING, checkpoint_to_resume
from nanolab.jobs.starting import start
from nanolab.jobs.steps import encoding_threads
from nanolab.jobs.vocabulary import tokenizer_dir, train_tokenizer

__all__ = [
    "FREE_WHEN_RESUMING",
    "OR_AGAIN",
    "STAGE_OF",
    "Here",
    "Job",
    "Say",
    "checkpoint_to_resume",
    "encoding_threads",
    "run",
    "start",
    "tokenizer_dir",
    "train_tokenizer",
]
