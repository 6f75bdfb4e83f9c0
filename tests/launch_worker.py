"""What test_launch.py starts on every rank instead of nanolab: the real training with a fault, or a pretended one.

torchrun --nproc-per-node 2 -m -- tests.launch_worker sft --run=name        # WORKER_DOES says what
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def raises() -> int:
    """Train, but rank 1 fails after step 1."""
    from nanolab import jobs
    from nanolab.cli import main

    run = jobs.run

    def faulty_run(job, **options):
        for report in run(job, **options):
            yield report
            if report.step == 1 and RANK == 1:
                raise ValueError("the words\nof rank 1")

    jobs.run = faulty_run
    return main()


def metrics() -> Path:
    """The file that the notebook reads."""
    run = next(word.removeprefix("--run=") for word in sys.argv if word.startswith("--run="))
    path = Path(os.environ["NANOLAB_CACHE"]) / "runs" / run / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(steps):
    """Lines of metrics, each in two halves."""
    with open(metrics(), "a") as file:
        for step in steps:
            text = json.dumps({"step": step, "loss": 1.0, "attempt": ATTEMPT}) + "\n"
            for half in (text[:9], text[9:]):
                file.write(half)
                file.flush()
                time.sleep(0.15)


def stubborn() -> int:
    """Steps without end, and no ear for signals."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if RANK == 0:
        write(range(1_000))
    time.sleep(600)
    return 0


def twice() -> int:
    """Fail after step 3, go on from step 2 when started again, as if it had been saved."""
    if RANK == 0:
        print(f"attempt {ATTEMPT} of rank 0")
        if ATTEMPT == 0:
            metrics().unlink()
            write(range(4))
            return 1
        beside = metrics().with_suffix(".tmp")
        beside.write_text("".join(metrics().read_text().splitlines(keepends=True)[:2]) + "damaged\n")
        os.replace(beside, metrics())
        write(range(2, 6))
    elif ATTEMPT == 0:
        time.sleep(600)
    return 0


def polite() -> int:
    """Steps until it is to stop; then what is done is saved, which takes a while."""
    told = []
    signal.signal(signal.SIGINT, lambda *_: told.append(True))
    for step in range(1_000):
        if told:
            print("saving")
            time.sleep(1)
            print("nanolab: Stopped after 2 of 9 steps.", file=sys.stderr)
            return 130
        write([step] if RANK == 0 else [])
        time.sleep(0.1)
    return 0


def lose_contact() -> int:
    """What a rank does of which another is gone."""
    when = {"timestamp": str(int(time.time()))}
    told = {"message": {"message": "LostContact: Another rank is gone.", "extraInfo": when}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told))
    time.sleep(5)  # torchrun is to find the other first
    return 1


def killed() -> int:
    """Rank 1 is killed, and rank 0 complains."""
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return lose_contact()


def lost() -> int:
    """Rank 0 complains first, because of rank 1, which has failed with a traceback."""
    import torch.distributed as dist

    dist.init_process_group("gloo")  # from here on torch writes tracebacks
    if RANK == 0:
        return lose_contact()
    print("Traceback (most recent call last):\n  File of another, earlier one\nKeyError: 3\n", file=sys.stderr)
    raise ZeroDivisionError("rank 1 divides by nothing")


def machines() -> int:
    """One line of metrics, by rank 0 of all."""
    if os.environ["RANK"] == "0":
        print(f"rank 0 of {os.environ['WORLD_SIZE']}")
        write([0])
    return 0


DOES = {"killed": killed, "lost": lost, "machines": machines, "polite": polite, "raises": raises}
DOES |= {"stubborn": stubborn, "twice": twice}

if __name__ == "__main__":
    sys.exit(DOES[os.environ["WORKER_DOES"]]())
