"""Weekday and time of day are learned beside a moment, and sampled moments agree with them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import GENERATORS
from generators.base import Conditional
from generators.encoding import EncodedTable, TableCodec
from generators.moments import Part, moved
from generators.schema import MICROSECONDS_PER_DAY, TableSchema, to_numbers

EVERYWHERE = lambda x: np.ones(len(x), dtype=bool)  # noqa: E731
FAMILIES = ["independent", "forest", "autoregressive"]


def calendar(n: int = 6_000) -> pd.DataFrame:
    """Visits: fewer at weekends, of leisure then and in the evening, of work else."""
    rng = np.random.default_rng(5)
    day = pd.Timestamp("2019-01-01") + pd.to_timedelta(rng.integers(0, 1_500, 2 * n), unit="D")
    day = day[(day.dayofweek < 5) | (rng.random(len(day)) < 0.4)][:n]
    leisure = rng.random(n) < np.where(day.dayofweek >= 5, 0.9, 0.1)
    hour = np.clip(np.where(leisure, rng.normal(20, 1, n), rng.normal(9, 1, n)), 5, 23)
    at = day + pd.to_timedelta((hour * 3600).astype(int), unit="s")
    return pd.DataFrame({"at": at.astype("datetime64[us]"), "kind": np.where(leisure, "l", "w")})


@given(st.datetimes(pd.Timestamp("1900-01-01"), pd.Timestamp("2200-01-01")))
def test_parts_are_those_of_pandas(moment: object) -> None:
    stamp = pd.Timestamp(str(moment))
    number = to_numbers(pd.Series([stamp]))
    assert Part(0, "weekday").of(number)[0] == stamp.dayofweek
    of_day = (stamp - stamp.normalize()) / pd.Timedelta(seconds=1)
    assert Part(0, "time").of(number)[0] == pytest.approx(of_day, abs=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 40_000), st.sampled_from(["us", "s", "D"]))
def test_what_is_encoded_is_decoded(seed: int, days: int, unit: str) -> None:
    rng = np.random.default_rng(seed)
    moments = rng.integers(0, days * MICROSECONDS_PER_DAY, 400) - 10**15
    series = pd.Series(moments.astype("datetime64[us]")).dt.floor(unit)
    series = series.mask(series.index % 7 == 0)
    frame = pd.DataFrame({"at": series})
    codec = TableCodec.fit(frame, TableSchema.infer(frame, kinds={"at": "datetime"}))
    codec = TableCodec.from_json(codec.schema, json.loads(json.dumps(codec.to_json())))
    encoded = codec.encode(frame)
    pd.testing.assert_frame_equal(codec.decode(encoded), frame)
    pd.testing.assert_frame_equal(codec.decode(codec.settle(encoded)), frame)


def test_a_moment_moves_to_the_nearest_day_of_its_weekday() -> None:
    monday = to_numbers(pd.Series(pd.to_datetime(["2024-01-01T10:00"])))
    for weekday in range(7):
        for time in (np.nan, 3600.0):
            there = moved(monday, np.array([weekday]), np.array([time]), EVERYWHERE)
            stamp = pd.Timestamp(int(there[0]), unit="us")
            assert stamp.dayofweek == weekday
            assert stamp.hour == (10 if np.isnan(time) else 1)
            assert abs((stamp.normalize() - pd.Timestamp("2024-01-01")).days) <= 3


def test_where_the_nearest_day_is_not_allowed_it_is_a_week_away_or_nothing_moves() -> None:
    monday = to_numbers(pd.Series(pd.to_datetime(["2024-01-01"])))
    sunday = np.array([6.0])
    later = moved(monday, sunday, None, lambda x: x >= monday)
    assert later[0] == monday[0] + 6 * MICROSECONDS_PER_DAY
    narrow = moved(monday, sunday, None, lambda x: np.abs(x - monday) <= MICROSECONDS_PER_DAY / 2)
    assert narrow[0] == monday[0]


def test_few_dates_have_no_parts_and_many_have() -> None:
    frame = calendar()
    assert len(TableCodec.fit(frame, TableSchema.infer(frame)).parts) == 2
    days = pd.DataFrame({"at": frame["at"].dt.normalize()})
    parts = TableCodec.fit(days, TableSchema.infer(days)).parts
    assert [part.what for part in parts] == ["weekday"]
    few = pd.DataFrame({"at": pd.to_datetime(["2024-01-01", "2024-02-01"] * 20)})
    assert TableCodec.fit(few, TableSchema.infer(few)).parts == ()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Conditional:
    frame = calendar()
    generator = GENERATORS[request.param].from_parameters({})
    generator.fit(frame, TableSchema.infer(frame))
    assert isinstance(generator, Conditional)
    return generator


def test_weekends_and_hours_are_kept(model: Conditional) -> None:
    real, drawn = calendar(), model.sample(6_000, seed=1)
    assert isinstance(drawn, pd.DataFrame)
    for frame in (real, drawn):
        frame["weekend"] = frame["at"].dt.dayofweek >= 5
        frame["hour"] = frame["at"].dt.hour
    assert drawn["weekend"].mean() == pytest.approx(real["weekend"].mean(), abs=0.025)
    bins = np.arange(25)
    hours = [np.histogram(frame["hour"], bins)[0] / len(frame) for frame in (real, drawn)]
    assert np.abs(hours[0] - hours[1]).sum() / 2 < 0.06
    if model.name != "independent":
        for frame in (real, drawn):
            frame["leisure"] = frame["kind"] == "l"
        for by in ("weekend", "leisure"):
            of = "leisure" if by == "weekend" else "hour"
            means = [frame.groupby(by)[of].mean() for frame in (real, drawn)]
            scale = 1.0 if of == "leisure" else 24.0
            assert np.abs(means[0] - means[1]).max() < 0.06 * scale


def test_a_condition_on_the_moment_holds_after_it_moved(model: Conditional) -> None:
    drawn = model.sample_where(["at >= 2020-03-04", "at <= 2020-03-06T12:00"], 2_000, seed=3)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn["at"].min() >= pd.Timestamp("2020-03-04")
    assert drawn["at"].max() <= pd.Timestamp("2020-03-06T12:00")


def test_a_given_moment_stays_and_tells_of_the_rest(model: Conditional) -> None:
    at = pd.Series(pd.to_datetime(["2020-03-07T20:00", "2020-03-04T09:00"] * 300))
    filled = model.fill(pd.DataFrame({"at": at}), seed=4)
    assert (filled["at"] == at).all()
    if model.name != "independent":
        leisure = (filled["kind"] == "l").to_numpy()
        assert leisure[::2].mean() > 0.8
        assert leisure[1::2].mean() < 0.2


def test_settled_rows_are_settled() -> None:
    frame = calendar(500)
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    rng = np.random.default_rng(0)
    encoded = codec.encode(frame)
    mixed = EncodedTable(encoded.codes.copy(), encoded.values.copy())
    mixed.values[:, 0] = rng.permutation(mixed.values[:, 0])
    once = codec.settle(mixed)
    twice = codec.settle(
        EncodedTable(mixed.codes, np.where(once.codes < 0, mixed.values, once.values))
    )
    np.testing.assert_array_equal(once.values, twice.values)
    assert (once.codes[:, -2:] == -1).all()
