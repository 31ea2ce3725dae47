"""How much memory a device has left for this process, and errors that say what to lower where it is used up."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on `device`; None where the device does not say.

    On a processor, that is what the machine, the process' control groups and its own limit leave; processes that were
    launched together share it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    bounds = [psutil.virtual_memory().available, *group_rooms(_groups_of_process(), _GROUPS)]
    shared = min(bounds) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = _own_limit()
    return shared if own is None else min(shared, own)


def _groups_of_process() -> str:
    """The content of /proc/self/cgroup; empty where there are no control groups."""
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return ""


def group_rooms(groups: str, mounted: Path) -> list[int]:
    """What each control group with a limit leaves, the process' own and those around it; `groups` as in /proc.

    Inside a container, the process' groups are the root that is mounted. What is read from disk and can be dropped
    counts as free.
    """
    rooms = []
    for line in groups.splitlines():
        _, controllers, inside = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, limit, used, cache = mounted / "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
        elif not controllers:
            root, limit, used, cache = mounted, "max", "current", "inactive_file"
        else:
            continue
        within = root / inside.lstrip("/")
        for folder in {root, within, *(outer for outer in within.parents if outer.is_relative_to(root))}:
            try:
                bound = (folder / f"memory.{limit}").read_text().strip()
                taken = int((folder / f"memory.{used}").read_text())
                kinds = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                rooms += [max(0, int(bound) - taken + int(kinds.get(cache, 0)))] if bound != "max" else []
            except (OSError, ValueError):  # the root has no limit, and not every group is shown
                continue
    return rooms


def _own_limit() -> int | None:
    """What `ulimit -v` leaves of addresses; None without such a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if bound == resource.RLIM_INFINITY else max(0, bound - psutil.Process().memory_info().vms)
