"""Versions that belong together: announced in the events of a request, then committed.

Every table of a request is a version of its own, and a version comes by one log entry. So the files
of all are placed first, where no reader sees them; then an event says what the log is to say; then
the entries are written. A worker may die between two of them: whoever finds its announcement writes
those that are missing, and needs neither the sources nor the vault for it (a redo log: Mohan et al.
1992, "ARIES").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from generators.base import OnProgress, Progress

from .. import steps
from ..home import Home
from ..publication import log
from ..publication.log import Commit, Published
from ..publication.publish import Placed, find_placed
from ..publication.store import open_lake
from .inbox import Status

COMMITS = "commits"
"""The fact of an event that holds an announcement."""
Announce = Callable[[Sequence[Placed]], None]


def publish(
    home: Home,
    releases: Sequence[Callable[[], Placed]],
    announce: Announce,
    report: OnProgress,
) -> tuple[Published, ...]:
    """Make versions of all releases, or of none.

    Args:
        home: whose lake.
        releases: each places one; what speaks against it is raised here, before anything is seen.
        announce: writes the event, or raises where it must not come to that.
        report: told of each step.
    """
    placed = []
    for number, place in enumerate(releases):
        report(Progress("place", number, len(releases), 0.0))
        placed.append(place())
    announce(placed)
    return _committed(home, placed, report)


def facts(placed: Sequence[Placed]) -> dict[str, Any]:
    """An announcement, for an event."""
    return {
        COMMITS: {
            each.dataset: {**asdict(each.commit), "existing": each.existing} for each in placed
        }
    }


def is_made(status: Status) -> bool:
    """Whether a worker has got as far as an announcement."""
    return bool(_announcements(status))


def finish(home: Home, status: Status) -> tuple[Published, ...]:
    """The versions that were announced last; a worker that died had perhaps not made them all.

    None where one cannot be made: its files are not whole any more, or it was withdrawn.

    Raises:
        PublicationError: a log is damaged, or the disk refused.
    """
    said = _announcements(status)
    if not said:
        return ()
    store = open_lake(home.lake)
    found = [find_placed(store, name, _commit(each)) for name, each in said[-1].items()]
    placed = [each for each in found if each is not None]
    return _committed(home, placed, lambda _: None) if len(placed) == len(found) else ()


def halves(home: Home, status: Status) -> set[str]:
    """Versions that stand without another one that was announced with them.

    Raises:
        PublicationError: a log is damaged.
    """
    store, names = open_lake(home.lake), set()
    for said in _announcements(status):
        found = {
            name: log.find_standing(store, name, _commit(each).key) for name, each in said.items()
        }
        if not all(found.values()):
            own = (found[name] for name, each in said.items() if not each.get("existing"))
            names |= {version.name for version in own if version is not None}
    return names


def _committed(home: Home, placed: Sequence[Placed], report: OnProgress) -> tuple[Published, ...]:
    made = []
    for number, each in enumerate(placed):
        report(Progress("publish", number, len(placed), 0.0))
        made.append(steps.commit(home, each))
    return tuple(made)


def _announcements(status: Status) -> list[Mapping[str, Any]]:
    return [event.facts[COMMITS] for event in status.events if COMMITS in event.facts]


def _commit(said: Mapping[str, Any]) -> Commit:
    return Commit(**{name: value for name, value in said.items() if name != "existing"})
