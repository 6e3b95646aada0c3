"""Which releases of the tensorrt package csbench runs on."""

from __future__ import annotations

OLDEST, TOO_NEW = 10, 11  # 11 has no weakly typed networks, and so no flag for fp16 or bf16
INSTALL = f"pip install 'tensorrt>={OLDEST},<{TOO_NEW}'"


def why_not(version: str) -> str | None:
    """Why this release cannot be used, in one line; None where it can."""
    major = int(version.partition(".")[0])
    if OLDEST <= major < TOO_NEW:
        return None
    too = "old" if major < OLDEST else "new (it has no precision flags)"
    return f"tensorrt {version} is too {too}"
