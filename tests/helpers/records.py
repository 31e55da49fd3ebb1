"""Parts of records that tests share."""

from pipeline.core.provenance import Origin

ORIGIN = Origin("0" * 40, "code")
