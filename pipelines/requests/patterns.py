"""Texts that match a regular expression, drawn at random."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

# The parser of the standard library: what it reads is what `re` matches.
from re import _compiler as compiler  # type: ignore[attr-defined]
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from generators.base import ParameterError

_MOST_REPEATS = 8
"""Of an open repeat such as ``a*``."""
_PRINTABLE = "".join(chr(code) for code in range(32, 127))
_CLASSES = {
    codes.CATEGORY_DIGIT: string.digits,
    codes.CATEGORY_WORD: string.ascii_letters + string.digits + "_",
    codes.CATEGORY_SPACE: " ",
}
_NEGATED = {
    codes.CATEGORY_NOT_DIGIT: codes.CATEGORY_DIGIT,
    codes.CATEGORY_NOT_WORD: codes.CATEGORY_WORD,
    codes.CATEGORY_NOT_SPACE: codes.CATEGORY_SPACE,
}
_MOST_CHARACTERS = 1_000


class Pattern:
    r"""A regular expression that texts are drawn from.

    Literals, classes, ``\d \w \s .``, repeats, alternatives and groups; no look-around and no
    references, which say nothing about how a text begins.

    Raises:
        ParameterError: it is no regular expression, or one that texts cannot be drawn from.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._singles: dict[int, re.Pattern[str]] = {}
        try:
            self._parts = parser.parse(text)
        except (re.error, OverflowError, RecursionError):
            raise ParameterError(
                f"a pattern must be a regular expression, {text!r} is none"
            ) from None
        if _longest(self._parts) > _MOST_CHARACTERS:
            raise ParameterError(
                f"a pattern must match at most {_MOST_CHARACTERS} characters, {text!r} can match "
                "more; lower its repeats"
            )
        self.draw(np.random.default_rng(0))

    def draw(self, rng: np.random.Generator) -> str:
        """One text; every alternative and every character is as likely as its neighbours."""
        return _drawn(self._parts, rng)

    def matches(self, value: str) -> bool:
        """Whether a text matches as a whole, in time that no pattern can make long.

        All ends that a part can reach are followed at once (Thompson, Regular expression search
        algorithm, CACM 11(6), 1968); ``re`` would try one after the other, and ask for a single
        sign or place only.
        """
        return len(value) in self._ends(self._parts, value, frozenset({0}))

    def _ends(self, parts: Any, value: str, starts: frozenset[int]) -> frozenset[int]:  # noqa: ANN401
        for part in parts:
            code, arguments = part
            if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
                starts = self._repeated(arguments, value, starts)
            elif code is codes.BRANCH:
                found = [self._ends(alternative, value, starts) for alternative in arguments[1]]
                starts = frozenset().union(*found)
            elif code is codes.SUBPATTERN:
                starts = self._ends(arguments[3], value, starts)
            else:
                single = self._single(part)
                hits = [single.match(value, start) for start in starts]
                starts = frozenset(hit.end() for hit in hits if hit is not None)
        return starts

    def _repeated(self, arguments: Any, value: str, starts: frozenset[int]) -> frozenset[int]:  # noqa: ANN401
        least, most, parts = arguments
        reached = frozenset() if least else starts
        # More open repeats than signs reach nothing new.
        for time in range(1, min(int(most), int(least) + len(value)) + 1):
            starts = self._ends(parts, value, starts)
            if time >= least:
                if starts <= reached:
                    break
                reached |= starts
        return reached

    def _single(self, part: Any) -> re.Pattern[str]:  # noqa: ANN401
        """One sign, or one place between two, as ``re`` reads it."""
        if id(part) not in self._singles:
            alone = parser.SubPattern(self._parts.state, [part])
            self._singles[id(part)] = compiler.compile(alone)
        return self._singles[id(part)]


def _longest(parts: Any) -> int:  # noqa: ANN401
    """Characters of the longest text that is drawn; a repeat of nothing counts, too."""
    total = 0
    for code, arguments in parts:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            total += _most(arguments) * max(1, _longest(arguments[2]))
        elif code is codes.BRANCH:
            total += max(_longest(alternative) for alternative in arguments[1])
        elif code is codes.SUBPATTERN:
            total += _longest(arguments[3])
        else:
            total += 1
    return total


def _most(arguments: Any) -> int:  # noqa: ANN401
    least, most, _ = arguments
    return int(least) + _MOST_REPEATS if most == codes.MAXREPEAT else int(most)


def _drawn(parts: Any, rng: np.random.Generator) -> str:  # noqa: ANN401
    return "".join(_part(code, arguments, rng) for code, arguments in parts)


def _part(code: Any, arguments: Any, rng: np.random.Generator) -> str:  # noqa: ANN401
    made = _MAKERS.get(code)
    if made is None:
        raise ParameterError(
            f"texts can be drawn from literals, classes, repeats, groups and alternatives, not "
            f"from {str(code).lower()}; write the pattern without it"
        )
    return made(arguments, rng)


def _repeat(arguments: Any, rng: np.random.Generator) -> str:  # noqa: ANN401
    least, _, parts = arguments
    times = int(rng.integers(int(least), _most(arguments) + 1))
    return "".join(_drawn(parts, rng) for _ in range(times))


def _branch(arguments: Any, rng: np.random.Generator) -> str:  # noqa: ANN401
    alternatives = arguments[1]
    return _drawn(alternatives[int(rng.integers(len(alternatives)))], rng)


def _class(arguments: Any, rng: np.random.Generator) -> str:  # noqa: ANN401
    negated = arguments[0][0] is codes.NEGATE
    allowed: dict[str, None] = {}
    for code, value in arguments[1 if negated else 0 :]:
        allowed |= dict.fromkeys(_members(code, value))
    if negated:
        allowed = dict.fromkeys(c for c in _PRINTABLE if c not in allowed)
    if not allowed:
        raise ParameterError("a class of characters must have one that can be printed")
    return _one(list(allowed), rng)


def _members(code: Any, value: Any) -> str:  # noqa: ANN401
    if code is codes.LITERAL:
        return chr(value)
    if code is codes.RANGE:
        first, last = value
        return "".join(chr(point) for point in range(first, min(last, first + 0x3000) + 1))
    if value in _NEGATED:
        return "".join(c for c in _PRINTABLE if c not in _CLASSES[_NEGATED[value]])
    return _CLASSES[value]


def _one(characters: list[str] | str, rng: np.random.Generator) -> str:
    return characters[int(rng.integers(len(characters)))]


_MAKERS: dict[Any, Callable[[Any, np.random.Generator], str]] = {
    codes.LITERAL: lambda value, _: chr(value),
    codes.NOT_LITERAL: lambda value, rng: _one([c for c in _PRINTABLE if ord(c) != value], rng),
    codes.ANY: lambda _, rng: _one(_PRINTABLE, rng),
    codes.IN: _class,
    codes.BRANCH: _branch,
    codes.SUBPATTERN: lambda arguments, rng: _drawn(arguments[3], rng),
    codes.MAX_REPEAT: _repeat,
    codes.MIN_REPEAT: _repeat,
    codes.AT: lambda _, __: "",
}
