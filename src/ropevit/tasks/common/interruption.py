"""Signals that ask a training to stop: it does so between two steps, on all processes at once."""

import signal
from pathlib import Path
from types import FrameType

from ropevit.tasks.common.distributed import Communicator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818
    """The training was asked to stop, and saved.

    Args:
        number: The signal.
        checkpoint: The file that holds every step done.
        step: Steps done.
    """

    def __init__(self, number: int, checkpoint: Path, step: int):
        super().__init__(f"stopped after step {step}, as asked by {signal.Signals(number).name}; saved {checkpoint}")
        self.interrupted = number == signal.SIGINT
        """Whether a person asked for it (Ctrl-C), rather than the system."""


class Interruption:
    """While it is entered, SIGTERM and SIGINT (Ctrl-C) are noted down; a second Ctrl-C interrupts at once.

    Args:
        channel: What connects the processes.
    """

    def __init__(self, channel: Communicator):
        self.channel = channel
        self.signal = 0

    def __enter__(self) -> "Interruption":
        self.before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal down."""
        del frame
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def asked(self) -> bool:
        """Tell whether any process was asked to stop; all must call it, and get the same answer."""
        signals = self.channel.all_reduce_max(self.signal)
        self.signal = self.signal or signals
        return signals > 0
