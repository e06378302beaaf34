"""How a script ends if something is wrong: one line, and the program's own exit codes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rl4nlu import stop
from rl4nlu.errors import Halted, UserError


@contextlib.contextmanager
def in_one_line(kept: str = "") -> Iterator[None]:
    """Within this block what a user can mend becomes one line and exit code 2, what cannot go on its own code (a full
    disk 4, numbers that are not finite 3), a signal 128 and its number.

    Args:
        kept: said behind a signal's name: what is saved and how to go on.
    """
    try:
        with stop.heeded():
            yield
    except UserError as wrong:
        _end(str(wrong), 2)
    except Halted as halted:
        _end(str(halted), halted.exit_code)
    except stop.Interrupted as signal:
        _end(f"stopped by {signal}{kept}", signal.exit_code)
    except OSError as wrong:
        if wrong.filename is None:
            raise
        _end(f"{wrong.filename}: {wrong.strerror}", 2)


def _end(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code) from None
