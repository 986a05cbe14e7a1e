"""The Gaussian copula against closed forms of the normal distribution."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal, norm

from generators import TableSchema
from generators.tabular.gaussian_copula import GaussianCopula, definite

RHO = 0.7


def normals(rows: int, rho: float = RHO, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return np.column_stack([x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=rows)])


def fitted(frame: pd.DataFrame) -> GaussianCopula:
    return GaussianCopula().fit(frame, TableSchema.infer(frame))


def test_the_correlation_of_normal_columns_is_found() -> None:
    x = normals(20_000)
    frame = pd.DataFrame({"x": np.exp(x[:, 0]), "y": x[:, 1] ** 3})  # any monotone marginals
    assert abs(fitted(frame).correlation_[0, 1] - RHO) < 0.02


@pytest.mark.parametrize("cut", [0.0, 1.0])
def test_the_correlation_behind_two_categories_is_found(cut: float) -> None:
    """Tetrachoric: Pearson's of the categories themselves would be far smaller."""
    x = normals(40_000)
    frame = pd.DataFrame({"a": x[:, 0] > cut, "b": x[:, 1] > 0})
    model = fitted(frame)
    assert abs(model.correlation_[0, 1] - RHO) < 0.03
    assert np.corrcoef(frame["a"], frame["b"])[0, 1] < 0.55
    both = multivariate_normal([0, 0], [[1, RHO], [RHO, 1]]).cdf([-cut, 0])
    drawn = model.sample(40_000, seed=1)
    assert abs((drawn["a"] & drawn["b"]).mean() - both) < 0.012


def test_conditions_cut_the_normal() -> None:
    x = normals(20_000)
    model = fitted(pd.DataFrame({"x": x[:, 0], "y": x[:, 1]}))
    drawn = model.sample_where(["x >= 1"], 10_000, seed=2)
    assert (drawn["x"] >= 1).all()
    # The mean of a normal above 1 is its density there over its tail (Mills).
    mills = norm.pdf(1) / norm.sf(1)
    assert abs(drawn["x"].mean() - mills) < 0.04
    assert abs(drawn["y"].mean() - RHO * mills) < 0.05


def test_a_condition_on_the_effect_moves_the_cause() -> None:
    x = normals(20_000)
    kind = np.where(x[:, 1] > 1, "high", "low").astype(object)
    model = fitted(pd.DataFrame({"x": x[:, 0], "kind": kind}))
    drawn = model.sample_where(["kind = high"], 10_000, seed=3)
    assert abs(drawn["x"].mean() - RHO * norm.pdf(1) / norm.sf(1)) < 0.06


def test_gaps_follow_the_regression_line() -> None:
    x = normals(20_000)
    model = fitted(pd.DataFrame({"x": x[:, 0], "y": x[:, 1]}))
    given = np.repeat([-1.0, 0.5, 1.5], 3000)
    full = model.fill(pd.DataFrame({"y": given}), seed=4)
    for value in (-1.0, 0.5, 1.5):
        drawn = full["x"][full["y"] == value]
        assert abs(drawn.mean() - RHO * value) < 0.06
        assert abs(drawn.std() - np.sqrt(1 - RHO**2)) < 0.06


def test_constants_and_copies_of_columns_are_no_obstacle() -> None:
    x = normals(2000)
    frame = pd.DataFrame({"x": x[:, 0], "same": x[:, 0], "less": -x[:, 0], "one": np.ones(2000)})
    drawn = fitted(frame).sample(2000, seed=5)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn["x"].corr(drawn["same"]) > 0.99
    assert drawn["x"].corr(drawn["less"]) < -0.99
    assert (drawn["one"] == 1).all()


def test_a_matrix_becomes_a_correlation() -> None:
    made = definite(np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]))
    assert np.linalg.eigvalsh(made).min() > 0
    assert np.allclose(np.diag(made), 1.0)
