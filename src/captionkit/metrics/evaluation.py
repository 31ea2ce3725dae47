"""`captionkit.evaluate`: score candidates against references."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from captionkit.data.images import Source
from captionkit.errors import CaptionkitError
from captionkit.metrics.bleu import Bleu
from captionkit.metrics.bootstrap import bootstrap
from captionkit.metrics.caption_files import Candidates, Id, References, read_candidates, read_references
from captionkit.metrics.chair import Chair
from captionkit.metrics.cider import Cider, CiderD
from captionkit.metrics.diversity import Diversity, Variety
from captionkit.metrics.document_frequencies import DocumentFrequencies
from captionkit.metrics.matching import Pairs, named, pair
from captionkit.metrics.meteor import Meteor, data_missing
from captionkit.metrics.metric import Metric, MetricResult, Tokens
from captionkit.metrics.rouge import RougeL
from captionkit.metrics.scores import Scores
from captionkit.metrics.spice import Spice
from captionkit.metrics.tokens import PTB, TOKENIZERS, tokenizer_of
from captionkit.utils.grouping import map_groups

_MAKERS: dict[str, Callable[[DocumentFrequencies | None], Metric]] = {
    "bleu": lambda _: Bleu(),
    "meteor": lambda _: Meteor(),
    "rouge": lambda _: RougeL(),
    "cider": CiderD,
    "cider-plain": Cider,
    "spice": lambda _: Spice(),
    "chair": lambda _: Chair(),
}
_DIVERSITY = "diversity"
_MOST_RESAMPLES = 100_000
#: all metrics by name
METRICS = (*_MAKERS, _DIVERSITY)
#: the default metrics, which _ALL_USUAL also stands for
USUAL = ("bleu", "meteor", "rouge", "cider", _DIVERSITY)
_ALL_USUAL = "usual"


def evaluate(
    candidates: Candidates,
    references: References,
    metrics: Sequence[str | Metric] | None = None,
    *,
    split: str | None = None,
    tokenizer: str | None = None,
    frequencies: DocumentFrequencies | None = None,
    training: Collection[str] | None = None,
    images: Mapping[Id, Source] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score one caption per image against its references.

    Args:
        candidates: {id: caption}, COCO results, or a .json, .jsonl or .csv file of them.
        references: {id: captions}, a CaptionSet, a dataset, or its path; the images need not exist.
        metrics: names ("bleu", "meteor", "rouge", "cider", "cider-plain", "spice", "chair", "diversity") or metric
            objects, such as `captionkit.ClipScore(model)`, which are reset first. The default, also selected by
            "usual", is bleu, meteor, rouge, cider (CIDEr-D) and diversity; without METEOR's data, a note replaces
            meteor.
        split: the references' split; by default the one that contains all candidates, else all.
        tokenizer: "ptb" (coco-caption's) or "words" (any language); by default chosen from the references.
        frequencies: CIDEr's document frequencies, if not those of the references.
        training: captions that the model was trained on, to count how many candidates are new.
        images: images by image id, for metrics that need them.
        resamples: number of bootstrap resamples of the images, for confidence intervals; 0 for none. seed: their seed.

    Raises CaptionkitError: one line saying what is invalid.
    """
    wanted, notes = check_metrics(metrics)
    check_numbers(resamples, seed)
    for given, what in ((training, "captions"), (frequencies, "DocumentFrequencies")):
        if isinstance(given, str):
            raise CaptionkitError(f"{given!r} is text where {what} are wanted; read the file first")
    chosen = make_metrics(wanted, frequencies)
    pairs = pair(read_candidates(candidates), read_references(references), split)
    kind = tokenizer or tokenizer_of(pairs.references)
    notes = [*pairs.notes, *notes]
    if not tokenizer and kind != PTB:
        notes.append(f"references are Chinese or Japanese: compared by characters (tokenizer {kind!r}), without METEOR")
        asked = {name if isinstance(name, str) else type(name) for name in metrics or ()}
        chosen = [metric for metric in chosen if not isinstance(metric, Meteor) or asked & {"meteor", Meteor}]
    split_up = _tokenizer(kind)
    said, written = _tokens(pairs, split_up)
    chosen, unfit = _fitting(chosen, written)
    if unfit and not chosen and _DIVERSITY not in wanted:
        raise CaptionkitError(unfit[0])
    notes += unfit
    results = [_score(metric, pairs, said, written, images) for metric in chosen]
    variety = _variety(said, None if training is None else split_up(training)) if _DIVERSITY in wanted else None
    notes += _doubts(pairs, said, variety)
    if len(pairs.ids) == 1 and frequencies is None and any(isinstance(metric, Cider) for metric in chosen):
        notes.append("CIDEr weighs words by how few images they occur with: of one image alone it is always 0")
    edges = bootstrap(results, resamples=resamples, seed=seed) if resamples else []
    return Scores(
        ids=pairs.ids,
        candidates=pairs.candidates,
        references=pairs.references,
        results=results,
        intervals={
            name: (float(low), float(high))
            for result, ends in zip(results, edges, strict=False)
            for name, low, high in zip(result.names, *ends, strict=True)
        },
        variety=variety,
        without_references=pairs.without_references,
        without_candidate=pairs.without_candidate,
        notes=notes,
        facts={"tokenizer": kind, "resamples": resamples, "seed": seed},
    )


