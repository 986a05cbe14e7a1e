"""Planted defects are caught by the dimension they belong to; fresh real rows are not accused."""

import numpy as np
import pandas as pd
import pytest

from generators.base import SchemaError
from validators import VALIDATORS, Scorecard
from validators.comparison import Comparison
from validators.contract import load_contract

N = 2000
RNG_SEED = 20
CONTRACT = load_contract("standard").for_modality("table")


def accused(comparison, dimension):
    """The gates of one dimension, of whatever severity, that *prove* the candidate bad.

    A privacy gate also fails where too few rows prove nothing; such a failure accuses nobody, so
    privacy is read from the favourable end of the interval.
    """
    names = {
        "fidelity": ["fidelity"],
        "diversity": ["diversity"],
        "privacy": ["copies", "membership"],
        "bias": ["bias"],
        "utility": ["utility"],
    }[dimension]
    scorecard = Scorecard(tuple(s for name in names for s in VALIDATORS[name]()(comparison)))
    found = set()
    for gate in CONTRACT.gates:
        if gate.dimension != dimension:
            continue
        if dimension == "privacy":
            end = "low" if gate.max is not None else "high"
            gate = gate.model_copy(update={"on": end, "severity": "warning"})
        scores = [s for s in gate.scores(scorecard) if s.skipped is None]
        found |= {gate.id for score in scores if not gate.holds(score)}
    return found


def some(frame, share, rng):
    return rng.choice(len(frame), int(share * len(frame)), replace=False)


def pasted(s, rows, positions):
    """The synthetic table with real rows in the place of some of its own; ids stay its own."""
    changed = s.copy()
    columns = [name for name in s.columns if name != "id"]
    changed.loc[changed.index[positions], columns] = rows[columns].to_numpy()
    return changed.astype(s.dtypes)


def verbatim_copies(s, train, rng):
    at = some(s, 0.05, rng)
    return pasted(s, train.sample(len(at), random_state=1), at)


def copies_of_outliers(s, train, rng):
    rows = train.nlargest(60, "income")
    return pasted(s, rows, some(s, 60 / len(s), rng))


def near_copies(s, train, rng):
    at = some(s, 0.4, rng)
    rows = train.sample(len(at), random_state=1)
    return pasted(s, rows.assign(income=(rows["income"] * 1.0001).round(2)), at)


def memorised_subgroup(s, train, rng):
    rows = train[train["region"].isin(["isle", "east"])]
    return pasted(s, rows, some(s, len(rows) / len(s), rng)[: len(rows)])


def scaled(s, train, rng):
    return s.assign(income=s["income"] * 1000 + 1e6)


def missing_cells(s, train, rng):
    return s.assign(income=s["income"].mask(rng.random(len(s)) < 0.6))


def missing_pattern_by_group(s, train, rng):
    return s.assign(income=s["income"].mask((s["sex"] == "F") & (rng.random(len(s)) < 0.4)))


def shifted_dates(s, train, rng):
    return s.assign(joined=s["joined"] + pd.Timedelta(days=150))


def flat_calendar(s, train, rng):
    return s.assign(joined=s["joined"].dt.to_period("M").dt.start_time.astype("datetime64[us]"))


def clipped_tails(s, train, rng):
    return s.assign(income=s["income"].clip(*s["income"].quantile([0.1, 0.9])))


def rounded_numbers(s, train, rng):
    return s.assign(income=(s["income"] / 1000).round() * 1000)


def constant_column(s, train, rng):
    return s.assign(age=int(s["age"].median()))


def spike_lost(s, train, rng):
    return s.assign(gain=s["gain"].mask(s["gain"] == 0, 300.0))


def broken_correlation(s, train, rng):
    return s.assign(age=rng.permutation(s["age"]))


def invented_correlation(s, train, rng):
    order = np.argsort(np.argsort(s["joined"].to_numpy(), kind="stable"), kind="stable")
    return s.assign(age=np.sort(s["age"].to_numpy())[order])


def independent_columns(s, train, rng):
    return s.apply(rng.permutation).astype(s.dtypes)


