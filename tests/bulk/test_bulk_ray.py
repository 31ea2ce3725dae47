"""The Ray engine on a cluster of three nodes on this machine: the same parts, whatever becomes of the nodes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bulk_stub import load_slow_stub, settings, union, write_images
from captionkit.bulk.run import caption_dataset
from captionkit.errors import CaptionkitError

ray = pytest.importorskip("ray")
from captionkit.bulk.ray_engine import ray_engine  # noqa: E402

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).parents[2]
_STORE = 80 << 20  # bytes of a node's object store


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{_ROOT / 'src'}:{_ROOT / 'tests' / 'helpers'}")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    node = {"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.node = {"num_cpus": 1, "object_store_memory": _STORE}
    yield made
    ray.shutdown()
    made.shutdown()


def on(cluster, **changes):
    return settings(engine=ray_engine(cluster.address), load=load_slow_stub, **changes)


def test_a_node_that_is_killed_costs_nothing_and_the_cluster_may_change(cluster, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    write_images(images, 1200)
    (images / "00003.jpg").write_bytes(b"kill")
    caption_dataset(str(images / "sub1"), str(tmp_path / "whole"), settings())
    nodes = [cluster.add_node(**cluster.node) for _ in range(2)]
    cluster.wait_for_nodes()

    def kill_one() -> None:
        while len(list(output.glob("part-*.jsonl"))) < 10:
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = caption_dataset(str(images / "sub1"), str(output), on(cluster))
    killer.join()
    assert (summary.images, summary.failed) == (400, 0)
    assert union(output) == union(tmp_path / "whole")

    ended = tmp_path / "ended"  # on what is left, an image that ends its process is an error as on one machine
    summary = caption_dataset(str(images), str(ended), on(cluster, workers=1, max_errors=0))
    assert summary.failed == 1 and summary.images < 1200
    cluster.add_node(**cluster.node)
    cluster.wait_for_nodes()
    summary = caption_dataset(str(images), str(ended), on(cluster))
    assert (summary.images, summary.failed) == (1200, 1)


def test_an_address_without_a_cluster_is_refused_in_one_line(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    nowhere = settings(engine=ray_engine("127.0.0.1:1"))
    with pytest.raises(CaptionkitError, match="no Ray cluster there") as refused:
        caption_dataset(str(tmp_path / "images"), str(tmp_path / "output"), nowhere)
    assert "\n" not in str(refused.value)
