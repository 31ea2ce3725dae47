"""`captionkit caption`: caption many images; print, write and draw the results, and report failures."""

from __future__ import annotations

import json
import os
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionkit.cli.inputs import Input, find_inputs
from captionkit.errors import CaptionkitError
from captionkit.inference.figures import attention_of, figure_inputs
from captionkit.inference.load import USUAL_RUNTIME, Runtime
from captionkit.inference.results import ResultsFile
from captionkit.utils import atomic_write, output_checks, paths
from captionkit.utils.archive import ArchiveMember
from captionkit.utils.console import print_message, print_result
from captionkit.utils.progress import progress_bar

# Imported lazily by `load`, in parallel with opening the model.
if TYPE_CHECKING:
    from captionkit.cli.caption_writer import CaptionWriter, WriteOptions
    from captionkit.inference.captioner import Caption, Captioner, Outcome

_NAMED = 10  # images without a caption that are named at the end
_LONGEST_STEM = 200  # bytes of a drawing's file name before its number and suffix
#: appended to the printed line of a low-confidence caption: a field of its own, so that the caption stays unchanged
_REVIEW = "\treview"


def caption_inputs(
    named: Sequence[str],
    *,
    model: str | None,
    as_json: bool,
    output: Path | None,
    attention: Path | None,
    batch_size: int,
    decoding: dict[str, Any],
    min_confidence: float | None = None,
    write: WriteOptions | None = None,
    runtime: Runtime = USUAL_RUNTIME,
) -> int:
    """Caption every image that `named` stands for; return the exit status, 0 only if every image was captioned.

    Captions with a confidence below `min_confidence` are marked for review. With `write`, captions are also written to
    where images are kept; an image whose text stays is not captioned.
    """
    if batch_size < 1:
        raise CaptionkitError(f"batch_size is {batch_size}; use a whole number from 1")
    if write:
        write.check()
    if min_confidence is not None:  # fail before any file is started
        from captionkit.inference.caption_confidence import check_confidence

        check_confidence(min_confidence)
    shown = str(attention) == "-"  # in the terminal, or in the JSON
    place = None if shown else attention
    inputs, total, single, sources = _survey(named, place)
    drawings = _Drawings(place, single, sources) if place else None
    if drawings and total is None:
        inputs = drawings.unwritten(inputs)
    writer = _writer(write, named) if write and write.writes else None
    if writer:
        inputs = writer.without_kept(inputs)
    failures, first = 0, list[str]()
    with ExitStack() as stack:
        results = stack.enter_context(ResultsFile(output, inputs=sources)) if output else None
        captioner = runtime.load(model)
        if attention:
            captioner.check_attention()
        restyle, hypotheses = style_of(write, captioner, decoding)
        settings = {**decoding, **hypotheses, "min_confidence": min_confidence}
        for given, outcome in progress_bar(outcomes_of(captioner, inputs, batch_size, settings), total, "captioning"):
            if given.kept:
                continue
            outcome = restyle(outcome)
            if writer and outcome.caption:
                outcome = writer.write(given, outcome)
            record = _record(given, outcome, maps=shown and as_json)
            if results:
                results.add(record)
            if "error" in record:
                failures += 1
                first += [paths.shown(given.name)] if failures <= _NAMED else []
                print_message(f"captionkit: {record['error']}")
            elif outcome.note:
                print_message(f"captionkit: {paths.shown(given.name)}: {outcome.note}")
            if drawings and outcome.caption:
                with drawings.place(given) as path:
                    _draw(captioner, given, outcome.caption, path)
            _print(record, as_json, single)
            if shown and not as_json and outcome.caption:
                _show_maps(outcome.caption)
    if writer:
        writer.sum_up()
    if failures:
        listed = ", ".join(first) + (f" and {failures - _NAMED} more" if failures > _NAMED else "")
        if not single:
            print_message(f"captionkit: {failures} not captioned: {listed}")
        return 1
    return 0


def _writer(write: WriteOptions, named: Sequence[str]) -> CaptionWriter:
    from captionkit.cli.caption_writer import CaptionWriter

    return CaptionWriter(write.publisher(), named, dry_run=write.dry_run)


