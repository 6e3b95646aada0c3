"""Where compiled kernels and measured choices are kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder, made if absent: CSBENCH_CACHE_DIR, else $XDG_CACHE_HOME/csbench."""
    chosen = os.environ.get("CSBENCH_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(base) / "csbench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured_file(what: str, *identity: object) -> Path:
    """Where a figure is kept that holds for what `identity` names, and for nothing else (JSON)."""
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return cache_dir() / f"{what}-{digest}.json"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a cache file so that a reader in another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
