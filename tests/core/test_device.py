"""Where a worker computes, and in which precision."""

import logging
from pathlib import Path

import pytest
import torch

from pipeline.core.device import has_bfloat16, usable_precision


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the processor's flags, by Linux")
def test_bfloat16_is_what_the_processor_says() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bfloat16("cpu") == bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)


def test_bfloat16_without_instructions_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    usable_precision.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [usable_precision("bfloat16", "cpu") for _ in range(3)] == ["float32"] * 3
        assert usable_precision("float32", "cpu") == "float32"
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "this CPU has no bfloat16 instructions"
    ]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    usable_precision.cache_clear()
    assert usable_precision("bfloat16", "cpu") == "bfloat16"
    usable_precision.cache_clear()
