"""METEOR 1.5's search for the best set of non-overlapping matches: a beam search, left to right over the reference.

Criteria in order: larger weight of matched words (on both sides, rounded down per match), fewer chunks, smaller
distance between the positions of matched words, then METEOR's own order of trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from captionkit.metrics.meteor.matches import EXACT, Match

BEAM = 40

# Cost of an alignment as one integer, lower is better: minus the weight, then chunks, then distance.
_CHUNK = 1 << 32
_WEIGHT = 1 << 48

# A path is an alignment of the reference's words up to some position; a plain tuple, since millions are created:
#   cost: as above, of closed chunks and of matches that are not forced
#   used: the candidate's matched words, as bits; words of forced matches are neither set nor checked
#   end: where the last match ends in the candidate; -1 after a gap
#   busy: where the last match ends in the reference
#   last: the last match, as (the path's `last` before it, place, match)
_Path = tuple[int, int, int, int, "tuple | None"]
_COST = itemgetter(0)


def align(matches: Sequence[Sequence[Match]]) -> tuple[list[tuple[int, Match]], int]:
    """Return the best alignment, as (position in the reference, match) in reference order, and its number of chunks.

    matches: for each word of the reference, the matches that start there.
    """
    sure = _sure(matches)
    paths: list[_Path] = [(0, 0, -1, 0, None)]
    for place, here in enumerate(matches):
        if len(paths) > 1:
            paths.sort(key=_COST)
            del paths[BEAM:]
        if not here:
            paths = _left_out(paths, place)
        elif sure[place]:
            paths = _taken(paths, place, here[0])
        else:
            paths = _tried(paths, place, here)
    paths.sort(key=_COST)
    cost, _, _, _, chain = min(_left_out(paths[:BEAM], len(matches)), key=_COST)
    placed = []
    while chain is not None:
        chain, place, match = chain
        placed.append((place, match))
    return placed[::-1], cost // _CHUNK & 0xFFFF


def _sure(matches: Sequence[Sequence[Match]]) -> list[bool]:
    """Return where a reference word's only match overlaps no other match on either side, so that it needs no search."""
    ours = ours_again = theirs = theirs_again = 0
    for place, here in enumerate(matches):
        for match in here:
            ours_again |= ours & match.covered
            ours |= match.covered
            said = ((1 << match.reference_length) - 1) << place
            theirs_again |= theirs & said
            theirs |= said
    return [
        len(here) == 1
        and not ours_again & here[0].covered
        and not theirs_again >> place & (1 << here[0].reference_length) - 1
        for place, here in enumerate(matches)
    ]


def _left_out(paths: list[_Path], place: int) -> list[_Path]:
    """Return the paths without a match from this position on, which closes a chunk."""
    return [
        path if path[2] < 0 or place < path[3] else (path[0] + _CHUNK, path[1], -1, path[3], path[4]) for path in paths
    ]


def _taken(paths: list[_Path], place: int, match: Match) -> list[_Path]:
    """Return the paths with a forced match: all take it, so its weight and distance are irrelevant."""
    start, end, busy = match.start, match.start + match.length, place + match.reference_length
    return [
        (cost if last_end in (-1, start) else cost + _CHUNK, used, end, busy, (last, place, match))
        for cost, used, last_end, _, last in paths
    ]


def _tried(paths: list[_Path], place: int, matches: Sequence[Match]) -> list[_Path]:
    """Extend each path by each match whose words are still free, and by none."""
    options = [(match, match.start, match.covered, _weight(match), abs(place - match.start)) for match in matches]
    longer: list[_Path] = []
    for path in paths:
        cost, used, last_end, busy, last = path
        if place < busy:
            longer.append(path)
            continue
        for match, start, covered, weight, distance in options:
            if not used & covered:
                broken = _CHUNK if last_end not in (-1, start) else 0
                longer.append(
                    (
                        cost - weight + broken,
                        used | covered,
                        start + match.length,
                        place + match.reference_length,
                        (last, place, match),
                    )
                )
                # METEOR adds a match's distance not to the path that takes it but to those tried after it.
                cost += distance
        longer.append((cost if last_end < 0 else cost + _CHUNK, used, -1, busy, last))
    return longer


def _weight(match: Match) -> int:
    """Return the number of words that a match covers on both sides, halved unless it is exact, in units of cost."""
    if match.module == EXACT:
        return 2 * _WEIGHT
    return (match.length // 2 + match.reference_length // 2) * _WEIGHT
