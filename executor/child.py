"""A rank's process, started by executor.launch: reads its order, runs it, writes its result."""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import struct
import sys
import traceback
from typing import Any

_LENGTH = struct.Struct("<Q")
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Run the order on standard input; the result goes to the pipe named in the environment."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    results = int(os.environ.pop("PIPETWIN_RESULTS"))
    os.set_inheritable(results, False)
    order: dict[str, Any] = pickle.loads(sys.stdin.buffer.read(), fix_imports=False)
    if os.getppid() != order["parent"]:
        os._exit(1)  # The launcher died before the kernel was told to end this process with it.
    sys.path += [entry for entry in order["sys_path"] if entry not in sys.path]
    if order["pin"]:
        from executor.pinning import pin

        local = int(os.environ["LOCAL_RANK"])
        pin(local, num_local_ranks=int(os.environ["LOCAL_WORLD_SIZE"]))
    code = _run(order, results)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # Without the clean-up of process groups, which may wait for dead peers.


def _run(order: dict[str, Any], results: int) -> int:
    """Call the target and write what it returns; the exit code."""
    from executor.joining import joined
    from executor.transport.base import plainly
    from executor.watchdog import EXIT_CODE, is_consequence

    module, name = order["target"].split(":")
    watchdog = None
    try:
        with joined(deadline_s=order["wait_s"], device=order["device"]) as context:
            watchdog = context.watchdog
            function = getattr(importlib.import_module(module), name)
            result = function(context, pickle.loads(order["payload"]))
            data = pickle.dumps(result)
            with os.fdopen(results, "wb") as pipe:
                pipe.write(_LENGTH.pack(len(data)))
                pipe.write(data)
        return 0
    except BaseException as error:
        consequence = is_consequence(error)
        if consequence:
            sys.stderr.write(f"stopped: {plainly(error)}\n")
        else:
            traceback.print_exception(error)
        if watchdog is not None:
            sys.stderr.write(f"this rank: {watchdog.last_words()}\n")
        return EXIT_CODE if consequence else 1


if __name__ == "__main__":
    main()
