"""Captions in XMP sidecars and inside images: exiftool reads them back, and what others wrote stays."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import captionkit
from captionkit.cli import main as cli
from captionkit.data.image_repair import jpeg
from captionkit.errors import CaptionkitError
from captionkit.publish.embedded import EmbeddedMetadata
from captionkit.publish.merging import Existing
from captionkit.publish.metadata import FIELDS, WRITER, MetadataFields, clear, own_fields
from captionkit.publish.publisher import Wording
from captionkit.publish.xmp import XmpDocument
from captionkit.publish.xmp_sidecars import XmpSidecars

pytest.importorskip("defusedxml", reason="the extra `metadata` is not installed")
pytest.importorskip("exiftool", reason="the extra `metadata` is not installed")
needs_exiftool = pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")

EXAMPLE = Path(captionkit.__file__).parent / "assets" / "examples" / "cat.jpg"
TAGS = {
    "description": "XMP-dc:Description",
    "image-description": "XMP-tiff:ImageDescription",
    "alt": "XMP-iptcCore:AltTextAccessibility",
    "extended": "XMP-iptcCore:ExtDescrAccessibility",
}
SAID = Wording("a café & <cat>", 'A "café" & <cat>.', "A café.\nA cat.")
WANTED = {"description": SAID.caption, "image-description": SAID.caption, "alt": SAID.alt, "extended": SAID.long}


def exiftool(*arguments: object) -> str:
    return subprocess.run(["exiftool", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def read_back(path: Path) -> dict[str, Any]:
    values = json.loads(exiftool("-j", "-G1", *(f"-{tag}" for tag in TAGS.values()), path))[0]
    return {name: values.get(tag) for name, tag in TAGS.items()}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "IMG.jpg"))


@needs_exiftool
def test_exiftool_reads_every_field_of_a_sidecar_and_a_second_run_writes_nothing(image: Path) -> None:
    destination = MetadataFields(XmpSidecars())
    assert destination.is_open(image, image)
    assert len(destination.write(image, image, SAID)) == 4
    sidecar = image.with_name("IMG.jpg.xmp")
    assert read_back(sidecar) == WANTED
    assert exiftool("-s3", "-validate", sidecar).startswith("OK")
    before = sidecar.read_bytes(), sidecar.stat().st_mtime_ns
    assert not destination.is_open(image, image) and not destination.write(image, image, SAID)
    assert (sidecar.read_bytes(), sidecar.stat().st_mtime_ns) == before


@needs_exiftool
def test_a_sidecar_of_another_program_is_used_and_keeps_its_other_fields(image: Path) -> None:
    sidecar = image.with_suffix(".xmp")
    theirs = ("-XMP-dc:Creator=Jane", "-XMP-xmp:Rating=4", "-XMP-lr:HierarchicalSubject=a|b", "-XMP-dc:Title-de=Titel")
    exiftool("-q", *theirs, "-XMP-photoshop:CaptionWriter=Jane", "-XMP-dc:Description-de=Katze", "-o", sidecar, image)
    sidecar.chmod(0o640)
    shown = json.loads(exiftool("-j", "-G1", "-a", "-XMP:all", sidecar))[0]
    assert len(MetadataFields(XmpSidecars()).write(image, image, SAID)) == 3  # one is described in German
    assert not image.with_name("IMG.jpg.xmp").exists() and stat.S_IMODE(sidecar.stat().st_mode) == 0o640
    after = json.loads(exiftool("-j", "-G1", "-a", "-XMP:all", sidecar))[0]
    assert after.pop("XMP-photoshop:CaptionWriter").startswith("Jane; captionkit [")
    assert {name: after[name] for name in shown if name in after} == {
        name: value for name, value in shown.items() if name != "XMP-photoshop:CaptionWriter"
    }
    assert len(clear(XmpSidecars(), image)) == 3
    assert json.loads(exiftool("-j", "-G1", "-a", "-XMP:all", sidecar))[0] == shown


@pytest.mark.parametrize(
    ("existing", "expected"),
    [("skip", "mine"), ("overwrite", "new"), ("append", "mine, new"), ("prepend", "new, mine")],
)
def test_a_persons_text_stays_unless_asked_otherwise(existing: Existing, expected: str, image: Path) -> None:
    sidecar = image.with_name("IMG.jpg.xmp")
    document = XmpDocument()
    document.change({"description": "mine"})
    sidecar.write_bytes(document.to_bytes())
    store, said = XmpSidecars(), Wording("new", "New.", "New.")
    MetadataFields(store, fields=("description", "alt"), existing=existing).write(image, image, said)
    texts = store.read(image)
    assert texts["description"] == expected and texts["alt"] == "New." and "extended" not in texts
    assert own_fields(texts) == (["description", "alt"] if existing == "overwrite" else ["alt"])
    clear(store, image)
    assert store.read(image) == ({} if existing == "overwrite" else {"description": expected})


def test_a_text_that_was_edited_is_no_longer_cleared(image: Path) -> None:
    store = XmpSidecars()
    MetadataFields(store).write(image, image, SAID)
    store.write(image, {"alt": "My cat Tom."})
    assert own_fields(store.read(image)) == ["description", "image-description", "extended"]
    clear(store, image)
    assert store.read(image) == {"alt": "My cat Tom."}
    store.write(image, {"alt": None})
    assert not image.with_name("IMG.jpg.xmp").exists()  # captionkit began it, and nothing is left


def test_properties_as_attributes_are_read_and_replaced(image: Path) -> None:
    sidecar = image.with_name("IMG.jpg.xmp")
    sidecar.write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- kept --><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:ImageDescription="mine" '
        'xmlns:foo="http://example.org/foo" foo:bar="1"/></rdf:RDF></x:xmpmeta>'
    )
    store = XmpSidecars()
    assert store.read(image) == {"image-description": "mine"}
    store.write(image, {"image-description": "new"})
    text = sidecar.read_text()
    assert (
        store.read(image) == {"image-description": "new"}
        and 'foo:bar="1"' in text
        and "kept" in text
        and "mine" not in text
    )


@pytest.mark.parametrize(
    "content",
    [
        b"no xml",
        b"<a/>",
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
    ],
)
def test_what_is_no_xmp_is_left_alone(content: bytes, image: Path) -> None:
    sidecar = image.with_suffix(".xmp")
    sidecar.write_bytes(content)
    with pytest.raises(CaptionkitError, match=r"IMG.xmp: is no XMP") as caught:
        MetadataFields(XmpSidecars()).write(image, image, SAID)
    assert "\n" not in str(caught.value) and sidecar.read_bytes() == content


def test_texts_inside_an_image_count_for_its_sidecar(image: Path) -> None:
    exif = Image.Exif()
    exif[270] = "Tom on the sofa"
    with Image.open(EXAMPLE) as photo:
        photo.save(image, exif=exif)
    changes = MetadataFields(XmpSidecars(look_inside=True)).write(image, image, SAID)
    assert {change.where.rpartition(" ")[2] for change in changes} == {FIELDS["alt"], FIELDS["extended"]}
    exif[270] = "OLYMPUS DIGITAL CAMERA"
    with Image.open(EXAMPLE) as photo:
        photo.save(image.with_name("b.jpg"), exif=exif)
    assert len(MetadataFields(XmpSidecars(look_inside=True)).write(image.with_name("b.jpg"), image, SAID)) == 4


def scan(data: bytes) -> bytes:
    """The compressed image of a JPEG, from its first scan on."""
    return data[data.index(b"\xff\xda") :]


@needs_exiftool
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_fields_inside_an_image_are_read_back_and_its_pixels_stay(kind: str, tmp_path: Path) -> None:
    store, target = EmbeddedMetadata(), tmp_path / f"a b.{kind.lower()}"
    with Image.open(EXAMPLE) as photo:
        photo.resize((64, 48)).save(target, kind)
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    before, pixels = target.read_bytes(), np.asarray(Image.open(target))
    destination = MetadataFields(store)
    assert destination.is_open(link, link) and len(destination.write(link, link, SAID)) == 4
    assert link.is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert read_back(target) == WANTED
    np.testing.assert_array_equal(np.asarray(Image.open(target)), pixels)
    if kind == "JPEG":
        assert scan(target.read_bytes()) == scan(before) and jpeg(target.read_bytes()) == jpeg(before)
    written = target.stat().st_mtime_ns
    assert not destination.is_open(link, link) and not destination.write(link, link, SAID)
    assert target.stat().st_mtime_ns == written and own_fields(store.read(target)) == list(FIELDS)
    assert len(clear(store, target)) == 4 and store.read(target) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, "link"]


@needs_exiftool
def test_descriptions_of_older_programs_are_a_persons_text(image: Path) -> None:
    exiftool("-q", "-overwrite_original", "-IPTC:Caption-Abstract=Tom on the sofa", "-XMP-dc:Creator=Jane", image)
    store = EmbeddedMetadata()
    MetadataFields(store).write(image, image, SAID)
    assert read_back(image) == WANTED | {"description": None, "image-description": None}
    assert "Jane" in exiftool("-s3", "-XMP-dc:Creator", image)
    assert own_fields(store.read(image)) == ["alt", "extended"] and WRITER in store.read(image)


@needs_exiftool
def test_an_image_that_exiftool_cannot_write_is_named_and_stays(tmp_path: Path) -> None:
    for name, content in (("a.bmp", None), ("b.jpg", b"\xff\xd8\xff no jpeg"), ("c.jpg", b"")):
        path = tmp_path / name
        Image.new("RGB", (8, 8)).save(path) if content is None else path.write_bytes(content)
        before = path.read_bytes()
        with pytest.raises(CaptionkitError, match=rf"{name}: exiftool: ") as caught:
            MetadataFields(EmbeddedMetadata()).write(path, path, SAID)
        assert "\n" not in str(caught.value) and path.read_bytes() == before
    with pytest.raises(CaptionkitError, match="rename it"):
        EmbeddedMetadata().read(tmp_path / "a\n-delete_original!.jpg")
    assert len(list(tmp_path.iterdir())) == 3


@needs_exiftool
def test_the_command_line_writes_shows_and_clears(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = image.read_bytes()
    write = ["caption", str(image), "--write", "both", "--fields", "description,alt"]
    assert cli.main([*write, "--dry-run"]) == 0
    assert capsys.readouterr().err.count("dc:description: '") == 2 and image.read_bytes() == before
    assert cli.main(write) == 0
    caption = capsys.readouterr().out.rstrip("\n")
    sidecar = image.with_name("IMG.jpg.xmp")
    for path in (image, sidecar):
        found = read_back(path)
        assert found["description"] == caption and found["alt"] == f"{caption.capitalize()}." and not found["extended"]
    assert cli.main(write) == 0
    assert "1 image with a text already left alone" in capsys.readouterr().err
    assert cli.main(["metadata", str(image.parent), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["own"] for record in records] == [["description", "alt"]] * 2
    assert cli.main(["metadata", str(image), "--clear"]) == 0
    assert not sidecar.exists() and scan(image.read_bytes()) == scan(before) and not any(read_back(image).values())


def test_a_field_that_does_not_exist_is_refused(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["caption", str(image), "--write", "xmp", "--fields", "alt,titel"]) == 1
    assert "--fields titel; the fields are description," in capsys.readouterr().err


@needs_exiftool
def test_an_exiftool_that_ends_is_told_and_started_again(image: Path) -> None:
    store = EmbeddedMetadata()
    assert store.read(image) == {}
    process = store._tool._process
    process.kill()
    process.wait()
    with pytest.raises(CaptionkitError, match="exiftool ended"):
        store.read(image)
    assert store.read(image) == {}
