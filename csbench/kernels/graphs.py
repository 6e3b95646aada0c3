"""CUDA graphs: torch after a capture that failed."""

from __future__ import annotations

import torch


def forget_failed_capture() -> None:
    """Make torch's random numbers usable again after a capture has failed.

    torch tells its generator that a capture begins, and when it has ended well; after one that
    failed every random number on the GPU is refused. So one that ends well follows.
    """
    torch.cuda.synchronize()
    x = torch.zeros(1, device="cuda").add_(1)  # loads the kernel, which a capture may not
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x.add_(1)
