"""Personal identifiers recognised by their values; a column's name alone never decides.

Checksums and rules: Luhn (ISO/IEC 7812-1), MOD 97-10 (ISO 7064, as in IBAN, ISO 13616, and in the
French NIR), the control letter of the Spanish DNI, EAN-13 (the Swiss AHV number), the areas that
United States social security and taxpayer numbers leave out. Names are those of Faker's lists.
"""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pandas as pd

from generators.schema import MICROSECONDS_PER_DAY, to_numbers

# A column is personal when this share of its distinct values (of a sample) match one pattern.
_SHARE = 0.5
# Words that are names are other things, too: more of them must be, and there must be many.
_NAME_SHARE, _NAME_DISTINCT = 0.7, 15
_SAMPLE = 2_000
_LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT")
_TITLES = re.compile(
    r"^(?:mr|mrs|ms|miss|dr|prof|sir|herr|frau|hr|fr|dipl\.-ing|univ\.prof|m|mme|don|doña|sig)\.?\s+"
    r"|,?\s+(?:jr|sr|md|dds|dvm|phd|ii|iii|iv|v|b\.?\w{2}\.?|m\.?\w{2}\.?)\.?$",
    re.IGNORECASE,
)
# A hint counts only where most values are rare: then a name is believed.
_HINTS = {
    "e-mail address": r"e_?-?mail",
    "telephone number": r"phone|mobile|fax",
    "person's name": r"(first|last|given|family|full|sur|maiden)_?-?\s?name|^surname$",
    "postal address": r"address|street",
    "national identity number": r"ssn|social_?security|passport|national_?id|licen[cs]e_?n",
}
_BIRTH = re.compile(r"birth|(^|_)dob($|_)|\bborn\b", re.IGNORECASE)
_PLACE = re.compile(r"(^|[_\W])(lat|latitude|lon|lng|long|longitude)($|[_\W])", re.IGNORECASE)
# Ages of a population spread over decades; other events of a table rarely do.
_BIRTH_SPREAD_YEARS, _OLDEST_YEARS = 35.0, 120.0

# Street words that count things or name places of any kind.
_WORDS = frozenset(
    [
        "bridge",
        "burg",
        "centers",
        "course",
        "center",
        "cliff",
        "corner",
        "corners",
        "cove",
        "creek",
        "estate",
        "estates",
        "extension",
        "falls",
        "field",
        "fields",
        "flat",
        "flats",
        "ford",
        "fork",
        "forks",
        "fort",
        "garden",
        "gardens",
        "green",
        "greens",
        "harbor",
        "heights",
        "hill",
        "hills",
        "island",
        "islands",
        "key",
        "keys",
        "lake",
        "lakes",
        "land",
        "light",
        "lights",
        "load",
        "locks",
        "mill",
        "mills",
        "mission",
        "motorway",
        "mount",
        "mountain",
        "orchard",
        "oval",
        "overpass",
        "park",
        "parks",
        "pass",
        "path",
        "pike",
        "pine",
        "pines",
        "plain",
        "plains",
        "point",
        "points",
        "port",
        "ports",
        "ranch",
        "rapid",
        "rapids",
        "rest",
        "ridge",
        "river",
        "row",
        "run",
        "shoal",
        "shore",
        "spring",
        "springs",
        "spur",
        "station",
        "stream",
        "summit",
        "track",
        "trail",
        "tunnel",
        "turnpike",
        "union",
        "unions",
        "valley",
        "via",
        "view",
        "views",
        "village",
        "ville",
        "vista",
        "walk",
        "walks",
        "wall",
        "well",
        "wells",
        "de",
        "la",
        "du",
        "des",
        "del",
        "of",
        "and",
        "der",
        "die",
        "das",
    ]
)
_FLAT = re.compile(
    r"^(flat|studio|apartment)\s\d+\w?\s|\b[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}$", re.IGNORECASE
)
# A whole number with a telling name is an identifier when it has so many digits.
_LONG_NUMBER = 7
BIRTH, PLACE, NAME = "date of birth", "geographic position", "person's name"
"""Kinds that are treated in a way of their own."""


