"""What `bench/speed.py` measured, as a report."""

from __future__ import annotations

from typing import Any

from speed_cases import (
    ARITHMETIC,
    BATCHES,
    BEAMS,
    BLIP,
    COLD,
    COMMAND,
    FORCED,
    IMPORTS,
    LIBRARY,
    MACHINE,
    ONCE,
    PARTS,
    READING,
    STAGES,
    STEPS,
    TEXTBOOK,
    VIT_GPT2,
    case,
    megabytes_of,
)
from speed_results import Figure, Results
from tables import Report, figure, table

NONE = "–"
_USUAL, _MANY = case(3, 1), case(3, 32)
#: what the peers are, and the case of theirs that is compared
PEERS = {
    (TEXTBOOK, FORCED): "textbook Show, Attend and Tell on ResNet-101",
    (TEXTBOOK, ONCE): "the same, its grid projected once",
    (VIT_GPT2, FORCED): "transformers: ViT-base and GPT-2",
    (BLIP, FORCED): "transformers: BLIP-base",
}


def spread(values: Figure | None, unit: str = "", scale: float = 1.0) -> str:
    """Median, least and most."""
    if values is None:
        return NONE
    median, least, most = (figure(value * scale) for value in values)
    return f"{median}{unit} ({least}–{most})"


def report(results: Results) -> Report:
    """Everything, with a sentence before each table."""
    told = results.settings
    parts: Report = [
        f"`{told['command']}`",
        f"{told['processor']}, threads: {told['threads']}, load average {told['load']} at the start; "
        f"{told['versions']}. {told['photos']}. Rounds: {told['rounds']}; median (least–most) of them.",
        marks(results),
        f"From a JPEG on disk to a beam-3 caption, one image at a time. Others tell {STEPS} tokens; ours, "
        f"`{results.ours}`, ends where it ends, or is held to {STEPS} steps as well:",
        _ratios(results),
        "Ours by stage, in milliseconds an image, with the words of a caption and the decoder's steps for a batch:",
        _stages(results),
    ]
    if MACHINE in results.rounds:
        parts += [
            "What the machine can do, and how much of it each stage uses at beam 3:",
            _rates(results),
            _shares(results),
        ]
    if COLD in results.rounds:
        parts += ["From the start of a process:", _cold(results)]
    if results.failed:
        parts.append("Not measured: " + "; ".join(f"{name} ({why})" for name, why in results.failed.items()) + ".")
    return parts


def marks(results: Results) -> dict[str, Any]:
    """The marks that were set, with what was measured."""
    ours, many = results.figure(results.ours, _USUAL), results.figure(results.ours, _MANY)
    cold = results.figure(COLD, COMMAND)
    rows = [
        [f"`{results.ours}`, {_USUAL}", "below 25 ms an image", f"{figure(ours.median)} ms" if ours else NONE],
        [f"`{results.ours}`, {_MANY}", "100 images/s", f"{figure(1000 / many.median)} images/s" if many else NONE],
    ]
    for name, wanted in ((TEXTBOOK, 30), (VIT_GPT2, 10)):
        own, same = results.ratio(name, FORCED, _USUAL), results.ratio(name, FORCED, FORCED)
        measured = f"{figure(same.median)} x; {figure(own.median)} x as ours ends" if own and same else NONE
        rows.append([f"{PEERS[name, FORCED]}, {STEPS} steps each", f"{wanted} x the time", measured])
    rows.append([f"`{COMMAND} photo.jpg`", "below 0.6 s", f"{figure(cold.median / 1000)} s" if cold else NONE])
    return table(["mark", "wanted", "measured"], rows)


def _ratios(results: Results) -> dict[str, Any]:
    named = {(name, chosen): f"`{name}`, {chosen}" for name in results.own for chosen in (_USUAL, FORCED)}
    rows = []
    for (name, chosen), title in {**named, **PEERS}.items():
        if results.has(name, chosen):
            millions = results.facts[name][chosen].get("parameters", 0) / 1e6
            compared = [spread(results.ratio(name, chosen, other)) for other in (_USUAL, FORCED)]
            times = spread(results.figure(name, chosen))
            rows.append([title, figure(millions) if millions else NONE, times, *compared])
    head = ["captioner", "million parameters", "ms an image", "times ours", f"times ours at {STEPS} steps"]
    return table(head, rows)


def _stages(results: Results) -> dict[str, Any]:
    rows = []
    for name in results.own:
        for chosen in [*(case(beam, batch) for batch in BATCHES for beam in BEAMS), FORCED]:
            total = results.figure(name, chosen)
            if total:
                facts = results.facts[name][chosen]
                stages = [spread(results.figure(name, chosen, stage)) for stage in STAGES]
                rate = figure(1000 / total.median)
                told = [figure(facts[key]) for key in ("words", "steps")]
                rows.append([f"`{name}`", chosen, *stages, spread(total), rate, *told])
    return table(["model", "", *STAGES, "in all", "pictures/s", "words", "steps"], rows)


def _rates(results: Results) -> dict[str, Any]:
    rows = [[kind, spread(results.figure(MACHINE, kind, "rate"), " GFLOP/s", 1e-9)] for kind in ARITHMETIC]
    reads = sorted((name for name in results.rounds[MACHINE] if name.startswith(READING)), key=megabytes_of)
    rows += [[name, spread(results.figure(MACHINE, name, "rate"), " GB/s", 1e-9)] for name in reads]
    return table(["machine", "rate"], rows)


def _shares(results: Results) -> dict[str, Any]:
    rows = []
    for name in results.own:
        for batch in BATCHES:
            for stage in STAGES[1:]:
                found, took = (
                    results.limit(name, case(3, batch), stage),
                    results.figure(name, case(3, batch), stage),
                )
                if found and took:
                    measured = [figure(found.flops / 1e9), figure(took.median), figure(found.least)]
                    share = spread(found.share, " %", 100)
                    rows.append([f"`{name}`", f"batch {batch}", stage, *measured, share, found.binds])
    head = ["model", "", "stage", "GFLOPs an image", "ms an image", "least ms by the limit", "share of the limit"]
    return table([*head, "what binds"], rows)


def _cold(results: Results) -> dict[str, Any]:
    rows = [[f"`{COMMAND} photo.jpg`", spread(results.figure(COLD, COMMAND), " ms")]]
    rows.append([f'`python -c "import captionkit; {LIBRARY}(...)"`', spread(results.figure(COLD, LIBRARY), " ms")])
    rows += [[f"of it {part}", spread(results.figure(COLD, LIBRARY, part), " ms")] for part in PARTS]
    rows.append([f"{IMPORTS} alone", spread(results.figure(COLD, IMPORTS), " ms")])
    return table(["to the first sentence", "time"], rows)
