"""What the parent and its worker processes say to each other: one JSON line a message."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.record import Record
from csbench.core.stop import StopRule


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to measure, the same for every case of a run."""

    stop: StopRule = StopRule()
    seed: int = 0
    rtol: float | None = None  # instead of the precision's own tolerance
    cache: Literal["cold", "warm"] | None = None  # by default warm for networks, cold for layers
    threads: int | None = None
    workers: int = 1  # that measure at the same time on this host


class Plan(msgspec.Struct, frozen=True, tag=True):
    """To a worker: which cases is this?"""

    sweep: Sweep


class Measure(msgspec.Struct, frozen=True, tag=True):
    """To a worker: measure one case."""

    case: Case
    settings: Settings
    slow_ms: tuple[float, ...] = ()  # what the baseline took in workers that were replaced for it


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: torch is loaded; `device` is "cpu" or "cuda"."""

    device: str
    env: dict[str, Any]


class Planned(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the cases of a sweep, all names checked and all defaults filled in."""

    cases: tuple[Case, ...]


class Progress(msgspec.Struct, frozen=True, tag=True):
    """From a worker: what it is doing, and while it samples the share done and the noise so far."""

    phase: str
    share: float = 0.0
    half_width: float | None = None


class Done(msgspec.Struct, frozen=True, tag=True):
    """From a worker: a case came to this."""

    record: Record


class Slow(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the baseline is slow here; a new worker may choose a better one."""

    took_ms: float
    reason: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the request is wrong, with the exit code of the error it raised."""

    message: str
    exit_code: int


Request = Plan | Measure
Reply = Ready | Planned | Progress | Done | Slow | Refused

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """The message as one line."""
    return _encoder.encode(message) + b"\n"


def request(line: bytes) -> Request:
    """A parent's line; raises msgspec.DecodeError."""
    found: Request = _requests.decode(line)
    return found


def reply(line: bytes) -> Reply:
    """A worker's line; raises msgspec.DecodeError."""
    found: Reply = _replies.decode(line)
    return found
