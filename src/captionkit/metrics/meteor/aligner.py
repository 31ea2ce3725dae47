"""METEOR 1.5's search for the best set of matches that do not overlap: left to right over the reference, with a beam.

Better is first the larger weight of matched words (of both sides, rounded down match by match), then fewer chunks, then
less distance between the places of words that match, then what METEOR tried first.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from captionkit.metrics.meteor.matches import EXACT, Match

BEAM = 40

# Cost of an alignment in one integer, the smaller the better: minus the weight, then chunks, then distance.
_CHUNK = 1 << 32
_WEIGHT = 1 << 48

# A path is an alignment of the reference's words up to some place, a plain tuple as millions are made:
#   cost: as above, of the chunks that are closed and the matches that are not sure
#   used: the candidate's words that are taken, as bits; those of matches that are sure are not counted, nor asked for
#   end: where the last match ends in the candidate; -1 after a gap
#   busy: where the last match ends in the reference
#   last: the last match, as (the path's `last` before it, place, match)
_Path = tuple[int, int, int, int, "tuple | None"]
_COST = itemgetter(0)


def align(matches: Sequence[Sequence[Match]]) -> tuple[list[tuple[int, Match]], int]:
    """The best alignment, as (place in the reference, match) in the order of the reference, and its number of chunks.

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
    """Where a reference word's only match overlaps no other on either side, so that it is taken without a search."""
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
    """The paths with no match from this place on, which closes a chunk."""
    return [
        path if path[2] < 0 or place < path[3] else (path[0] + _CHUNK, path[1], -1, path[3], path[4]) for path in paths
    ]


def _taken(paths: list[_Path], place: int, match: Match) -> list[_Path]:
    """The paths with a match that is sure: all take it, so that its weight and distance decide nothing."""
    start, end, busy = match.start, match.start + match.length, place + match.reference_length
    return [
        (cost if last_end in (-1, start) else cost + _CHUNK, used, end, busy, (last, place, match))
        for cost, used, last_end, _, last in paths
    ]


def _tried(paths: list[_Path], place: int, matches: Sequence[Match]) -> list[_Path]:
    """Each path with each match whose words are still free, then with none."""
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
                # METEOR adds a match's distance not to the path that takes it but to those that it tries later.
                cost += distance
        longer.append((cost if last_end < 0 else cost + _CHUNK, used, -1, busy, last))
    return longer


def _weight(match: Match) -> int:
    """The words that a match covers on both sides, by halves if it is not exact, in units of cost."""
    if match.module == EXACT:
        return 2 * _WEIGHT
    return (match.length // 2 + match.reference_length // 2) * _WEIGHT
