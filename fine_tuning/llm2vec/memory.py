"""How much memory a run took."""

import resource

import torch

from fine_tuning.embedding.drift import peak_memory_mb as peak_of_this_process


def peak_memory_mb() -> float:
    """Of the GPU where there is one, else of the largest of this process and those it started."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return round(max(peak_of_this_process(), children), 1)
