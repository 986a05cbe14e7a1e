"""Invented values in the place of personal ones: by Faker, from a seed, and never a real one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from generators.base import DataError, ParameterError, derive_seed

if TYPE_CHECKING:
    from faker import Faker

DEFAULT_PROVIDER = "bothify"
_PROVIDERS = {
    "e-mail address": "safe_email",
    "payment card number": "credit_card_number",
    "social security number": "ssn",
    "national identity number": "ssn",
    "IBAN": "iban",
    "IP address": "ipv4",
    "MAC address": "mac_address",
    "UUID": "uuid4",
    "telephone number": "phone_number",
    "URL": "url",
    "postal address": "address",
    "person's name": "name",
    "geographic position": "latlng",
}
# Inventing takes some 20 microseconds a value; beyond so many, values are varied by a number.
_POOL = 10_000
_TRIES = 50


def provider_of(detected: str | None) -> str:
    """The provider for what was detected."""
    return _PROVIDERS.get(detected or "", DEFAULT_PROVIDER)


def checked_provider(name: str, locale: str) -> str:
    """``name``, if Faker has such a provider for ``locale``.

    Raises:
        ParameterError: there is no such locale or provider.
    """
    _inventor(name, locale, 0)
    return name


def fake_columns(
    frame: pd.DataFrame,
    providers: Mapping[str, str],
    real: Mapping[str, Collection[str]],
    *,
    unique: Collection[str] = (),
    locale: str = "en_US",
    seed: int = 0,
) -> pd.DataFrame:
    """A copy of ``frame`` with invented values in some columns; missing cells stay missing.

    Args:
        frame: sampled rows.
        providers: Faker's provider by column.
        real: values that must not come out, by column; case and outer spaces do not matter.
        unique: columns whose values must differ.
        locale: of the inventions.
        seed: the same seed gives the same values, whatever the other columns are.
    """
    changed = frame.copy()
    for name, provider in providers.items():
        missing = frame[name].isna().to_numpy()
        values = invent(
            int((~missing).sum()),
            provider,
            forbidden=real.get(name, ()),
            unique=name in unique,
            locale=locale,
            seed=derive_seed("fake", seed, name),
        )
        column = np.full(len(frame), None, dtype=object)
        column[~missing] = values
        changed[name] = pd.Series(column, index=frame.index, dtype=object)
    return changed


def fresh_surrogates(surrogates: pd.Series, real: pd.Series) -> pd.Series:
    """``surrogates`` moved where none of them is a real value; order and dtype stay.

    Numbers go beyond the next power of ten, which tells only how long the real ones are: leaving
    out the real ones one by one would tell them all.
    """
    if not surrogates.isin(real.dropna()).any():
        return surrogates
    if pd.api.types.is_integer_dtype(surrogates.dtype):
        least, most = int(real.min()), int(real.max())
        shift = 10 ** len(str(max(abs(least), abs(most))))
        limit = np.iinfo(np.dtype(str(surrogates.dtype).lower())).max
        if int(surrogates.max()) + shift <= limit:
            shifted: pd.Series = surrogates + shift
            return shifted
        raise DataError(
            f"column {surrogates.name!r} must have room for new ids, its type has none; leave it "
            "out with --policy NAME=drop"
        )
    if not pd.api.types.is_object_dtype(surrogates.dtype):
        return surrogates
    known = set(real.dropna().astype(str))
    prefix = "s"
    while any(f"{prefix}{text}" in known for text in surrogates):
        prefix += "s"
    moved: pd.Series = prefix + surrogates
    return moved


def invent(
    n: int,
    provider: str,
    *,
    forbidden: Collection[str] = (),
    unique: bool = False,
    locale: str = "en_US",
    seed: int = 0,
) -> list[str]:
    """``n`` invented values, none of them in ``forbidden``.

    Raises:
        DataError: the provider knows only forbidden values.
    """
    known = {_plain(value) for value in forbidden}
    new = _inventor(provider, locale, seed)
    pool = _distinct(min(n, _POOL), new, known)
    if n and not pool:
        raise DataError(
            f"invented values must not be real ones, all that {provider!r} gives are; declare "
            "another provider or --policy NAME=drop"
        )
    if not unique:
        order = np.random.default_rng(seed).integers(0, max(len(pool), 1), n)
        return [pool[position] for position in order]
    values: list[str] = []
    round_number = 0
    taken = set(known)
    while len(values) < n:
        for value in pool:
            varied = _numbered(value, round_number) if round_number else value
            if _plain(varied) not in taken:
                taken.add(_plain(varied))
                values.append(varied)
        round_number += 1
    return values[:n]


def _distinct(n: int, new: Callable[[], str], known: set[str]) -> list[str]:
    found: dict[str, str] = {}
    misses = 0
    while len(found) < n and misses < _TRIES:
        value = new()
        if _plain(value) in known or _plain(value) in found:
            misses += 1
            continue
        found[_plain(value)] = value
        misses = 0
    return list(found.values())


def _numbered(value: str, number: int) -> str:
    name, at, rest = value.partition("@")
    return f"{name}{number}{at}{rest}" if at else f"{value} {number}"


def _plain(value: str) -> str:
    return value.strip().lower()


def _inventor(provider: str, locale: str, seed: int) -> Callable[[], str]:
    from faker import Faker

    try:
        faker: Faker | None = Faker(locale)
    except AttributeError:
        faker = None
    if faker is None or not any(hasattr(known, provider) for known in faker.get_providers()):
        raise ParameterError(
            f"a fake must be a provider of Faker for {locale}, there is no {provider!r}; "
            "see faker.readthedocs.io for the list"
        )
    method: Callable[..., Any] = getattr(faker, provider)
    faker.seed_instance(seed)
    if provider == DEFAULT_PROVIDER:
        return lambda: str(method("??????-######"))
    return lambda: _text(method())


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return " ".join(str(value).split("\n"))
