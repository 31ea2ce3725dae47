"""How much memory a device has left for this process."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate on `device`; None if the device does not report it.

    On a CPU this is the minimum of what the machine, the process's control groups and its ulimit leave. What the
    machine and the groups leave is divided among the processes of a distributed launch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    bounds = [psutil.virtual_memory().available, *cgroup_free(_groups_of_process(), _GROUPS)]
    shared = min(bounds) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = _own_limit()
    return shared if own is None else min(shared, own)


def _groups_of_process() -> str:
    """Return the content of /proc/self/cgroup; empty if there are no control groups."""
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return ""


def cgroup_free(groups: str, mounted: Path) -> list[int]:
    """Return the bytes left in each control group with a limit, the process's own and its ancestors.

    `groups` has the format of /proc/self/cgroup. Inside a container the process's groups are the mounted root. Page
    cache that can be reclaimed counts as free.
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
            except (OSError, ValueError):  # the root has no limit, and not every group is visible
                continue
    return rooms


def _own_limit() -> int | None:
    """Return the bytes of address space left under `ulimit -v`; None without such a limit."""
    try:
        import resource
    except ImportError:  # does not exist on Windows
        return None
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if bound == resource.RLIM_INFINITY else max(0, bound - psutil.Process().memory_info().vms)
