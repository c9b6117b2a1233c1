"""How a command line ends: its exit code, and one message for what went wrong."""

from __future__ import annotations

import os
import sys

from cyclopts import App, CycloptsError


def _without_closed_streams() -> None:
    """Give what a caller closed (`>&-`) somewhere to go, that its number is no file's of ours."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def run(app: App, tokens: list[str]) -> int:
    """Run one command line and return its exit code; errors become one message on stderr.

    Raises what is not the user's to mend.
    """
    _without_closed_streams()
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        from reports.commands.explaining import usage

        sys.stderr.write(f"{usage(error, tokens)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was written\n")
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from reports.commands.files import exit_of_error

        return exit_of_error(error, tokens)
