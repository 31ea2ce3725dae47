"""A scanner: splits a text by rules; the longest match wins and, among equally long ones, the first rule.

(Python's `re` takes the first alternative that matches, however short.) The rules are compiled to one deterministic
automaton, whose states are built only as texts reach them (Aho, Sethi and Ullman, *Compilers*, 1986, section 3.7).
Scanning takes linear time, as no dead end is walked twice (Reps, *"Maximal-munch" tokenization in linear time*, TOPLAS
20(2), 1998); the lookahead of rules must be short.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TypeVar

from captionkit.metrics.ptb.characters import Ranges
from captionkit.metrics.ptb.regex import Characters, Choice, Node, RegexParser, Repeat
from captionkit.metrics.ptb.regex import Sequence as Parts

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_DEAD, _NO_RULE = 0, -1
_PATIENCE = 64  # characters past the last match from which dead ends are recorded


@dataclass(frozen=True)
class Rule:
    """A token's pattern, its lookahead (not part of the token), and its spelling ("" drops it)."""

    pattern: str
    before: str = ""
    write: Callable[[str], str] = str


class Automaton:
    """Patterns, each one syntax tree or several in sequence, as one deterministic automaton, built lazily."""

    def __init__(self, patterns: Iterable[Sequence[Node]]) -> None:
        self._sets: dict[Ranges, int] = {}
        self._moves: list[tuple[int, int] | None] = []  # Thompson NFA: state -> (set of characters, state)
        self._jumps: list[list[int]] = []  # epsilon transitions
        self._accepts: dict[int, int] = {}
        start = self._new_state()
        for number, nodes in enumerate(patterns):
            end = self._branch(start)
            for node in nodes:
                end = self._add(node, end)
            self._accepts[end] = number
        self._bounds = [[bound for low, high in ranges for bound in (low, high + 1)] for ranges in self._sets]
        self._memberships: list[int] = []  # character class -> the sets that contain it, as bits
        self._states: list[tuple[int, ...]] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self._reachable: _Memo[int, frozenset[int]] = _Memo(self._find_reachable)
        self._lock = Lock()
        #: character -> class of characters that no rule distinguishes
        self.classes: _Memo[str, int] = _Memo(self._class_of)
        #: state -> class -> state, as far as built
        self.steps: list[dict[int, int]] = []
        #: state -> the first pattern that matches here, or _NO_RULE
        self.accepted: list[int] = []
        #: state -> whether it has no transitions
        self.final: list[bool] = []
        self._number(())  # _DEAD
        self.start = self._number(self._closure([start]))

    def step(self, state: int, kind: int) -> int:
        """Build a transition that `steps` does not have yet."""
        members = self._memberships[kind]
        moves = filter(None, map(self._moves.__getitem__, self._states[state]))
        reached = self._closure(target for number, target in moves if members >> number & 1)
        with self._lock:
            self.steps[state][kind] = target = self._number(reached)
        return target

    def ends(self, text: str, start: int, stop: int) -> list[int]:
        """Return the positions up to `stop` where a match of any pattern from `start` can end."""
        state, ends = self.start, []
        for position in range(start, stop):
            state = self._next(state, text[position])
            if state == _DEAD:
                break
            if self.accepted[state] != _NO_RULE:
                ends.append(position + 1)
        return ends

    def _next(self, state: int, character: str) -> int:
        kind = self.classes[character]
        target = self.steps[state].get(kind)
        return self.step(state, kind) if target is None else target

    def _new_state(self) -> int:
        self._moves.append(None)
        self._jumps.append([])
        return len(self._moves) - 1

    def _branch(self, state: int) -> int:
        branch = self._new_state()
        self._jumps[state].append(branch)
        return branch

    def _add(self, node: Node, state: int) -> int:
        """Add the transitions for `node` from a state without a move yet; return the end state."""
        if isinstance(node, Characters):
            end = self._new_state()
            self._moves[state] = (self._sets.setdefault(node.ranges, len(self._sets)), end)
            return end
        if isinstance(node, Parts):
            for part in node.parts:
                state = self._add(part, state)
            return state
        if isinstance(node, Choice):
            ends = [self._add(part, self._branch(state)) for part in node.parts]
            end = self._new_state()
            for choice in ends:
                self._jumps[choice].append(end)
            return end
        return self._add_repeat(node, state)

    def _add_repeat(self, node: Repeat, state: int) -> int:
        for _ in range(node.least):
            state = self._add(node.part, state)
        end = self._new_state()
        if node.most is None:
            loop = self._branch(state)
            self._jumps[self._add(node.part, self._branch(loop))].append(loop)
            self._jumps[loop].append(end)
            return end
        self._jumps[state].append(end)
        for _ in range(node.most - node.least):
            state = self._add(node.part, self._branch(state))
            self._jumps[state].append(end)
        return end

    def _closure(self, states: Iterable[int]) -> tuple[int, ...]:
        """Return the epsilon closure of `states`, reduced to states with a move or at the end of a pattern."""
        return tuple(sorted(frozenset().union(*map(self._reachable.__getitem__, states))))

    def _find_reachable(self, start: int) -> frozenset[int]:
        seen: set[int] = set()
        pending = [start]
        while pending:
            state = pending.pop()
            if state not in seen:
                seen.add(state)
                pending.extend(self._jumps[state])
        return frozenset(state for state in seen if self._moves[state] or state in self._accepts)

    def _number(self, states: tuple[int, ...]) -> int:
        if states not in self._numbers:
            self._states.append(states)
            self.steps.append({})
            self.accepted.append(min((self._accepts[state] for state in states if state in self._accepts), default=-1))
            self.final.append(not any(self._moves[state] for state in states))
            self._numbers[states] = len(self._states) - 1
        return self._numbers[states]

    def _class_of(self, character: str) -> int:
        code = ord(character)
        members = sum((bisect_right(bounds, code) & 1) << number for number, bounds in enumerate(self._bounds))
        with self._lock:
            if members not in self._memberships:
                self._memberships.append(members)
            return self._memberships.index(members)


