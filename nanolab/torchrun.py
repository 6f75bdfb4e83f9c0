"""Beside the line: torchrun as launch.py starts it. It ends when its launcher says so, and when its launcher is gone.

    python -m nanolab.torchrun --standalone --nproc-per-node 2 -m -- nanolab sft --data=toy

The launcher holds the other end of stdin and writes nothing. When that end is closed, as it also is by the death of a
notebook, torchrun gets the SIGINT of a Ctrl-C: it passes it on, the ranks save, and it does not start them again
(`--max-restarts`) as it would if they ended by themselves. It gets one signal only: a second one would break off the
saving. Should torchrun itself be killed, the ranks notice (ranks.launcher_is_gone).
"""

import os
import signal
import threading

import psutil


def main() -> None:
    """Do what torchrun does with the words of the command line, until stdin is closed."""
    held = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # what the ranks find there
    threading.Thread(target=end_when_closed, args=(held,), daemon=True).start()

    from torch.distributed.run import main as torchrun  # slow

    from nanolab.ranks import LAUNCHED_BY, this_process

    os.environ[LAUNCHED_BY] = this_process()
    torchrun()


def end_when_closed(held: int) -> None:
    """Wait for the end of this pipe, then let this process, which is torchrun, end.

    SIGINT, which torchrun passes on to the ranks and their helpers: those that prepare steps would die of a SIGTERM,
    and break off the saving. Without ranks SIGTERM: a Python that has just started can lose a SIGINT.
    """
    while os.read(held, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT if psutil.Process().children() else signal.SIGTERM)


if __name__ == "__main__":
    main()