def swapped_labels(s, train, rng):
    return s.assign(bought=s["bought"].map({"yes": "no", "no": "yes"}))


def random_labels(s, train, rng):
    return s.assign(bought=rng.permutation(s["bought"]))


def class_imbalance(s, train, rng):
    return s.assign(bought=s["bought"].mask(rng.random(len(s)) < 0.3, "no"))


def lost_category(s, train, rng):
    return s.assign(region=s["region"].replace("isle", "west"))


def unseen_category(s, train, rng):
    return s.assign(region=s["region"].mask(rng.random(len(s)) < 0.2, "moon"))


def collapsed_mode(s, train, rng):
    return s.sample(20, random_state=1).sample(len(s), replace=True, random_state=1)


def duplicated_rows(s, train, rng):
    half = s.iloc[: len(s) // 2]
    return pd.concat([half, half], ignore_index=True)


def lost_group(s, train, rng):
    return s.assign(sex="M")


def shrunk_group(s, train, rng):
    return s.assign(sex=s["sex"].mask((s["sex"] == "F") & (rng.random(len(s)) < 0.5), "M"))


def label_bias_amplified(s, train, rng):
    return s.assign(bought=s["bought"].mask((s["sex"] == "F") & (rng.random(len(s)) < 0.6), "no"))


# Over eight other seeds each was caught every time, but for broken_correlation: six of eight, for
# the lost dependence is barely over the margin of the pairs at this n.
DEFECTS = [
    (verbatim_copies, "privacy"),
    (copies_of_outliers, "privacy"),
    (near_copies, "privacy"),
    (memorised_subgroup, "privacy"),
    (scaled, "fidelity"),
    (missing_cells, "fidelity"),
    (missing_pattern_by_group, "fidelity"),
    (shifted_dates, "fidelity"),
    (flat_calendar, "fidelity"),
    (clipped_tails, "fidelity"),
    (rounded_numbers, "fidelity"),
    (constant_column, "fidelity"),
    (spike_lost, "fidelity"),
    (broken_correlation, "fidelity"),
    (invented_correlation, "fidelity"),
    (independent_columns, "fidelity"),
    (unseen_category, "fidelity"),
    (class_imbalance, "fidelity"),
    (swapped_labels, "utility"),
    (random_labels, "utility"),
    (lost_category, "diversity"),
    (collapsed_mode, "diversity"),
    (duplicated_rows, "diversity"),
    (lost_group, "bias"),
    (shrunk_group, "bias"),
    (label_bias_amplified, "bias"),
]


def planted(comparison, defect):
    rng = np.random.default_rng(RNG_SEED)
    changed = defect(comparison.synthetic.copy(), comparison.train, rng)
    return Comparison(
        changed, comparison.train, comparison.holdout, comparison.schema, comparison.seed
    )


@pytest.mark.parametrize(("defect", "dimension"), DEFECTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_planted_defect_is_caught_by_its_dimension(people, defect, dimension):
    assert accused(planted(people(N), defect), dimension)


@pytest.mark.parametrize("dimension", ["fidelity", "diversity", "privacy", "bias", "utility"])
def test_fresh_real_rows_are_not_accused(people, dimension):
    assert accused(people(N), dimension) == set()


@pytest.mark.parametrize("defect", [scaled, shifted_dates, constant_column, broken_correlation])
def test_a_lack_of_fidelity_is_not_taken_for_copying(people, defect):
    # The distance to the closest record is a tripwire on a 95 % interval: it rang in 3 of 52 such
    # tables, which is why it only warns.
    assert accused(planted(people(N), defect), "privacy") <= {"privacy-closest-record"}


@pytest.mark.parametrize("defect", [copies_of_outliers, verbatim_copies])
def test_copying_is_not_taken_for_bias(people, defect):
    assert accused(planted(people(N), defect), "bias") == set()


def test_words_among_numbers_are_refused_without_being_quoted(people):
    comparison = planted(people(60), lambda s, *_: s.assign(age="secret"))
    with pytest.raises(SchemaError, match="'age' of the synthetic table") as refused:
        VALIDATORS["fidelity"]()(comparison)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