class _Memo(dict[_Key, _Value]):
    """Values computed on first use."""

    def __init__(self, find: Callable[[_Key], _Value]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: _Key) -> _Value:
        value = self[key] = self._find(key)
        return value


class Scanner:
    """Scans text by rules; compiled on first use, which takes a few hundredths of a second."""

    def __init__(self, rules: Sequence[Rule], named: Mapping[str, str | Ranges]) -> None:
        self.rules = rules
        self._parser = RegexParser(named)
        self._cuts: dict[int, tuple[Automaton, Automaton]] = {}

    @cached_property
    def _automaton(self) -> Automaton:
        parse = self._parser.parse
        return Automaton((parse(rule.pattern), parse(rule.before)) for rule in self.rules)

    def scan(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the spelling of each token of `text`, and whether text after the end could have changed it.

        A rule with lookahead gives the longest token that leaves room for it. Raises ValueError if no rule matches.
        """
        automaton, at = self._automaton, 0
        hopeless: set[tuple[int, int]] = set()
        while at < len(text):
            number, end, is_open = self._longest(automaton, text, at, hopeless)
            if number == _NO_RULE:
                raise ValueError(f"no rule matches {text[at : at + 20]!r}")
            rule = self.rules[number]
            if rule.before:
                end = self._cut(number, text, at, end)
            yield rule.write(text[at:end]), is_open
            at = end

    @staticmethod
    def _longest(automaton: Automaton, text: str, at: int, hopeless: set[tuple[int, int]]) -> tuple[int, int, bool]:
        """Return the rule with the longest match from `at`, the end of its match, and whether more text could matter.

        hopeless: positions and states from which no match follows; updated.
        """
        steps, classes, accepted = automaton.steps, automaton.classes, automaton.accepted
        state, number, end = automaton.start, _NO_RULE, at
        trail: list[tuple[int, int]] = []
        for position in range(at, len(text)):
            kind = classes[text[position]]
            target = steps[state].get(kind)
            state = automaton.step(state, kind) if target is None else target
            if state == _DEAD:
                is_open = False
                break
            if accepted[state] != _NO_RULE:
                number, end = accepted[state], position + 1
                if trail:
                    trail.clear()
            elif position - end > _PATIENCE:
                if (position, state) in hopeless:
                    is_open = False
                    break
                trail.append((position, state))
        else:
            is_open = not automaton.final[state]
        hopeless.update(trail)
        return number, end, is_open

    def _cut(self, number: int, text: str, at: int, end: int) -> int:
        """Return where the token ends in a match that includes lookahead."""
        if number not in self._cuts:
            rule, parse = self.rules[number], self._parser.parse
            self._cuts[number] = Automaton([[parse(rule.pattern)]]), Automaton([[parse(rule.before)]])
        token, following = self._cuts[number]
        for cut in reversed(token.ends(text, at, end)):
            if end in following.ends(text, cut, end):
                return cut
        raise AssertionError("a match is a token and what follows it")
