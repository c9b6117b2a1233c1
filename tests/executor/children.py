"""Which processes run ranks: those of one launcher, for other runs may share the machine."""

import signal
from pathlib import Path


def hear_interrupts() -> None:
    """Undo in a child what a shell does to commands in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ranks_of(launcher: int) -> set[int]:
    """The processes that run ranks and that `launcher` has started."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{launcher}\n" in path.read_text():
                command = (path.parent / "cmdline").read_bytes()
                found |= {int(path.parent.name)} if b"executor.child" in command else set()
        except OSError:
            continue
    return found
