"""Beside the line: Ctrl-C, a stopped cell and SIGTERM, made polite. The first asks, the second insists.

    with Interrupts() as interrupts:
        ...
        if interrupts.asked: save and leave

Python raises KeyboardInterrupt wherever it happens to be, also in the middle of moving the weights. Inside the `with` a
first signal is only noted, so that the run can stop where nothing is half done; a second one raises at once.
"""

import signal
import threading

SIGNALS = ("SIGINT", "SIGTERM")


class Interrupted(KeyboardInterrupt):
    """A run was stopped on request; `exit_status` is 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT):
        super().__init__(message)
        self.exit_status = 128 + signal_number


class Interrupts:
    """While entered, `asked` is the number of the first signal that came, or None.

    In another thread than the main one signals never arrive, and nothing is changed.
    """

    def __init__(self):
        self.asked: int | None = None
        self._before = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame):
        if self.asked is not None:
            raise Interrupted("Stopped at once.", number)
        self.asked = number
