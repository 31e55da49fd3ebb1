"""The header of a prompt's file: JSON that is checked before it is used."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pipeline.core.config import Config

HALF_BYTES = 2

Size = Annotated[int, Field(ge=1, lt=2**31)]


class Entry(Config):
    """One tensor: its name, its shape, its bits per scalar, and how many codebooks it has."""

    name: str
    shape: list[Size] = Field(min_length=1, max_length=3)
    bits: int
    codebooks: int = Field(ge=0)

    @model_validator(mode="after")
    def check(self) -> Entry:
        """Refuse unknown bits, and codebooks that do not share the rows equally.

        Raises:
            ValueError: naming them.
        """
        if self.bits not in (*range(1, 9), 16):
            raise ValueError(f"bits: got {self.bits}; expected 1 to 8, or 16")
        fits = self.codebooks == 0 if self.bits == 16 else self.codebooks > 0
        if not fits or (self.codebooks and self.shape[0] % self.codebooks):
            raise ValueError(
                f"codebooks: got {self.codebooks} for {self.shape[0]} rows of {self.bits} bits; "
                "expected none at 16 bits, else a divisor of the rows"
            )
        return self

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes, or of the values."""
        return -(-math.prod(self.shape) * self.bits // 8)

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """G codebooks of C centroids."""
        return self.codebooks, 2**self.bits if self.codebooks else 0

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the codebooks."""
        return HALF_BYTES * math.prod(self.codebook_shape)


class Header(Config):
    """Everything in a file but the values.

    Attributes:
        init: words whose embeddings start the context.
        n_ctx: M.
        tensors: in the order of the payload.
        fingerprint: of the backbone that the prompt was learned for.
        about: any JSON value.
    """

    init: str = Field(pattern=r"\S")
    n_ctx: Size
    tensors: list[Entry]
    fingerprint: str
    about: Any

    @model_validator(mode="after")
    def check(self) -> Header:
        """Refuse two tensors of one name.

        Raises:
            ValueError: if there are.
        """
        if len({entry.name for entry in self.tensors}) < len(self.tensors):
            raise ValueError("tensors: got a name twice; expected each once")
        return self

    def to_json(self) -> bytes:
        """Return the header as compact JSON.

        Raises:
            ValueError: if `about` holds a number that is not finite.
        """
        plain = {**self.model_dump(exclude={"about"}), "about": self.about}
        return json.dumps(plain, allow_nan=False, separators=(",", ":")).encode()


def read_header(data: bytes) -> Header:
    """Parse a header.

    Raises:
        ValueError: if it is not JSON, or a value is missing or of another type.
    """
    try:
        value = json.loads(data.decode(), parse_float=finite, parse_constant=finite)
        return Header.model_validate(value, strict=True)
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False, include_context=False, include_input=False)
        place = ".".join(str(part) for part in ("header", *problem["loc"]))
        raise ValueError(f"{place}: {problem['msg'].removeprefix('Value error, ')}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header: {error}") from None


def finite(text: str) -> float:
    """Return a number; Python's JSON would accept NaN, the infinities, and 1e999 too.

    Raises:
        ValueError: if it is not finite.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"got {text:.20}; expected a finite number")
    return number
