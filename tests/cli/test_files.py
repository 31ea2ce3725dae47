"""Writing: what is named is written to, be it a link, a pipe or a device, and a file keeps its mode and its owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from captionkit.errors import CaptionkitError
from captionkit.utils import atomic_write
from tiers import slow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="neither pipes nor modes of this kind")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_written_through(tmp_path: Path, there: bool) -> None:
    target = tmp_path / "store" / "real.json"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    (tmp_path / "middle.json").symlink_to("store/real.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "middle.json")
    atomic_write.write_text(tmp_path / "link.json", "new")
    assert target.read_text() == "new" and not target.is_symlink()
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "middle.json").is_symlink()
    assert names(tmp_path) == ["link.json", "middle.json", "store"] and names(target.parent) == ["real.json"]


def test_a_link_that_leads_nowhere_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises(CaptionkitError, match=r"loop\.json: cannot be written"):
        atomic_write.write_text(tmp_path / "loop.json", "new")
    assert (tmp_path / "loop.json").is_symlink()


def test_the_mode_stays_and_a_new_file_has_that_of_the_umask(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("old")
    old.chmod(0o600)
    usual = os.umask(0o027)
    try:
        for path in (old, new):
            atomic_write.write_text(path, "new")
    finally:
        os.umask(usual)
    assert stat.S_IMODE(old.stat().st_mode) == 0o600 and stat.S_IMODE(new.stat().st_mode) == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    atomic_write.write_text(path, "new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)
    assert path.read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe, said = tmp_path / "pipe.json", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: said.append(pipe.read_bytes()), daemon=True)
    reader.start()
    atomic_write.write_bytes(pipe, b"x" * 200_000)
    reader.join(10)
    assert said == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ["pipe.json"]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that swallows all: one of the test's own where root could replace that of the system."""
    if os.geteuid() != 0:
        return Path("/dev/null")
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        path.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device of one's own here ({error.strerror})")
    return path


def test_a_device_is_written_into(tmp_path: Path, device: Path) -> None:
    (tmp_path / "away.csv").symlink_to(device)
    for path in (device, tmp_path / "away.csv"):
        atomic_write.write_text(path, "gone")
        assert stat.S_ISCHR(path.stat().st_mode)
    assert (tmp_path / "away.csv").is_symlink()


@pytest.mark.parametrize("name", ["/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["file", *slow("pipe")])
def test_standard_output_is_written_on_where_it_stands(tmp_path: Path, name: str, kind: str) -> None:
    """By a link, as /dev/stdout is one."""
    if not Path(name).parent.exists():
        pytest.skip(f"no {name} here")
    (tmp_path / "stdout").symlink_to(name)
    steps = ["import sys", "from captionkit.utils import atomic_write", "print('before')"]
    code = "; ".join([*steps, "atomic_write.write_text(sys.argv[1], 'this\\n')", "print('after')"])
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "stdout"],
            stdout=file if kind == "file" else subprocess.PIPE,
            check=True,
        )
    said = out.read_bytes() if kind == "file" else done.stdout
    assert said == b"before\nthis\nafter\n"
    assert names(tmp_path) == ["out.txt", "stdout"] and (tmp_path / "stdout").is_symlink()


def test_names_as_long_as_the_system_takes_are_written(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "ä" * 125 + ".json"):
        atomic_write.write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


ORDINARY = ["setpriv", "--inh-caps=-dac_override,-dac_read_search"]
ORDINARY += ["--bounding-set=-dac_override,-dac_read_search"]


def as_ordinary_user(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python as one whom rights bind; skips the test where that cannot be."""
    from shutil import which

    if os.geteuid() == 0 and not which("setpriv"):
        pytest.skip("root passes by all rights, and there is no setpriv")
    before = ORDINARY if os.geteuid() == 0 else []
    return subprocess.run([*before, sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


WRITE = """
import sys
from captionkit.utils import atomic_write
from captionkit.errors import CaptionkitError
try:
    atomic_write.write_text(sys.argv[1], "new")
except CaptionkitError as error:
    print(error)
"""


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("old")
    path.chmod(0o444)
    done = as_ordinary_user("-c", WRITE, path)
    assert done.stdout.startswith(f"{path}: cannot be written (Permission denied)"), done.stderr
    assert path.read_text() == "old" and names(tmp_path) == ["mine.json"]


@pytest.mark.slow
def test_a_file_in_a_closed_folder_is_written_where_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "open.json").write_text("old and long")
    folder.chmod(0o555)
    try:
        done = as_ordinary_user("-c", WRITE, folder / "open.json")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (folder / "open.json").read_text() == "new"
        done = as_ordinary_user("-c", WRITE, folder / "another.json")
        assert "another.json: cannot be written (Permission denied)" in done.stdout, done.stderr
    finally:
        folder.chmod(0o755)
