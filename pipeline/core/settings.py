"""Settings as nested and as flat dicts, and how their mistakes are reported."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError


def describe(error: ValidationError) -> list[str]:
    """Return a line for each problem: its place, what it got, and what was expected."""
    return [_describe(problem) for problem in error.errors()]


def _describe(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "value_error":  # a check of several keys together has no place
        return f"{place}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    if problem["type"] == "json_invalid":
        return str(problem["msg"])
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if problem["type"] == "missing":
        return f"{place}: missing"
    return f"{place}: got {problem['input']!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested dicts into one with dotted names; an empty dict is a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted names into nested dicts: the inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[key] = value
    return nested
