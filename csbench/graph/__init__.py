"""A network as a list of fused convolutions, which every backend receives alike."""

from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program, Step
from csbench.graph.trace import trace

__all__ = ["Conv", "Program", "Step", "attach", "trace"]
