"""Beside the line: Ctrl-C, a stopped cell and SIGTERM, made polite. The first asks, the second insists.

    with Interrupts() as interrupts:
        ...
        if interrupts.asked: save and leave

Python raises KeyboardInterrupt wherever it happens to be, also in the middle of moving the weights. Inside the `with` a
first signal is only noted, so that the run can stop where nothing is half done; a second one raises at once. Where
nothing is half done anyway, in an evaluation, `at_once` lets the first one raise.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = ("SIGINT", "SIGTERM")


class Interrupted(KeyboardInterrupt):
    """A run was stopped on request; `exit_status` is 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT):
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


class Interrupts:
    """While entered, `asked` is the number of the first signal that came, or None.

    In another thread than the main one signals never arrive, and nothing is changed.
    """

    def __init__(self):
        self.asked: int | None = None
        self._before = {}
        self._at_once = False

    def __enter__(self) -> "Interrupts":
        self.arm()
        return self

    def arm(self) -> None:
        """Take the signals over, again if somebody has put other handlers in place: Jupyter does before every cell."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) != self._note:
                before = signal.signal(number, self._note)
                self._before.setdefault(number, before)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While entered, a first signal raises Interrupted too; so does one that has come before."""
        if self.asked is not None:
            raise Interrupted("Stopped.", self.asked)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame):
        if self.asked is not None:
            raise Interrupted("Stopped at once.", number)
        self.asked = number
        if self._at_once:
            raise Interrupted("Stopped.", number)