def style_of(
    write: WriteOptions | None, captioner: Captioner, decoding: dict[str, Any]
) -> tuple[Callable[[Outcome], Outcome], dict[str, Any]]:
    """Return what words an outcome in the style asked for, and the options of decoding that it needs."""
    if write is None or write.style != "alt":
        return lambda outcome: outcome, {}
    from captionkit.publish.alt_text import MAX_CHARS, as_alt_text, search_options

    wanted = decoding.get("num_captions", 1)
    hypotheses = search_options(replace(captioner.decoding, **decoding))
    return partial(as_alt_text, max_chars=write.max_chars or MAX_CHARS, wanted=wanted), hypotheses


class _Drawings:
    """Output paths for attention figures: one named file for a single image, or a folder with one file per image.

    Never overwrites an input of the run or a file that captionkit did not draw. Raises CaptionkitError, before any
    work, if one file is named for several images or the path is occupied.
    """

    def __init__(self, place: Path, single: bool, inputs: Sequence[str]) -> None:
        self._place, self._inputs, self._written = place, output_checks.FileSet(inputs), output_checks.FileSet()
        self._names, self._numbers = set[str](), Counter[str]()
        self._file = bool(place.suffix) and not paths.is_folder(place)
        if self._file:
            from captionkit.viz.attention_files import check_name

            check_name(place)
            if not single:
                raise CaptionkitError(f"{place}: is one file, but there may be several images; name a folder")
            output_checks.check_output_file(place, output_checks.is_drawing, inputs=inputs)
        else:
            output_checks.check_output_folder(place)

    @contextmanager
    def place(self, given: Input) -> Iterator[Path]:
        """Yield the path for an image's figure. Of several images with one stem, all but the first get a number."""
        path = self._place if self._file else self._free(given)
        yield path
        self._written.add(path)

    def _free(self, given: Input) -> Path:
        stem = "stdin" if given.name == "-" else Path(given.name).stem
        while len(os.fsencode(stem)) > _LONGEST_STEM:
            stem = stem[:-1]
        for number in count(self._numbers[stem] + 1):
            name = f"{stem}-{number}.png" if number > 1 else f"{stem}.png"
            known = unicodedata.normalize("NFC", name).casefold()  # as some file systems compare names
            if known not in self._names and self._may_draw(self._place / name):
                break
        self._numbers[stem] = number
        self._names.add(known)
        return self._place / name

    def _may_draw(self, path: Path) -> bool:
        try:
            link = stat.S_ISLNK(path.lstat().st_mode)
        except FileNotFoundError:
            link = False
        except OSError as error:  # an error of the folder: another name would fail too
            raise atomic_write.cannot_write(path, error) from None
        try:
            ours = not link and output_checks.replaceable(path, output_checks.is_drawing)
        except OSError:
            return False
        return ours and not self._inputs.holds(path)

    def unwritten(self, inputs: Iterator[Input]) -> Iterator[Input]:
        """Yield the inputs, with an error in place of those that this run drew itself before they were read."""
        for given in inputs:
            if isinstance(given.source, str) and self._written.holds(given.source):
                given = replace(
                    given, error=f"{given.name}: was drawn by this run; name another folder for --attention"
                )
            yield given


def _survey(named: Sequence[str], drawn: Path | None) -> tuple[Iterator[Input], int | None, bool, list[str]]:
    """Return the inputs, their number, whether there is exactly one image, and the files that contain them.

    If standard input lists them, their number is None and their files are not known yet. Figures that earlier runs drew
    into the folder `drawn` are skipped unless they are named explicitly.
    """
    inputs = find_inputs(named)
    if "-" not in named:
        listed = _without_drawings(list(inputs), named, drawn) if drawn else list(inputs)
        sources = (
            given.source.archive if isinstance(given.source, ArchiveMember) else given.source for given in listed
        )
        held = [str(path) for path in sources if path and not isinstance(path, bytes)]
        return iter(listed), len(listed), len(listed) == 1, held
    first = next(inputs)
    return chain([first], inputs), None, len(named) == 1 and first.name == "-", []


