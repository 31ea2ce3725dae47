"""Telling errors of memory from others."""

from __future__ import annotations


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error says that memory is used up: Python's own, torch's, or what torch raises on a CPU.

    Torch's class is known by its name, as nothing here imports torch.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "you tried to allocate" in str(error)
