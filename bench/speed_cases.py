"""What `bench/speed.py` measures, by name; contenders and report agree on it here, and nothing heavy is imported."""

from __future__ import annotations

TORCH, TEXTBOOK, VIT_GPT2, BLIP, MACHINE, COLD = "torch", "textbook", "vit-gpt2", "blip", "machine", "cold-start"

BEAMS, BATCHES = (1, 3, 5), (1, 8, 32)
STAGES = ("open", "encode", "decode")
#: images of a turn that come one at a time
SINGLES = 8
#: decoder steps where captions are of the same length for all
STEPS = 20


def case(beam: int, batch: int) -> str:
    """Captions that end where they end."""
    return f"beam {beam}, batch {batch}"


#: what all captioners do
FORCED = f"{case(3, 1)}, {STEPS} steps"
#: the textbook captioner without its repeated work
ONCE = f"{FORCED}, grid projected once"

ARITHMETIC = ("float32", "bfloat16", "int8")
READING = "reading"


def reading(size: int) -> str:
    """The rate at which `size` bytes are read, again and again: what a processor's caches hold is read faster."""
    return f"{READING} {-(-size >> 20)} MB"


def megabytes_of(case: str) -> int:
    """How much `reading` reads."""
    return int(case.split()[1])


COMMAND, LIBRARY = "captionkit caption", "captionkit.load().caption"
IMPORTS = "importing torch and transformers' captioner"
#: of a process that captions through the library
PARTS = ("interpreter", "imports", "sessions", "first caption")