def _without_drawings(inputs: list[Input], named: Sequence[str], folder: Path) -> list[Input]:
    drawn = output_checks.FileSet([folder])

    def is_drawing(given: Input) -> bool:
        path = Path(given.source) if isinstance(given.source, str) and given.source else None
        if path is None or given.name in named or not drawn.holds(path.parent):
            return False
        with suppress(OSError, ValueError):
            return output_checks.is_drawing(path)
        return False

    kept = [given for given in inputs if not is_drawing(given)]
    if not kept:
        raise CaptionkitError(f"{folder}: holds no images but drawings of an earlier run; name others to caption")
    if left := len(inputs) - len(kept):
        print_message(f"captionkit: {folder}: {left} drawing{'s' if left > 1 else ''} of an earlier run passed over")
    return kept


def outcomes_of(
    captioner: Captioner, inputs: Iterator[Input], batch_size: int, settings: dict[str, Any]
) -> Iterator[tuple[Input, Outcome]]:
    """Yield the outcomes in the order of the inputs, including those that have no image."""
    from captionkit.inference.captioner import Outcome

    waiting: list[Input] = []

    def sources() -> Iterator[str | bytes | ArchiveMember]:
        for given in inputs:
            waiting.append(given)
            if not given.passed_over:
                yield given.source

    for outcome in captioner.stream(sources(), batch_size=batch_size, **settings):
        while waiting[0].passed_over:
            given = waiting.pop(0)
            yield given, Outcome(given.name, None, given.error)
        yield waiting.pop(0), outcome
    yield from ((given, Outcome(given.name, None, given.error)) for given in waiting)


def _record(given: Input, outcome: Outcome, *, maps: bool) -> dict[str, Any]:
    if isinstance(given.source, bytes):  # from standard input or a pipe, so the captioner had no name
        outcome = replace(outcome, error=outcome.error.replace("bytes:", f"{given.name}:", 1))
    return outcome.to_dict(given.name, maps=maps)


def _print(record: dict[str, Any], as_json: bool, single: bool) -> None:
    if as_json:
        print_result(json.dumps(record, ensure_ascii=False))
        return
    captions = record.get("captions", ())
    for caption in captions:
        line = caption["text"] if len(captions) == 1 else f"{caption['confidence']:.2f}  {caption['text']}"
        line += _REVIEW if caption.get("review") else ""
        print_result(line if single else f"{record['path']}\t{line}")


def _draw(captioner: Captioner, given: Input, caption: Caption, path: Path) -> None:
    from captionkit.viz.attention_files import save_attention

    photo, words, region = figure_inputs(captioner, given.source, caption)
    save_attention(path, photo, words, region, caption=caption.text)


def _show_maps(caption: Caption) -> None:
    """Print the attention maps on standard error, where they do not disturb a pipe."""
    from captionkit.viz.terminal import attention_text, has_true_colour

    maps = attention_text([(w.text, w.attention) for w in caption.words], colour=has_true_colour(sys.stderr))
    print(maps, file=sys.stderr, flush=True)


def caption_samples(
    output: Path, *, model: str | None, min_confidence: float | None = None, runtime: Runtime = USUAL_RUNTIME
) -> int:
    """Caption the sample photographs and write a page; print the captions and the path of the page.

    Below `min_confidence` the page says "not sure"; without it, the threshold stored with the model is used, if any.
    """
    from captionkit.viz.page import Card, captions_page
    from captionkit.viz.samples import sample_photos

    output_checks.check_output_file(output, output_checks.is_page)
    captioner = runtime.load(model)
    photos = sample_photos()
    cards = []
    asked = captioner.sure_from if min_confidence is None else min_confidence
    outcomes = captioner.stream([photo for _, photo in photos], num_captions=3, min_confidence=asked)
    for (name, photo), outcome in zip(photos, outcomes, strict=True):
        found = outcome.caption
        if found is None:
            cards.append(Card(label=name, error=outcome.error))
            continue
        print_result(f"{name}\t{found.text}{_REVIEW if found.review else ''}")
        cards.append(
            Card(
                photo=photo,
                caption=found.text,
                confidence=found.confidence,
                unsure=bool(found.review),
                alternatives=[other.text for other in found.alternatives],
                attention=attention_of(captioner, photo, found),
                label=name,
            )
        )
    note = "Sample photographs that come with scikit-image, captioned by captionkit."
    atomic_write.write_text(output, captions_page("What captionkit sees", cards, note=note))
    print_message(f"page with attention maps: {output}")
    return 0
