"""Files in unsupported formats that may contain captions, and how to convert them."""

from __future__ import annotations

import re
from pathlib import Path

_PANDAS = "save it as CSV: `import pandas; pandas.read_{kind}({name!a}).to_csv('captions.csv', index=False)`"
_PARQUET = "or give it columns of image bytes and of captions, and `pip install 'captionkit[bulk]'`"
_SHEET = "save it as CSV (UTF-8) in the spreadsheet program"
_UNPACK = "unpack it beside the images"
_OTHER = "write its captions as CSV with the columns image and caption"

_WAYS_OUT = {
    ".parquet": f"{_PANDAS.replace('{kind}', 'parquet')}; {_PARQUET}",
    **dict.fromkeys((".feather", ".arrow"), _PANDAS.replace("{kind}", "feather")),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), _SHEET),
}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
# Archives and others are reported only if their names suggest captions: archives of images are common.
_PACKED_TEXT = re.compile(r".*\.(json|jsonl|ndjson|csv|tsv|txt|token)\.(gz|bz2|xz|zst|zip)")
_SPEAKS = re.compile(r"caption|annotation|metadata")
_OTHERS = (
    *_PACKED,
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".xml",
    ".yaml",
    ".yml",
    ".h5",
    ".hdf5",
    ".db",
    ".sqlite",
    ".mat",
)


def way_out(path: Path, before: str = "") -> str:
    """Return how to convert an unsupported file that may contain captions, prefixed by `before`.

    "" for any other file.
    """
    name, suffix = path.name.casefold(), path.suffix.casefold()
    if suffix in _WAYS_OUT:
        return before + _WAYS_OUT[suffix].replace("{name!a}", ascii(path.name))
    if _PACKED_TEXT.fullmatch(name) or (suffix in _PACKED and _SPEAKS.search(name)):
        return before + _UNPACK
    return before + _OTHER if suffix in _OTHERS and _SPEAKS.search(name) else ""
