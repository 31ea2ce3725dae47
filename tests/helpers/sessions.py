"""`captionkit train` in processes of its own, which tests may kill.

They are forked from a server that has imported the libraries already, which would take longer than the training.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "captionkit.training.trainer",
        "torch.utils.tensorboard",
        "transformers.models.resnet.modeling_resnet",
        "transformers.models.vit.modeling_vit",
    ]
)


def start(
    arguments: Sequence[object], log: Path, environment: Mapping[str, str] | None = None
) -> multiprocessing.process.BaseProcess:
    """Run the command line in a process that leads a group, as in a terminal; what it says goes to `log`."""
    values = {"CAPTIONKIT_CACHE": os.environ["CAPTIONKIT_CACHE"], **(environment or {})}
    process = _SERVER.Process(target=_run, args=([str(argument) for argument in arguments], log, values), daemon=True)
    process.start()
    return process


def launch(processes: int, arguments: Sequence[object], logs: Path) -> list[multiprocessing.process.BaseProcess]:
    """The command line in several processes that work together, as `torchrun` starts them; they say log0, log1, ..."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs.mkdir(exist_ok=True)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "CUDA_VISIBLE_DEVICES": ""}
    world["OMP_NUM_THREADS"] = 1  # as torchrun sets it
    return [
        start(
            arguments,
            logs / f"log{rank}",
            {name: str(value) for name, value in {**world, "RANK": rank, "LOCAL_RANK": rank}.items()},
        )
        for rank in range(processes)
    ]


def _run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    import torch

    os.setsid()
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    sys.modules["onnx"] = None  # type: ignore[assignment]  # without it, nothing is exported at the end
    from captionkit.cli.main import main

    sys.exit(main(arguments))
