"""What a power cut may leave of a publication: a model of a weak POSIX disk, explored.

In the manner of ALICE (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014): the real
code runs on a real folder while each of its steps on disk is recorded; then for every moment of the
recording all that a crash may leave is built. What is not synced may be lost: the bytes of a file
wholly or in part, and every change of a directory, in any combination. Several publishers run at
once, in an order that a seed decides. Each state is judged by the real readers, and publishers that
come again must find their way from it.

The model is simpler than ext4 or xfs, and harsher: a rename is atomic, but no change of a directory
waits for an earlier one.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipelines.publication import log
from pipelines.publication.manifest import MANIFEST
from pipelines.publication.publish import PublishRequest, publish_to
from pipelines.publication.retire import retire_in
from pipelines.publication.store import LocalStore, MemoryStore, PublicationError, Store
from pipelines.publication.verify import check_snapshot

ROOT = 0
_SUBSETS = 512
"""Combinations of what is not synced, for one moment; more are drawn at random."""


@dataclass
class Recording:
    """The steps on disk of all actors, in their order.

    Attributes:
        steps: what was done: its name and what it was done to.
        acknowledged: what an actor was told, with the number of steps done before.
    """

    steps: list[tuple[object, ...]] = field(default_factory=list)
    acknowledged: list[tuple[int, str, str, int]] = field(default_factory=list)


class Turns:
    """Lets one actor at a time take a step; a seed decides whose turn it is.

    It also decides how often it passes on: some defects show only where one actor does much while
    another stands still (Burckhardt et al., A Randomized Scheduler with Probabilistic Guarantees,
    ASPLOS 2010).
    """

    def __init__(self, actors: int, seed: int) -> None:
        self._rng, self._change = random.Random(seed), threading.Condition()
        self._waiting: set[int] = set()
        self._living, self._turn = set(range(actors)), -1
        self._passes, self._last = self._rng.choice([0.05, 0.2, 0.7]), -1

    def take(self, actor: int) -> None:
        """Wait for the next turn."""
        with self._change:
            self._waiting.add(actor)
            self._choose()
            self._change.wait_for(lambda: self._turn == actor)
            self._waiting.discard(actor)
            self._turn = -1

    def leave(self, actor: int) -> None:
        """Take no more steps."""
        with self._change:
            self._living.discard(actor)
            self._choose()

    def _choose(self) -> None:
        if self._turn == -1 and self._living and self._waiting == self._living:
            if self._last not in self._living or self._rng.random() < self._passes:
                self._last = self._rng.choice(sorted(self._living))
            self._turn = self._last
            self._change.notify_all()


class Recorded(LocalStore):
    """A real folder whose every step is recorded, one actor at a time.

    Attributes:
        durable: whether the bytes of files are synced; a mutant does not.
    """

    durable = True

    def __init__(self, root: Path, recording: Recording, turns: Turns, actor: int) -> None:
        super().__init__(root)
        self.recording, self.turns, self.actor = recording, turns, actor

    def _step(self, name: str, *what: object) -> None:
        paths = [self._name(one) if isinstance(one, Path) else one for one in what]
        self.recording.steps.append((name, *paths))

    def _name(self, path: Path) -> str:
        text = Path(path).relative_to(self.root).as_posix() if path != self.root.parent else ".."
        return "" if text == "." else text

    def _mkdir(self, path: Path) -> None:
        self.turns.take(self.actor)
        if not path.exists():
            super()._mkdir(path)
            if path != self.root:
                self._step("mkdir", path)

    def _write(self, path: Path, source: BinaryIO) -> None:
        self.turns.take(self.actor)
        super()._write(path, source)
        self._step("write", path, path.read_bytes())
        if self.durable:
            self._step("synced", path)

    def _link(self, source: Path, target: Path) -> None:
        self.turns.take(self.actor)
        super()._link(source, target)
        self._step("link", source, target)

    def _rename(self, source: Path, target: Path) -> None:
        self.turns.take(self.actor)
        super()._rename(source, target)
        self._step("rename", source, target)

    def _unlink(self, path: Path) -> None:
        self.turns.take(self.actor)
        if path.exists():
            super()._unlink(path)
            self._step("remove", path)

    def _fsync(self, folder: Path) -> None:
        self.turns.take(self.actor)
        super()._fsync(folder)
        if folder != self.root.parent:
            self._step("fsync", folder)

    def list(self, folder: str) -> list[str]:
        """A look at the log is a step, too: others may be between it and the next one."""
        self.turns.take(self.actor)
        return super().list(folder)

    def delete(self, name: str) -> None:
        """Remove what is below ``name`` one by one, as the system does."""
        path = self.path(name)
        for one in sorted([path, *path.rglob("*")], reverse=True):
            self.turns.take(self.actor)
            with suppress(FileNotFoundError):
                one.rmdir() if one.is_dir() else one.unlink()
                self._step("remove", one)


Act = Callable[[Store], tuple[str, str, int]]
"""Does something for good and tells what: ``("publish", key, version)``, ``("retire", "", 2)``."""


def record(
    root: Path, acts: Sequence[Act], seed: int, store: type[Recorded] = Recorded
) -> Recording:
    """Run all ``acts`` at once in ``root``, and record what they did."""
    recording, turns = Recording(), Turns(len(acts), seed)
    problems: list[BaseException] = []

    def run(actor: int, act: Act) -> None:
        own = store(root, recording, turns, actor)
        try:
            told = act(own)
            recording.acknowledged.append((len(recording.steps), *told))
        except PublicationError:
            pass  # a clean refusal acknowledges nothing
        except BaseException as problem:  # noqa: BLE001 - told by the main thread
            problems.append(problem)
        finally:
            turns.leave(actor)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return recording


@dataclass(frozen=True)
class _Change:
    """A change of directories: an entry that goes, an entry that comes, at once."""

    gone: tuple[int, str] | None
    come: tuple[int, str, int] | None
    at: int
    synced: int


class Disk:
    """What a crash may leave of a recording.

    Args:
        recording: the steps.
        before: files that were there, and durable, at the start.
    """

    def __init__(self, recording: Recording, before: dict[str, bytes]) -> None:
        self.length = len(recording.steps)
        self._bytes: dict[int, bytes] = {}
        # The steps between which the bytes of a file may be lost.
        self._torn: dict[int, tuple[int, int]] = {}
        self._entries: dict[int, dict[str, int]] = {ROOT: {}}
        self._numbers = itertools.count(1)
        for name, data in before.items():
            folder = ROOT
            *parts, last = name.split("/")
            for part in parts:
                folder = self._entries[folder].setdefault(part, self._folder())
            self._entries[folder][last] = self._file(data)
        self._start = {folder: dict(entries) for folder, entries in self._entries.items()}
        self._changes = list(self._replayed(recording.steps))

    def states(self, rng: random.Random) -> Iterator[tuple[int, frozenset[tuple[str, int, int]]]]:
        """Moments and what may be there then: name, file, share of its bytes (2 is all)."""
        for moment in range(self.length + 1):
            past = [change for change in self._changes if change.at < moment]
            loose = [change for change in past if change.synced > moment]
            for lost in self._subsets(loose, rng):
                there = [change for change in past if id(change) not in lost]
                torn = [one for one, (low, high) in self._torn.items() if low < moment <= high]
                yield moment, self._state(there, {one: rng.randrange(3) for one in torn})

    def files(self, state: frozenset[tuple[str, int, int]]) -> dict[str, bytes]:
        """The bytes of a state."""
        return {
            name: self._bytes[number][: len(self._bytes[number]) * share // 2]
            for name, number, share in state
        }

    def _subsets(self, loose: Sequence[_Change], rng: random.Random) -> Iterator[set[int]]:
        if 2 ** len(loose) <= _SUBSETS:
            for size in range(len(loose) + 1):
                for chosen in itertools.combinations(loose, size):
                    yield {id(change) for change in chosen}
            return
        yield set()
        yield {id(change) for change in loose}
        for _ in range(_SUBSETS - 2):
            yield {id(change) for change in loose if rng.random() < 0.5}

    def _state(
        self, changes: Sequence[_Change], shares: dict[int, int]
    ) -> frozenset[tuple[str, int, int]]:
        entries = {folder: dict(inside) for folder, inside in self._start.items()}
        for change in changes:
            if change.gone is not None:
                entries.setdefault(change.gone[0], {}).pop(change.gone[1], None)
            if change.come is not None:
                folder, name, number = change.come
                entries.setdefault(folder, {})[name] = number
        return frozenset(self._walk(entries, ROOT, "", shares))

    def _walk(
        self, entries: dict[int, dict[str, int]], folder: int, path: str, shares: dict[int, int]
    ) -> Iterator[tuple[str, int, int]]:
        for name, number in entries.get(folder, {}).items():
            if number in self._bytes:
                yield path + name, number, shares.get(number, 2)
            elif name != ".staging":  # nobody reads there
                yield from self._walk(entries, number, f"{path}{name}/", shares)

    def _replayed(self, steps: Sequence[tuple[object, ...]]) -> Iterator[_Change]:
        found: list[tuple[tuple[int, str] | None, tuple[int, str, int] | None, int]] = []
        synced: list[tuple[int, int]] = []
        for at, (kind, *what) in enumerate(steps):
            first = str(what[0])
            if kind == "synced":
                number = self._number(first)
                self._torn[number] = (self._torn[number][0], at)
            elif kind == "fsync":
                synced.append((at, self._number(first)))
            elif kind == "remove":
                folder, name = self._place(first)
                self._entries[folder].pop(name)
                found.append(((folder, name), None, at))
            elif kind in ("mkdir", "write"):
                folder, name = self._place(first)
                new = self._folder() if kind == "mkdir" else self._file(what[1])  # type: ignore[arg-type]
                if kind == "write":
                    self._torn[new] = (at, self.length)
                self._entries[folder][name] = new
                found.append((None, (folder, name, new), at))
            else:
                source, target = self._place(first), self._place(str(what[1]))
                number = self._entries[source[0]][source[1]]
                self._entries[target[0]][target[1]] = number
                if kind == "rename":
                    self._entries[source[0]].pop(source[1])
                found.append((source if kind == "rename" else None, (*target, number), at))
        for gone, come, at in found:
            folder = come[0] if come is not None else gone[0]  # type: ignore[index]
            later = (when for when, where in synced if when > at and where == folder)
            # A step that is done at ``when`` counts from the moment after it.
            yield _Change(gone, come, at, next(later, self.length + 1) + 1)

    def _folder(self) -> int:
        number = next(self._numbers)
        self._entries[number] = {}
        return number

    def _file(self, data: bytes) -> int:
        number = next(self._numbers)
        self._bytes[number] = data
        return number

    def _number(self, path: str) -> int:
        number = ROOT
        for part in path.split("/") if path else ():
            number = self._entries[number][part]
        return number

    def _place(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rpartition("/")
        return self._number(folder), name


@dataclass
class Findings:
    """What an exploration found.

    Attributes:
        states: crash states that were looked at.
        distinct: those that differ in what a reader sees.
        recovered: distinct ones from which a publisher came again.
        violations: what was wrong, and how often.
    """

    states: int = 0
    distinct: int = 0
    recovered: int = 0
    violations: dict[str, int] = field(default_factory=dict)

    def add(self, problem: str) -> None:
        """Count a violation."""
        self.violations[problem] = self.violations.get(problem, 0) + 1


def explore(
    recording: Recording,
    before: dict[str, bytes],
    again: Sequence[PublishRequest],
    findings: Findings,
    *,
    seed: int = 0,
    recover_every: int = 1,
) -> None:
    """Build the crash states of a recording and judge each one that differs.

    Args:
        recording: what was done.
        before: what was there at the start.
        again: what publishers try again after the crash.
        findings: takes the figures.
        seed: of what is drawn where there are too many combinations.
        recover_every: try again from every so-manieth distinct state.
    """
    disk, rng = Disk(recording, before), random.Random(seed)
    known: set[tuple[int, frozenset[tuple[str, int, int]]]] = set()
    for moment, state in disk.states(rng):
        findings.states += 1
        told = [one[1:] for one in recording.acknowledged if one[0] <= moment]
        if (len(told), state) in known:
            continue
        known.add((len(told), state))
        findings.distinct += 1
        store = MemoryStore()
        for name, data in disk.files(state).items():
            store.put(name, data)
        problems = list(judged(store, told))
        for problem in problems:
            findings.add(problem)
        if not problems and findings.distinct % recover_every == 0:
            findings.recovered += 1
            for problem in recovered(store, again):
                findings.add(problem)


def judged(store: Store, told: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    """What is wrong with a state, given what has been acknowledged."""
    dataset = "people"
    try:
        entries = log.read(store, dataset)
        stones = {entry.version: log.tombstone(store, dataset, entry) for entry in entries}
    except PublicationError:
        yield "a damaged log"
        return
    if len({entry.key for entry in entries}) != len(entries):
        yield "a key twice"
    for entry in entries:
        folder = f"{dataset}/{entry.snapshot}"
        if stones[entry.version] is None and not _whole(store, folder, entry):
            yield "a committed version that is not whole"
    short = f"{dataset}/latest.json"
    if store.exists(short) and store.get(short) not in map(log.latest_bytes, entries):
        yield "a short cut to no version"
    for kind, key, version in told:
        known = len(entries) >= version
        if kind == "publish" and not (known and entries[version - 1].key == key):
            yield "an acknowledged version lost"
        if kind == "retire" and not (known and stones[version] is not None):
            yield "an acknowledged retirement lost"


def recovered(store: Store, again: Sequence[PublishRequest]) -> Iterator[str]:
    """What is wrong after publishers came again."""
    try:
        told = []
        for request in again:
            with suppress(PublicationError):  # retired
                entry, _ = publish_to(store, request)
                told.append(("publish", request.key, entry.version))
    except (OSError, ValueError) as error:
        yield f"no way on: {type(error).__name__}"
        return
    yield from (f"after another try {problem}" for problem in judged(store, told))
    entries = log.read(store, "people")
    newest = log.newest(store, "people")
    if newest is not None and store.get("people/latest.json") != log.latest_bytes(newest):
        yield "a stale short cut after another try"
    if len(entries) < len({request.key for request in again}):
        yield "a release that cannot be published"


def _whole(store: Store, folder: str, entry: log.LogEntry) -> bool:
    # The full check costs milliseconds; what it says of these very bytes is known soon.
    names = tuple(store.list(folder))
    seen = (entry.manifest_sha256, tuple((name, hash(store.get(name))) for name in names))
    if seen not in _KNOWN:
        checks = check_snapshot(store, folder, entry.manifest_sha256, entry.content_digest)
        _KNOWN[seen] = f"{folder}/{MANIFEST}" in names and all(check.passed for check in checks)
    return _KNOWN[seen]


_KNOWN: dict[tuple[str, tuple[tuple[str, int], ...]], bool] = {}


def publishing(request: PublishRequest) -> Act:
    """An act that publishes."""

    def act(store: Store) -> tuple[str, str, int]:
        entry, _ = publish_to(store, request)
        return "publish", request.key, entry.version

    return act


def retiring(version: int) -> Act:
    """An act that retires a version."""

    def act(store: Store) -> tuple[str, str, int]:
        retire_in(store, f"people@{version}", "wrong")
        return "retire", "", version

    return act


@dataclass(frozen=True)
class Scenario:
    """Who does what at once, and what is there before.

    Attributes:
        acts: what is done at once.
        again: what is tried again after a crash.
        published: what was published before, durably.
    """

    acts: tuple[Act, ...]
    again: tuple[PublishRequest, ...]
    published: tuple[PublishRequest, ...] = ()


def scenarios(release: PublishRequest) -> dict[str, Scenario]:
    """The situations that are explored, made of one small release."""
    later = "2026-02-01T12:00:00+00:00"
    other = dataclasses.replace(release, key="key-2")
    third = dataclasses.replace(release, key="key-3")
    twin = dataclasses.replace(release, created_at=later)
    one, two = publishing(release), publishing(other)
    return {
        "one publisher": Scenario((one,), (release,)),
        "one publisher, a version before": Scenario((two,), (release, other), (release,)),
        "two keys at once": Scenario((one, two), (release, other)),
        "one key twice at once": Scenario((one, one), (release,)),
        "one key twice at once, made at other times": Scenario(
            (one, publishing(twin)), (release, twin)
        ),
        "three at once, a version before": Scenario(
            (two, publishing(third), publishing(dataclasses.replace(other, created_at=later))),
            (release, other, third),
            (release,),
        ),
        "a version is retired while one is published": Scenario(
            (retiring(1), two), (release, other), (release,)
        ),
        "a version is retired twice at once": Scenario(
            (retiring(1), retiring(1)), (release,), (release,)
        ),
    }


def run_scenario(
    scenario: Scenario,
    folder: Path,
    seed: int,
    findings: Findings,
    *,
    store: type[Recorded] = Recorded,
    recover_every: int = 1,
) -> None:
    """Record a scenario in a new folder, in the order of a seed, and explore it."""
    root = folder / "lake"
    root.mkdir(parents=True)
    for request in scenario.published:
        publish_to(LocalStore(root), request)
    before = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    for left in root.glob("*/.staging"):
        left.rmdir()
    recording = record(root, scenario.acts, seed, store)
    explore(recording, before, scenario.again, findings, seed=seed, recover_every=recover_every)
