"""The calls that a served model takes, checked as text before anything is made of them."""

from __future__ import annotations

import json
from typing import Any

COLUMN = "image"
FORMS = ("dataframe_records", "dataframe_split")
TEXT_PARAMS = ("task", "candidates")
MAX_MARKS = 50_000
"""Commas and brackets: base64 has none, and every value of a call costs one."""
MAX_IMAGES = 1_000
ROW = f'{{"{COLUMN}": "<base64 of an encoded image>"}}'


def check_call(body: bytes) -> None:
    """Refuse a body that is not a call, or asks for too much.

    Raises:
        ValueError: with what was found and what is allowed.
    """
    marks = sum(map(body.count, (b",", b"[", b"{")))
    if marks > MAX_MARKS:
        raise ValueError(f"{marks} values; allowed are {MAX_MARKS}: send fewer images")
    try:
        call = json.loads(body)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply; allowed is a call") from None
    except ValueError as error:  # also wrong UTF-8, and numbers of thousands of digits
        raise ValueError(f"no JSON: {error!s:.200}; allowed is {{{FORMS[0]!r}: [{ROW}]}}") from None
    if not isinstance(call, dict):
        raise ValueError(f"found {told(call)}; allowed is an object with {' or '.join(FORMS)}")
    form = [key for key in call if key in FORMS]
    unknown = [key for key in call if key not in (*FORMS, "params")]
    if len(form) != 1 or unknown:
        raise ValueError(
            f"found the keys {list(call)!r:.200}; allowed is one of {list(FORMS)}, and params"
        )
    (check_records if form[0] == FORMS[0] else check_split)(call[form[0]])
    check_params(call.get("params"))


def check_records(rows: Any) -> None:
    """Refuse what is no list of rows."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{FORMS[0]}: found {told(rows)}; allowed is a list of {ROW}")
    check_number(rows)
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or list(row) != [COLUMN]:
            found = f"the columns {list(row)!r:.100}" if isinstance(row, dict) else told(row)
            raise ValueError(f"{FORMS[0]}, row {index}: found {found}; allowed is {ROW}")
        check_text(f"{COLUMN} {index}", row[COLUMN])


def check_split(table: Any) -> None:
    """Refuse what is no table of one column."""
    if not isinstance(table, dict) or not {"columns", "data"} <= set(table):
        raise ValueError(f"{FORMS[1]}: found {told(table)}; allowed is columns and data")
    if table["columns"] != [COLUMN] or set(table) - {"columns", "data", "index"}:
        raise ValueError(
            f"{FORMS[1]}: found the columns {table['columns']!r:.100} and the keys "
            f"{list(table)!r:.100}; allowed are ['{COLUMN}'], with columns, data and index"
        )
    rows = table["data"]
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{FORMS[1]}: found {told(rows)} as data; allowed is a list of rows")
    check_number(rows)
    index = table.get("index", list(range(len(rows))))
    if index != list(range(len(rows))):
        raise ValueError(f"{FORMS[1]}: index: allowed are 0, 1, 2, ... for the rows, or none")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 1:
            raise ValueError(f"{FORMS[1]}, row {number}: found {told(row)}; allowed is one value")
        check_text(f"{COLUMN} {number}", row[0])


def check_params(params: Any) -> None:
    """Refuse parameters that there are not, or of another type."""
    if params is None:
        return
    allowed = {*TEXT_PARAMS, "classes"}
    if not isinstance(params, dict) or set(params) - allowed:
        found = f"{list(params)!r:.200}" if isinstance(params, dict) else told(params)
        raise ValueError(f"params: found {found}; allowed are {sorted(allowed)}")
    for name in TEXT_PARAMS:
        if name in params:
            check_text(name, params[name])
    classes = params.get("classes", [])
    if not isinstance(classes, list):
        raise ValueError(f"classes: found {told(classes)}; allowed is a list of names")
    for number, name in enumerate(classes):
        check_text(f"classes, name {number}", name)


def check_number(rows: list[Any]) -> None:
    """Refuse too many images."""
    if len(rows) > MAX_IMAGES:
        raise ValueError(f"{COLUMN}: found {len(rows)} rows; allowed are {MAX_IMAGES} at once")


def check_text(place: str, value: Any) -> None:
    """Refuse what is no string."""
    if not isinstance(value, str):
        raise ValueError(f"{place}: found {told(value)}; allowed is a string")


def told(value: Any) -> str:
    """Return a JSON value for people, short."""
    return f"{json.dumps(value):.60}" if not isinstance(value, str) else f"{value!r:.60}"
