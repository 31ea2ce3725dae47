"""Recognition of out-of-memory errors."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory: Python's own, torch's, or what torch raises on a CPU.

    torch's class is recognised by name, since nothing here imports torch.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "you tried to allocate" in str(error)
