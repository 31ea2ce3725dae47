"""Out-of-memory errors that say which settings to reduce."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from captionkit.errors import TrainingError
from captionkit.training.run.progress import Progress
from captionkit.utils.out_of_memory import is_out_of_memory


@contextmanager
def memory_errors(progress: Progress) -> Iterator[None]:
    """Convert out-of-memory errors into a TrainingError that says which settings to reduce."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "start again with a larger trainer.gradient_accumulation_steps or a smaller trainer.batch_size"
        raise TrainingError(f"out of memory after step {progress.step}; {remedy}") from None
