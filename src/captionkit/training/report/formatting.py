"""Formatting of numbers, times and devices, shared by the sections of a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from captionkit.training.report.run_data import RunData


def number(value: Any, decimals: int = 3) -> str:
    """Format a number; None, which is how non-finite values are recorded, becomes "unknown"."""
    return "unknown" if value is None else f"{value:,.{decimals}f}"


def brief(value: float) -> str:
    """Format a positive number of any size to three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def moment(iso: str) -> str:
    """Format an ISO 8601 time for people."""
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso or "unknown"
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def minutes(seconds: float) -> str:
    """Format a duration in minutes, or in seconds if it is under a minute."""
    return f"{seconds / 60:,.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def minutes_of(run_data: RunData) -> float | None:
    """Return the minutes of all sessions; without recorded sessions, those in the saved model's provenance."""
    if run_data.sessions:
        return sum(sum(session.seconds.values()) for session in run_data.sessions) / 60
    return run_data.provenance.get("minutes")


def device_of(run_data: RunData) -> str:
    """Return a description of the device that the run used."""
    if not run_data.sessions:
        return str(run_data.provenance.get("device", "unknown"))
    session = run_data.sessions[-1]
    machine, several = session.machine, session.processes
    threads = machine.get("threads", 1)
    plain = f"{machine.get('processor', 'a processor')}, {threads} thread{'s' * (threads != 1)}"
    name = machine.get("accelerator") or (plain if machine.get("device") == "cpu" else machine.get("device", "unknown"))
    return f"{several} x {name}" if several > 1 else str(name)


def same_or_each(values: Sequence[str]) -> str:
    """Return the value that all sessions share, or else the value of each session."""
    if len(set(values)) <= 1:
        return next(iter(values), "unknown")
    return "; ".join(f"{value or 'none'} (session {number})" for number, value in enumerate(values, 1))
