"""What a generator family is and takes, read from its class: the explanation cannot lag behind."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

from generators.base import Generator, ParameterError, Resumable

_FIELD = re.compile(r"^ {4}(\w+): (.*)$")
# Values that a bound would refuse, tried from below and from above.
_PROBES = (-1, 0, 1_000_000_000)
_OPTIONAL = {"Conditional": "conditional sampling", "Density": "density"}


def explain(name: str, family: type[Generator]) -> dict[str, Any]:
    """Everything a user may want to know of ``family``, JSON-able."""
    about, _ = _parts(family.__doc__ or "")
    first, _, more = about.partition("\n")
    bases = {base.__name__ for base in family.__mro__}
    return {
        "name": name,
        "for": f"{family.modality}s",
        "what": first,
        "more": " ".join(more.split()),
        "when to use": family.suits,
        "paper": _paper(family),
        "trains on": _devices(family),
        "resume after a stop": issubclass(family, Resumable),
        **{what: base in bases for base, what in _OPTIONAL.items()},
        "can be saved": family.persistent,
        "fields": _fields(family),
    }


def _parts(doc: str) -> tuple[str, dict[str, str]]:
    """The text before ``Attributes:``, and the meaning of each attribute."""
    about, _, attributes = inspect.cleandoc(doc).partition("Attributes:")
    meanings: dict[str, str] = {}
    current = ""
    for line in attributes.splitlines():
        if found := _FIELD.match(line):
            current = found[1]
            meanings[current] = found[2]
        elif line.startswith(" " * 8) and current:
            meanings[current] += " " + line.strip()
        elif line.strip():
            break
    return about.strip(), meanings


def _paper(family: type[Generator]) -> str:
    texts = (family.__doc__ or "", sys.modules[family.__module__].__doc__ or "")
    numbers = [number for text in texts for number in re.findall(r"arXiv (\d{4}\.\d{4,5})", text)]
    return ", ".join(f"arXiv {number}" for number in dict.fromkeys(numbers))


def _devices(family: type[Generator]) -> str:
    names = {field.name for field in dataclasses.fields(family)}
    return "CPU or CUDA (device=auto, cpu, cuda)" if "device" in names else "CPU"


def _fields(family: type[Generator]) -> list[dict[str, Any]]:
    meanings = {"seed": "same data and seed, same model"}
    for base in reversed(family.__mro__):
        meanings.update(_parts(base.__doc__ or "")[1])
    return [
        {
            "field": field.name,
            "type": str(field.type),
            "default": repr(_default(field)),
            "meaning": meanings.get(field.name, ""),
            "bounds": "; ".join(_bounds(family, field)),
        }
        for field in dataclasses.fields(family)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - of any type
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _bounds(family: type[Generator], field: dataclasses.Field[Any]) -> list[str]:
    """What the family says when it refuses a number, without the number."""
    if not re.search(r"\b(int|float)\b", str(field.type)) or "tuple" in str(field.type):
        return []
    said: list[str] = []
    for probe in _PROBES:
        try:
            family.from_parameters({field.name: probe})
        except ParameterError as error:
            requirement = re.split(r", got|;", str(error))[0]
            if requirement not in said and field.name in requirement:
                said.append(requirement)
    return said