def make_metrics(wanted: Sequence[str | Metric], frequencies: DocumentFrequencies | None = None) -> list[Metric]:
    """Create the metrics, without "diversity", which is not a Metric.

    Raises CaptionkitError if one lacks what it needs.
    """
    chosen = [_MAKERS[name](frequencies) if isinstance(name, str) else name for name in wanted if name != _DIVERSITY]
    names = [name for metric in chosen for name in metric.names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise CaptionkitError(f"two of the metrics are called {twice}; score by one at a time")
    return chosen


def check_numbers(resamples: int, seed: int) -> None:
    """Raise CaptionkitError if these are out of range."""
    for name, value, most in (("resamples", resamples, _MOST_RESAMPLES), ("seed", seed, 2**63)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise CaptionkitError(f"{name} is {value!r}; use a whole number from 0 to {most:,}")


def check_metrics(metrics: Sequence[str | Metric] | None) -> tuple[list[str | Metric], list[str]]:
    """Return the metrics that `evaluate` will use, and notes on those left out.

    Raises CaptionkitError for a wrong name.
    """
    if isinstance(metrics, str):
        raise CaptionkitError(f"metrics is the text {metrics!r}; give a list of names")
    if metrics is None:
        metrics = [_ALL_USUAL]
    if not metrics:
        raise CaptionkitError(f"no metric is named; there are {', '.join(METRICS)}")
    for name in metrics:
        whole = all(callable(getattr(name, method, None)) for method in ("update", "compute", "reset"))
        if not isinstance(name, str) and (isinstance(name, (type, Diversity)) or not whole):
            raise CaptionkitError(f"{name!r} is no metric; give a name, or an object with update, compute and reset")
        if isinstance(name, str) and name not in (*METRICS, _ALL_USUAL):
            near = get_close_matches(name.casefold(), METRICS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise CaptionkitError(f"metric {name!r} is unknown; {hint}there are {', '.join(METRICS)}")
    if _ALL_USUAL not in metrics:
        return list(dict.fromkeys(metrics)), []
    reason = "" if "meteor" in metrics else data_missing()
    usual = [name for name in USUAL if name != "meteor" or not reason]
    chosen = [one for name in metrics for one in (usual if name == _ALL_USUAL else [name])]
    return list(dict.fromkeys(chosen)), [f"METEOR is left out: {reason}"] if reason else []


def _tokenizer(kind: str) -> Any:
    if kind not in TOKENIZERS:
        raise CaptionkitError(f"tokenizer {kind!r} is unknown; there are {', '.join(TOKENIZERS)}")
    return TOKENIZERS[kind]


def _tokens(pairs: Pairs, split_up: Any) -> tuple[list[list[str]], list[list[list[str]]]]:
    return split_up(pairs.candidates), map_groups(split_up, pairs.references)


def _fitting(chosen: Sequence[Metric], written: Sequence[Sequence[Tokens]]) -> tuple[list[Metric], list[str]]:
    """Return the metrics that can be used with these references, and why others cannot."""
    reasons = [metric.unfit(written) if isinstance(metric, Chair) else "" for metric in chosen]
    fitting = [metric for metric, reason in zip(chosen, reasons, strict=True) if not reason]
    return fitting, [reason for reason in reasons if reason]


def _doubts(pairs: Pairs, said: list[list[str]], variety: Variety | None) -> list[str]:
    """Return notes on possible problems with the captions."""
    silent = [known for known, tokens in zip(pairs.ids, said, strict=True) if not tokens]
    notes = [f"{len(silent):,} captions have no word and score nothing: {named(silent)}"] if silent else []
    return [*notes, variety.warning] if variety and variety.warning else notes


def _score(
    metric: Any, pairs: Pairs, said: list[list[str]], written: list[list[list[str]]], images: Mapping[Id, Source] | None
) -> MetricResult:
    metric.reset()
    if not getattr(metric, "needs_images", False):
        metric.update(said, written)
        return metric.compute()
    missing = [known for known in pairs.ids if known not in (images or {})]
    if images is None or missing:
        raise CaptionkitError(
            f"{metric.names[0]} looks at the images, and there is none of image {missing[0]!r}; give them as `images`"
        )
    metric.update(pairs.candidates, pairs.references, [images[known] for known in pairs.ids])
    return metric.compute()


def _variety(said: list[list[str]], training: list[list[str]] | None) -> Variety:
    diversity = Diversity(training)
    diversity.update(said)
    return diversity.compute()
