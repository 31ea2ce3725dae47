"""Figures in words, which several parts of a report use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from captionkit.training.report.run_data import RunData


def number(value: Any, decimals: int = 3) -> str:
    """A figure, or that it is unknown; not finite ones are recorded as null."""
    return "unknown" if value is None else f"{value:,.{decimals}f}"


def brief(value: float) -> str:
    """A positive figure of any size, to three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def moment(iso: str) -> str:
    """A time as people read it."""
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso or "unknown"
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def minutes(seconds: float) -> str:
    """A time span: minutes, or seconds where it is short."""
    return f"{seconds / 60:,.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def minutes_of(material: RunData) -> float | None:
    """Minutes of all sittings; of a run that kept no sittings, those that its model tells."""
    if material.sittings:
        return sum(sum(sitting.seconds.values()) for sitting in material.sittings) / 60
    return material.provenance.get("minutes")


def device_of(material: RunData) -> str:
    """What the run was computed on."""
    if not material.sittings:
        return str(material.provenance.get("device", "unknown"))
    sitting = material.sittings[-1]
    machine, several = sitting.machine, sitting.processes
    threads = machine.get("threads", 1)
    plain = f"{machine.get('processor', 'a processor')}, {threads} thread{'s' * (threads != 1)}"
    name = machine.get("accelerator") or (plain if machine.get("device") == "cpu" else machine.get("device", "unknown"))
    return f"{several} x {name}" if several > 1 else str(name)


def same_or_each(values: Sequence[str]) -> str:
    """What all sittings have in common, or each one's own."""
    if len(set(values)) <= 1:
        return next(iter(values), "unknown")
    return "; ".join(f"{value or 'none'} (sitting {number})" for number, value in enumerate(values, 1))