def _luhn(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    if (
        not 13 <= len(digits) <= 19
        or re.search(r"[^\d\s-]", text)
        or digits[0] not in (2, 3, 4, 5, 6)
    ):
        return False
    doubled = [
        d if i % 2 == 0 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    plain = re.sub(r"\s", "", text).upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _ip(text: str) -> bool:
    if text.count(".") != 3 and ":" not in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _nir(text: str) -> bool:
    plain = re.sub(r"\s", "", text)
    return bool(re.fullmatch(r"[12]\d{14}", plain)) and 97 - int(plain[:13]) % 97 == int(plain[13:])


def _dni(text: str) -> bool:
    plain = text.upper().replace("-", "")
    if not re.fullmatch(r"[XYZ\d]\d{7}[A-Z]", plain):
        return False
    number = int(plain[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == plain[-1]


def _ahv(text: str) -> bool:
    digits = [int(c) for c in text.replace(".", "")] if re.fullmatch(r"[\d.]{13,16}", text) else []
    if len(digits) != 13 or digits[:3] != [7, 5, 6]:
        return False
    return sum(d * (1, 3)[i % 2] for i, d in enumerate(digits)) % 10 == 0


def _is_address(text: str) -> bool:
    """A house number and a street word (of Faker's lists) among a few words."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    if not 1 <= len(words) <= 14 or not re.search(r"(?<!\d)\d{1,6}(?!\d)", text):
        return False
    if _FLAT.search(text):
        return len(text) <= 120
    joined = any(
        word.endswith(("straße", "strasse", "weg", "platz", "gasse", "allee")) for word in words
    )
    return len(text) <= 120 and (joined or any(word in _streets() for word in words))


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.fullmatch(text) is not None


def _any(*tests: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: any(test(text) for test in tests)


_DETECTORS: dict[str, Callable[[str], bool]] = {
    "e-mail address": _matches(r"[\w.+'-]+@[\w-]+(\.[\w-]+)+"),
    "payment card number": _luhn,
    "social security number": _matches(r"(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}"),
    "national identity number": _any(
        _nir,
        _dni,
        _ahv,
        _matches(r"(?!BG|GB|NK|KN|TN|NT)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]( ?\d\d){3} ?[A-DT]"),
        _matches(r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]"),
    ),
    "IBAN": _iban,
    "IP address": _ip,
    "MAC address": _matches(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}"),
    "UUID": _matches(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "geographic position": _matches(
        r"\(?[+-]?([0-8]?\d|90)\.\d{3,}\s*[,; ]\s*[+-]?(1[0-7]\d|\d{1,2}|180)\.\d{3,}\)?"
    ),
    "telephone number": _matches(
        r"(?!\d+$)(?!\d{3}-\d\d-\d{4}$)(?!\d{4}[-/.]\d)(?!\d{1,2}[-/.]\d{1,2}[-/.]\d{4})(?!.*:)(?!\d+\.\d+$)"
        r"(?=(?:\D*\d){7,16}\D*$)(\+|\(|\d)[\d\s().x/+-]+|\+?\d{10,13}(?<!0000)"
    ),
    "URL": _matches(r"(https?|ftp)://\S+"),
    "postal address": lambda text: _is_address(text),
}


def personal_value(text: str) -> str | None:
    """What kind of personal identifier ``text`` looks like, or None; names are not recognised."""
    return next((name for name, detector in _DETECTORS.items() if detector(text.strip())), None)


def looks_personal(series: pd.Series) -> str | None:
    """What kind of personal identifier most values of a column look like, or None.

    The name of ``series`` only helps: with values that are rare, or dates, or degrees.
    """
    present = series.dropna()
    if len(present) == 0:
        return None
    name = str(series.name or "")
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return BIRTH if _births(to_numbers(present), name) else None
    if pd.api.types.is_bool_dtype(series.dtype):
        return None
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _personal_numbers(present, name)
    if not present.map(lambda value: isinstance(value, str)).all():
        return None
    distinct = [str(value).strip() for value in present.drop_duplicates().iloc[:_SAMPLE]]
    for kind, detector in _DETECTORS.items():
        if sum(map(detector, distinct)) > _SHARE * len(distinct):
            return kind
    if len(distinct) >= _NAME_DISTINCT and _share_of_names(distinct) > _NAME_SHARE:
        return NAME
    return _hinted(name, present)


def _hinted(name: str, present: pd.Series) -> str | None:
    counts = present.map(present.value_counts())
    if present.nunique() < _NAME_DISTINCT or (counts < 5).mean() <= _SHARE:
        return None
    return next((kind for kind, hint in _HINTS.items() if re.search(hint, name, re.I)), None)


def _personal_numbers(present: pd.Series, name: str) -> str | None:
    if pd.api.types.is_integer_dtype(present.dtype):
        distinct = [str(value) for value in present.drop_duplicates().iloc[:_SAMPLE]]
        # One number in ten passes by chance.
        cards = sum(map(_luhn, distinct))
        if cards > _SHARE * len(distinct) and len(distinct) >= _NAME_DISTINCT:
            return "payment card number"
        long = sum(len(value.lstrip("-")) >= _LONG_NUMBER for value in distinct)
        return _hinted(name, present) if long > _SHARE * len(distinct) else None
    degrees = to_numbers(present.iloc[:_SAMPLE])
    fine = np.abs(degrees * 100 - np.round(degrees * 100)) > 1e-6
    within = bool(np.all(np.abs(degrees) <= 180))
    return PLACE if _PLACE.search(name) and within and fine.mean() > _SHARE else None


def _births(micro: np.ndarray, name: str) -> bool:
    if np.any(micro % MICROSECONDS_PER_DAY):
        return False
    years = 1970 + micro / (MICROSECONDS_PER_DAY * 365.2425)
    newest = float(years.max())
    if _BIRTH.search(name):
        return True
    low, high = np.quantile(years, [0.05, 0.95])
    plausible = newest - float(years.min()) <= _OLDEST_YEARS
    return bool(plausible and high - low >= _BIRTH_SPREAD_YEARS and len(years) >= _NAME_DISTINCT)


def _share_of_names(values: Iterable[str]) -> float:
    judged = [_is_name(value) for value in values]
    return sum(judged) / len(judged)


def _is_name(text: str) -> bool:
    plain = _TITLES.sub("", _TITLES.sub("", text.strip())).lower()
    words = [word for word in re.split(r"[\s,.-]+", plain) if len(word) > 1]
    if not 1 <= len(words) <= 5 or any(not c.isalpha() and c not in " ,.'’-" for c in plain):
        return False
    return sum(word in _names() for word in words) > _SHARE * len(words)


@cache
def _streets() -> frozenset[str]:
    """Words for streets in Faker's lists, without those that are words of any text."""
    listed: set[str] = {"road", "rd", "ave", "blvd", "apt"}
    for locale in _LOCALES:
        provider = importlib.import_module(f"faker.providers.address.{locale}").Provider
        for attribute in ("street_suffixes", "street_suffixes_long", "street_prefixes"):
            listed.update(str(word).lower() for word in getattr(provider, attribute, ()))
    return frozenset(word for text in listed for word in text.split() if len(word) > 1) - _WORDS


@cache
def _names() -> frozenset[str]:
    """First and last names of Faker's lists, in lower case, as single words."""
    listed: set[str] = set()
    for locale in _LOCALES:
        provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
        for attribute in ("first_names", "first_names_male", "first_names_female", "last_names"):
            listed.update(str(name) for name in getattr(provider, attribute, ()))
    return frozenset(word for name in listed for word in re.split(r"[\s-]+", name.lower()) if word)
