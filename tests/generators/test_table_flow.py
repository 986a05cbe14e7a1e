"""The flow of tables: its splines against calculus, its probabilities against enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, multivariate_normal

from generators import GENERATORS, TableSchema
from generators.base import ParameterError, Progress
from generators.checkpoint import Checkpoint
from generators.tabular.flow import TableFlow
from generators.tabular.resampling import systematic_each
from generators.tabular.spline import Bins, Line, Piece, piece

CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(start=st.floats(-8, 8), end=st.floats(-8, 8))
def test_a_piece_rises_from_0_to_1_and_has_an_inverse(start: float, end: float) -> None:
    bent = Piece(*(torch.tensor(side, dtype=torch.float64).exp() for side in (start, end)))
    x = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    y = bent(x)
    slope = torch.autograd.grad(y.sum(), x)[0]
    assert y.detach()[[0, -1]].tolist() == [0.0, 1.0]
    assert bool((slope > 0).all())
    torch.testing.assert_close(bent.log_slope(x).exp(), slope)
    torch.testing.assert_close(slope[[0, -1]], torch.stack([bent.start, bent.end]))
    torch.testing.assert_close(bent(bent.inverse(y)), y, rtol=0, atol=1e-9)


def line(rng: np.random.Generator, tokens: int = 40, bins: int = 6) -> Line:
    """Numbers in disorder, one of which is a spike, and a missing value."""
    places = np.append(rng.permutation(tokens - 1).astype(float), np.nan)
    rows = rng.integers(1, 20, tokens)
    rows[5] = 400
    return Line.of(places, rows, bins, apart=False)


def test_the_tokens_fill_the_line_in_order() -> None:
    made = line(np.random.default_rng(0))
    assert made.order[-1] == 39, "a missing value is last"
    assert made.alone[made.bins()[5]]
    assert made.alone[made.bins()[39]]
    within, knots = made.within(), made.knots
    width = np.diff(knots)[made.bins()]
    lengths = (within[:, 1] - within[:, 0]) * width
    assert np.isclose(lengths.sum(), 1.0)
    assert np.allclose(lengths[made.order], np.diff(np.append(0.0, made.ends)))
    middle = within.mean(axis=1)
    assert np.array_equal(made.token(made.bins(), middle), np.arange(40))
    few = Line.of(np.arange(5.0), np.array([1, 1, 900, 1, 1]), 8, apart=True)
    assert few.alone.all()


def test_a_spline_is_smooth_at_its_knots_but_beside_a_spike() -> None:
    made = line(np.random.default_rng(1))
    bins, size = Bins.of([made, made], CPU), len(made.alone)
    random = torch.Generator().manual_seed(0)
    heads = torch.randn(1, 2 * (2 * size + 1), generator=random, dtype=torch.float64)
    shares = torch.cat([part.log_softmax(1) for part in heads[:, : 2 * size].split(size, 1)], 1)
    at = torch.arange(2 * size)[None]
    bent = piece(shares, heads[:, 2 * size :], bins, at)
    steep = (shares - bins.width).exp()
    first, last = (bent.start * steep)[0], (bent.end * steep)[0]
    smooth = [k for k in range(size - 1) if not made.alone[k] and not made.alone[k + 1]]
    assert len(smooth) >= 2
    for start in (0, size):
        for knot in smooth:
            torch.testing.assert_close(last[start + knot], first[start + knot + 1])


def test_each_row_is_resampled_by_its_own_weights() -> None:
    rng = np.random.default_rng(2)
    weights = rng.random((300, 7)) * (rng.random((300, 7)) < 0.6)
    weights[:, 3] += 0.1
    chosen = systematic_each(weights, 50, rng)
    shares = weights / weights.sum(axis=1, keepdims=True)
    for position in range(7):
        counts = (chosen == position).sum(axis=1)
        assert (np.abs(counts - 50 * shares[:, position]) < 1 + 1e-9).all()


def related(rows: int) -> pd.DataFrame:
    """Three related categories and a number of few values."""
    rng = np.random.default_rng(4)
    kind = rng.choice(np.array(["a", "b", "c"], object), rows, p=[0.5, 0.3, 0.2])
    flag = np.where(rng.random(rows) < np.where(kind == "a", 0.9, 0.2), "yes", "no")
    count = rng.poisson(np.where(flag == "yes", 1, 4)).clip(0, 6)
    return pd.DataFrame({"kind": kind, "flag": flag.astype(object), "count": count})


def every_row() -> pd.DataFrame:
    rows = itertools.product(["a", "b", "c"], ["yes", "no"], range(7))
    frame = pd.DataFrame(rows, columns=["kind", "flag", "count"])
    return frame.astype({"kind": object, "flag": object})


@pytest.fixture(scope="module")
def learned() -> TableFlow:
    frame = related(2000)
    # So few bins that the values of the number share them.
    model = TableFlow(bins=4, width=16, embedding=4, epochs=8, lr=5e-3)
    return model.fit(frame, TableSchema.infer(frame))


def test_probabilities_sum_to_one_and_are_those_of_the_data(learned: TableFlow) -> None:
    chances = np.exp(learned.log_density(every_row()))
    assert np.isclose(chances.sum(), 1.0)
    counts = related(200_000).value_counts()
    truth = [counts.get(tuple(row), 0) / 200_000 for row in every_row().to_numpy().tolist()]
    assert np.abs(chances - truth).sum() / 2 < 0.06


def test_samples_follow_the_density(learned: TableFlow) -> None:
    rows, n = every_row(), 20_000
    chances = np.exp(learned.log_density(rows))
    drawn: Any = learned.sample(n, seed=1)
    found = drawn.value_counts()
    counts = np.array([found.get(tuple(row), 0) for row in rows.to_numpy().tolist()])
    assert chisquare(counts, chances / chances.sum() * n).pvalue > 1e-3


def test_conditions_and_gaps_follow_the_density(learned: TableFlow) -> None:
    """On each column alone: whatever the order, some come after a free one."""
    rows, n = every_row(), 8000
    chances = np.exp(learned.log_density(rows))
    for where, fits, name in (
        ("count in 3..4", (rows["count"] >= 3) & (rows["count"] <= 4), "flag"),
        ("flag = yes", rows["flag"] == "yes", "kind"),
        ("kind in (b, c)", rows["kind"] != "a", "flag"),
    ):
        other = rows[name] == rows[name].iloc[-1]
        exact = chances[fits & other].sum() / chances[fits].sum()
        drawn: Any = learned.sample_where([where], n, seed=2)
        # Resampled candidates are not quite independent.
        spread = 6 * np.sqrt(exact * (1 - exact) / n)
        assert abs((drawn[name] == rows[name].iloc[-1]).mean() - exact) < spread, where
    for name, value, other_name in (("count", 3, "kind"), ("kind", "b", "flag")):
        fits, other = rows[name] == value, rows[other_name] == rows[other_name].iloc[0]
        exact = chances[fits & other].sum() / chances[fits].sum()
        full = learned.fill(pd.DataFrame({name: [value] * n}), seed=3)
        spread = 5 * np.sqrt(exact * (1 - exact) / n)
        assert abs((full[other_name] == rows[other_name].iloc[0]).mean() - exact) < spread, name


def test_a_density_of_numbers_is_one_and_near_the_true_one() -> None:
    rng = np.random.default_rng(5)
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    both = rng.multivariate_normal(np.zeros(2), covariance, 4000)
    frame = pd.DataFrame(both, columns=["x", "y"])
    schema = TableSchema.infer(frame)
    model = TableFlow(epochs=8, width=16, bins=24, lr=5e-3).fit(frame[:3000], schema)
    rest = frame[3000:].reset_index(drop=True)
    inside = rest[(rest.abs() < 2.5).all(axis=1)].reset_index(drop=True)
    logs = model.log_density(inside)
    # Independent columns would miss 0.83; the steps of both columns' quantiles miss 0.1.
    assert abs((logs - multivariate_normal(cov=covariance).logpdf(inside)).mean()) < 0.2
    edges = [np.linspace(frame[name].min(), frame[name].max(), 301) for name in "xy"]
    middle = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    grid = pd.DataFrame(itertools.product(*middle), columns=["x", "y"])
    area = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    assert abs(np.exp(model.log_density(grid)).sum() * area - 1.0) < 0.02
    # Given x, what is above 0.9 x has the deviation of a fresh value.
    drawn: Any = model.sample(4000, seed=1)
    noise = (drawn["y"] - 0.9 * drawn["x"]) / np.sqrt(1 - 0.81)
    assert kstest(noise, "norm").statistic < 0.06


def test_ten_thousand_levels_cost_no_more_than_their_bins() -> None:
    rng = np.random.default_rng(6)
    level = rng.integers(10_000, size=12_000)
    frame = pd.DataFrame(
        {"level": [f"v{number}" for number in level], "even": level % 2 == 0, "size": level // 2500}
    )
    schema = TableSchema.infer(frame, kinds={"level": "categorical", "size": "categorical"})
    model = TableFlow(epochs=1, width=16).fit(frame, schema)
    # No weights belong to a level; what is known of it is where it lies.
    assert sum(parameter.numel() for parameter in model.network_.parameters()) < 30_000
    drawn: Any = model.sample(4000, seed=1)
    assert drawn["level"].nunique() > 2500
    known = frame["level"].iloc[0]
    assert (model.sample_where([f"level = {known}"], 50, seed=2)["level"] == known).all()
    assert np.isfinite(model.log_density(frame.head(100))).all()
    strange = frame.head(2).assign(level=["nowhere", known])
    assert np.isneginf(model.log_density(strange)).tolist() == [True, False]


def test_an_interrupted_training_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    frame = related(500)
    schema = TableSchema.infer(frame)
    small: dict[str, Any] = {"epochs": 4, "width": 8, "embedding": 4}

    def stop(report: Progress) -> None:
        if report.step == report.total:
            raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "c", "key", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        TableFlow(**small).fit_or_resume(
            frame, schema, checkpoint=_Early(tmp_path / "c", "key"), progress=stop
        )
    facts = kept.facts()
    assert facts is not None
    assert facts["done"] == 17 < facts["total"]
    again = TableFlow(**small).fit_or_resume(frame, schema, checkpoint=kept)
    whole = TableFlow(**small).fit(frame, schema)
    assert again.loss_history_ == whole.loss_history_
    np.testing.assert_array_equal(again.log_density(frame), whole.log_density(frame))


class _Early(Checkpoint):
    """Keeps the state after the seventeenth step and no later one."""

    @property
    def due(self) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked == 17


@pytest.mark.parametrize("setting", [{"bins": 1}, {"epochs": 0}, {"weight_decay": -1.0}], ids=str)
def test_bad_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        GENERATORS["table-flow"].from_parameters(setting)


def test_rows_are_copied_no_oftener_than_is_natural() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("abcdefg"), 300) for name in "wxyz"})
    hashes = pd.util.hash_pandas_object(frame, index=False)
    once = set(hashes[~hashes.duplicated(keep=False)])
    shares = {}
    for guarded in (True, False):
        # Too few rows to hold any out, and trained for long: this model learns them by heart.
        model = TableFlow(epochs=30, lr=0.02, weight_decay=0.0, verbatim_guard=guarded)
        model.fit(frame, TableSchema.infer(frame))
        drawn = pd.util.hash_pandas_object(model.sample(4_000, seed=1), index=False)
        shares[guarded] = drawn.isin(once).mean()
    assert shares[False] > 0.4
    # What ten redraws of a model that copies so many of its rows leave above the natural rate.
    assert shares[True] < model.guard_.natural + shares[False] ** 11 + 0.03
