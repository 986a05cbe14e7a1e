"""Detection by value, measured: invented personal columns against innocent look-alikes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from faker import Faker

from pipelines.protection.detection import looks_personal

ROWS = 300
LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT")
PERSONAL = {
    "email": "e-mail address",
    "phone_number": "telephone number",
    "name": "person's name",
    "first_name": "person's name",
    "last_name": "person's name",
    "address": "postal address",
    "street_address": "postal address",
    "credit_card_number": "payment card number",
    "iban": "IBAN",
    "ipv4": "IP address",
    "ipv6": "IP address",
    "mac_address": "MAC address",
    "uuid4": "UUID",
    "ssn": "number",
    "url": "URL",
    "date_of_birth": "date of birth",
}


def personal(locale: str, seed: int) -> dict[str, pd.Series]:
    invented = Faker(locale)
    invented.seed_instance(seed)
    made = {what: [getattr(invented, what)() for _ in range(ROWS)] for what in PERSONAL}
    columns = {what: pd.Series(values) for what, values in made.items()}
    columns["date_of_birth"] = pd.to_datetime(columns["date_of_birth"])
    return columns


def innocent(seed: int) -> dict[str, pd.Series]:
    """Columns that share a shape with personal ones: digits, dashes, capitals, dates, degrees."""
    rng = np.random.default_rng(seed)
    day = pd.Timestamp("2015-01-01")
    number = rng.integers(0, 10**9, ROWS)
    words = [
        "red",
        "green",
        "blue",
        "April",
        "May",
        "June",
        "Paris",
        "Austin",
        "Lincoln",
        "hope",
        "grace",
        "rose",
        "amber",
        "ruby",
    ]
    columns: dict[str, object] = {
        "colour": rng.choice(words[:3], ROWS),
        "month": rng.choice(["April", "May", "June", "August"], ROWS),
        "word": rng.choice(words, ROWS),
        "city": rng.choice(
            [
                "Bern",
                "Oslo",
                "Rome",
                "Paris",
                "Lyon",
                "Porto",
                "Graz",
                "Turin",
                "Madrid",
                "Bonn",
                "Ghent",
                "Malmö",
                "Cork",
                "Leeds",
                "Tokyo",
                "Lima",
                "Quito",
                "Kyoto",
                "Delhi",
                "Osaka",
            ],
            ROWS,
        ),
        "order": [f"2024-{n:06d}" for n in number % 10**6],
        "sku": [f"{chr(65 + n % 26)}{n % 9973:04d}-{n % 89:02d}" for n in number],
        "sixteen digits": [
            f"{n}{m:07d}" for n, m in zip(number + 10**9, number % 10**7, strict=True)
        ],
        "sixteen as number": number * 10**7 + 10**15,
        "version": [f"{n % 9}.{n % 11}.{n % 13}" for n in number],
        "ratio": [f"{n % 97}/{n % 89}" for n in number],
        "iso date": [f"20{n % 25:02d}-{n % 12 + 1:02d}-{n % 28 + 1:02d}" for n in number],
        "clock": [f"{n % 24:02d}:{n % 60:02d}:{n % 59:02d}" for n in number],
        "zip": [f"{n % 99_999:05d}" for n in number],
        "amount": [f"{n / 100:.2f}" for n in number],
        "thousands": [f"{n:,}" for n in number],
        "icd": [f"{chr(65 + n % 20)}{n % 100:02d}.{n % 10}" for n in number],
        "hex": [f"{n:08x}" for n in number],
        "part": [f"000-{n % 100:02d}-{n % 10_000:04d}" for n in number],
        "iban shaped": [f"CH{n % 90 + 10}{n:09d}{n % 10**8:08d}" for n in number],
        "plate": [f"ZH {n % 999_999}" for n in number],
        "sentence": [f"pump {n % 31} ran at {n % 7} bar on line {n % 5}" for n in number],
        "title": rng.choice(["nurse", "clerk", "mayor", "baker", "smith", "cook"], ROWS),
        "dose": [f"{n % 50 + 1} mg" for n in number],
        "range": rng.choice(["18-25", "26-35", "36-50", "51-99"], ROWS),
        "ordered at": day + pd.to_timedelta(rng.integers(0, 3_000, ROWS), "D"),
        "measured at": day + pd.to_timedelta(rng.integers(0, 10**8, ROWS), "s"),
        "height": rng.normal(170, 10, ROWS).round(1),
        "weight": rng.normal(0, 30, ROWS),
        "count": rng.poisson(3, ROWS),
        "flag": rng.random(ROWS) < 0.5,
    }
    return {name: pd.Series(values) for name, values in columns.items()}  # type: ignore[arg-type]


def test_precision_and_recall_without_the_help_of_names() -> None:
    found = [
        (locale, what, looks_personal(series.rename("x")))
        for locale in LOCALES
        for seed in (0, 1)
        for what, series in personal(locale, seed).items()
    ]
    missed = [(locale, what) for locale, what, kind in found if kind is None]
    wrong = [
        (name, kind)
        for seed in range(12)
        for name, series in innocent(seed).items()
        if (kind := looks_personal(series.rename("x"))) is not None
    ]
    recall = 1 - len(missed) / len(found)
    precision = (len(found) - len(missed)) / (len(found) - len(missed) + len(wrong))
    assert recall >= 0.98, missed
    assert precision >= 0.98, wrong
    kinds = [(what, kind) for _, what, kind in found if kind and PERSONAL[what] not in kind]
    assert len(kinds) <= 0.03 * len(found), kinds


@pytest.mark.parametrize("name", ["home_lat", "longitude", "lon"])
def test_degrees_are_positions_by_name_and_value(name: str) -> None:
    rng = np.random.default_rng(0)
    degrees = pd.Series(rng.uniform(-80, 80, ROWS).round(5), name=name)
    assert looks_personal(degrees) == "geographic position"
    assert looks_personal(degrees.rename("x")) is None
    assert looks_personal((degrees.round(0)).rename(name)) is None
    assert looks_personal((degrees * 1e6).rename(name)) is None


def test_a_name_hint_needs_rare_values() -> None:
    rare = pd.Series([f"qx{number}" for number in range(ROWS)], name="mobile_phone")
    assert looks_personal(rare) == "telephone number"
    assert looks_personal(rare.rename("x")) is None
    assert looks_personal(pd.Series(["a", "b"] * 99, name="mobile_phone")) is None
    numbers = pd.Series(2_125_550_000 + np.arange(ROWS) ** 2)
    assert looks_personal(numbers.rename("phone")) == "telephone number"
    assert looks_personal(numbers.rename("x")) is None
    assert looks_personal((numbers % 1_000).rename("phones_sold")) is None


def test_part_of_the_values_is_enough() -> None:
    half = pd.Series(["n/a"] * 100 + [f"user{n}@example.org" for n in range(200)])
    assert looks_personal(half) == "e-mail address"
