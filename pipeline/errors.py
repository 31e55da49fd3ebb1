"""How errors reach people: one message, without a traceback, for what they can mend.

A `ValueError` is for people: it names the place, what was found and what is allowed. Anything
else is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; a `ValueError` becomes one line on stderr and exit status 1."""
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on from here", file=sys.stderr)
        raise SystemExit(130) from None


def report_all(title: str, problems: list[str], limit: int = 20) -> None:
    """Raise one ValueError that lists every problem found; do nothing if there is none."""
    if problems:
        more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
        raise ValueError("\n  - ".join([title, *problems[:limit], *more]))
