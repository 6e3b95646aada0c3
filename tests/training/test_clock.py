"""Steps on a GPU are timed one after another; on a CPU nothing goes before them."""

from __future__ import annotations

from csbench.bench.clocks import Run
from csbench.training.clock import step_clock


class Recorder:
    """A clock that writes down what runs inside and outside of its samples."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def now(self) -> float:
        return 7.0

    def sample(self, run: Run, count: int) -> float:
        self.events.append("start")
        for _ in range(count):
            run()
        self.events.append("end")
        return 3.0


def test_an_untimed_step_goes_before_the_timed_ones() -> None:
    own = Recorder()
    clock = step_clock(own, "cuda")
    assert clock.sample(lambda: own.events.append("step"), 2) == 3.0 and clock.now() == 7.0
    assert own.events == ["step", "start", "step", "step", "end"]


def test_on_a_cpu_every_step_is_timed() -> None:
    own = Recorder()
    step_clock(own, "cpu").sample(lambda: own.events.append("step"), 1)
    assert own.events == ["start", "step", "end"]
