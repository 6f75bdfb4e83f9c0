"""Steps are prepared ahead of the training."""

import signal
from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from nanolab.batch import Step
from nanolab.jobs.job import Job
from nanolab.tasks import DataUnavailable


class _ErrorsAsValues(Dataset):
    """Steps whose errors about rows are returned: a worker process would wrap them into pages of its own words."""

    def __init__(self, steps: Dataset):
        self.steps = steps

    def __getitem__(self, step: int) -> Step | ValueError | DataUnavailable:
        try:
            return self.steps[step]
        except (ValueError, DataUnavailable) as error:
            return error.with_traceback(None)


def steps_of(loader: DataLoader, job: Job) -> Iterator[Step]:
    """What a job's loader has prepared. Raises the error of a step that could not be."""
    for step in loader:
        if isinstance(step, Exception):
            raise step
        job.reached = step.place
        yield step


def _leave_signals_to_the_parent(_worker: int):
    """For worker processes: a Ctrl-C reaches them too, and torchrun's SIGTERM; they end when the parent has stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_loader(job: Job) -> DataLoader:
    """The job's steps in order, prepared ahead by `num_workers` processes; the same steps for any number of them."""
    on_cuda = job.model.device.type == "cuda"
    if job.place is not None:
        job.steps.start_at(*job.place)
    num_workers = job.config.num_workers
    if num_workers == -1:
        num_workers = 1 if on_cuda else 0  # rendering takes milliseconds: only a GPU is fast enough to wait for it
    return DataLoader(
        _ErrorsAsValues(job.steps),
        batch_size=None,
        sampler=range(job.first_step, job.num_iterations),
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=on_cuda,
    )
