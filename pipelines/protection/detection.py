"""Personal identifiers recognised by their values, not by the column's name alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

# A column is personal when this share of a sample of its values matches one pattern.
_SHARE = 0.5
_SAMPLE = 2_000


def _luhn(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or re.search(r"[A-Za-z]", text):
        return False
    doubled = [
        d if i % 2 == 0 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: compiled.fullmatch(text) is not None


_DETECTORS: dict[str, Callable[[str], bool]] = {
    "e-mail address": _matches(r"[\w.+'-]+@[\w-]+(\.[\w-]+)+"),
    "payment card number": _luhn,
    "social security number": _matches(r"\d{3}-\d{2}-\d{4}"),
    "IBAN": _matches(r"[a-z]{2}\d{2}(\s?[a-z0-9]{4}){2,7}\s?[a-z0-9]{1,4}"),
    "IP address": _matches(r"(\d{1,3}\.){3}\d{1,3}|([0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}"),
    "MAC address": _matches(r"([0-9a-f]{2}[:-]){5}[0-9a-f]{2}"),
    "UUID": _matches(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "telephone number": _matches(r"(?=(?:.*\d){9,15}.*$)\+?[\d\s().x/-]+"),
    "URL": _matches(r"(https?|ftp)://\S+"),
    "postal address": _matches(
        r"\d{1,6}[a-z]?\s+([\w.'-]+\s+){1,5}"
        r"(street|st|road|rd|avenue|ave|lane|ln|drive|dr|way)\b.*"
    ),
}


def personal_value(text: str) -> str | None:
    """What kind of personal identifier ``text`` looks like, or None."""
    return next((name for name, detector in _DETECTORS.items() if detector(text.strip())), None)


def looks_personal(series: pd.Series) -> str | None:
    """What kind of personal identifier most values of a text column look like, or None.

    Numbers are not looked at: their columns are clipped and never copied verbatim.
    """
    present = series.dropna()
    if len(present) == 0 or not present.map(lambda value: isinstance(value, str)).all():
        return None
    distinct = present.drop_duplicates()
    sample = [str(value).strip() for value in distinct.iloc[:_SAMPLE]]
    for name, detector in _DETECTORS.items():
        if sum(map(detector, sample)) > _SHARE * len(sample):
            return name
    return None
