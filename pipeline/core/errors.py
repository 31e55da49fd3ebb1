"""Several problems as one error."""

from __future__ import annotations


def report_all(title: str, problems: list[str], limit: int = 20) -> None:
    """Raise one ValueError that lists every problem; do nothing if there is none."""
    if problems:
        more = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
        raise ValueError("\n  - ".join([title, *problems[:limit], *more]))
