"""What every validator promises, whatever it measures and whatever it is given."""

import copy
import math
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from generators.schema import Images, ImageSchema, TableSchema
from validators import VALIDATORS, Scorecard, validators_of
from validators.base import DIMENSIONS
from validators.comparison import Comparison
from validators.image_features import ImageFeatures

TABLE = [name for name in VALIDATORS if VALIDATORS[name].modality == "table"]


def toy_images(seed=0):
    """Bright bars, upright or level, with noise: 120 real and 60 synthetic images."""
    rng = np.random.default_rng(seed)
    labels = np.arange(180) % 2
    pixels = rng.integers(0, 60, (180, 8, 8, 1))
    for image, label in zip(pixels, labels, strict=True):
        at = rng.integers(1, 7)
        image[(slice(None), at) if label else (at, slice(None))] += 150
    images = Images(pixels.astype(np.uint8), labels.astype(np.int64))
    parts = [images.take(np.arange(start, start + 60)) for start in (0, 60, 120)]
    schema = ImageSchema(height=8, width=8, channels=1, classes=("level", "upright"))
    comparison = Comparison(parts[2], parts[0], parts[1], schema, seed)
    # Barely trained networks: the promises hold whatever the features are, and tests stay quick.
    vars(comparison)["image_features"] = ImageFeatures(comparison, networks=1, steps=5)
    return comparison


def toy_table(people, seed=0):
    return people(240, seed)


def contents(data):
    if isinstance(data, Images):
        return data.pixels.tobytes() + data.labels.tobytes()
    return (data.to_json(), tuple(map(str, data.dtypes)), tuple(data.index), tuple(data.columns))


def contents_of(comparison):
    parts = (comparison.synthetic, comparison.train, comparison.holdout)
    return [contents(data) for data in parts]


def check(scores):
    """The promises on the numbers themselves."""
    assert scores
    assert len({(score.metric, score.subject) for score in scores}) == len(scores)
    for score in scores:
        assert score.dimension in DIMENSIONS
        if score.skipped is not None:
            assert len(score.skipped) > 10
            continue
        assert score.low <= score.value <= score.high, score
        for number in (score.reference, score.minimum_detectable):
            assert number is None or math.isfinite(number)
        assert score.n >= 0
    assert Scorecard.from_json(Scorecard(tuple(scores)).to_json()).scores == tuple(scores)


def test_a_name_tells_the_modality():
    for modality in ("table", "image"):
        wanted = [name for name in VALIDATORS if VALIDATORS[name].modality == modality]
        assert validators_of(modality) == wanted


@pytest.mark.parametrize("name", list(VALIDATORS))
def test_same_seed_same_scores_and_nothing_else_is_touched(name, people):
    table = VALIDATORS[name].modality == "table"
    first, second = (toy_table(people) if table else toy_images() for _ in range(2))
    before = contents_of(first)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    python_state = random.getstate()
    scores = VALIDATORS[name]()(first)
    check(scores)
    assert any(score.skipped is None for score in scores)
    assert scores == VALIDATORS[name]()(second)
    assert before == contents_of(first)
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert python_state == random.getstate()


@pytest.mark.parametrize("name", TABLE)
def test_row_index_and_column_order_do_not_matter(name, people):
    comparison = toy_table(people)
    scores = VALIDATORS[name]()(comparison)
    moved = Comparison(
        comparison.synthetic.set_axis(np.arange(240) * 7 + 3)[comparison.synthetic.columns[::-1]],
        comparison.train.set_axis(np.zeros(240, dtype=int)),
        comparison.holdout.set_axis(list("abcdef") * 40),
        comparison.schema,
        comparison.seed,
    )
    assert VALIDATORS[name]()(moved) == scores


@pytest.mark.parametrize("name", TABLE)
def test_images_are_refused_by_table_validators(name):
    with pytest.raises(ValueError, match="DataFrame"):
        VALIDATORS[name]()(toy_images())


def frame(n, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.normal(size=n).round(2), "y": rng.choice(["a", "b"], n)})


def three(build, **schema):
    """A comparison of three samples; the schema is that of the first two."""
    train, holdout, synthetic = (build(seed) for seed in range(3))
    settings = schema or {}
    return Comparison(
        synthetic, train, holdout, TableSchema.infer(pd.concat([train, holdout]), **settings)
    )


def twenty_rows():
    return three(lambda seed: frame(20, seed), target="y", protected=["y"])


def two_rows():
    return three(lambda seed: frame(2, seed), target="y", protected=["y"])


def no_synthetic_rows():
    comparison = three(lambda seed: frame(60, seed), target="y", protected=["y"])
    return Comparison(
        comparison.synthetic[:0], comparison.train, comparison.holdout, comparison.schema
    )


def single_column():
    return three(lambda seed: frame(100, seed)[["x"]])


def single_category():
    return three(lambda seed: frame(100, seed)[["y"]], target="y", protected=["y"])


def constant_columns():
    return three(
        lambda seed: frame(100, seed).assign(x=1.5, y="a", z=7), target="y", protected=["y", "x"]
    )


def missing_columns():
    return three(
        lambda seed: frame(100, seed).assign(
            gone=np.nan, none=pd.Series([None] * 100, dtype=object), when=pd.NaT
        ),
        kinds={"gone": "numerical", "none": "categorical"},
        target="gone",
        protected=["none", "when"],
    )


def only_ids_and_text():
    return three(
        lambda seed: pd.DataFrame(
            {"id": np.arange(80), "note": [f"note {seed} {i}" for i in range(80)]}
        ),
        kinds={"id": "id", "note": "text"},
        target="note",
    )


def unseen_levels():
    comparison = three(lambda seed: frame(100, seed), target="y", protected=["y"])
    return Comparison(
        comparison.synthetic.assign(y="new", x=np.inf),
        comparison.train,
        comparison.holdout,
        comparison.schema,
    )


def every_dtype():
    def build(seed):
        rng = np.random.default_rng(seed)
        x = frame(120, seed)
        when = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 99, 120), "D")
        return x.assign(
            y=x["y"].astype("category"),
            whole=pd.Series(rng.integers(0, 9, 120)).astype("Int64").mask(rng.random(120) < 0.2),
            small=x["x"].astype("float32"),
            flag=rng.random(120) < 0.5,
            maybe=pd.Series(rng.random(120) < 0.5).astype("boolean").mask(rng.random(120) < 0.1),
            text=x["y"].astype("string"),
            when=when,
        )

    return three(build, target="flag", protected=["maybe", "whole", "when", "y"])


def many_classes():
    def build(seed):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, 30, 300)
        return pd.DataFrame({"x": label + rng.normal(0, 2, 300), "y": [f"c{i}" for i in label]})

    comparison = three(build, target="y", protected=["y"])
    kept = comparison.synthetic[comparison.synthetic["y"] != "c3"]
    return Comparison(kept, comparison.train, comparison.holdout, comparison.schema)


def insurance():
    """The RAND health insurance experiment: spikes, skew, and columns of two values."""
    data = sm.datasets.randhie.load_pandas().data.sample(900, random_state=0)
    parts = [data[start : start + 300] for start in (0, 300, 600)]
    schema = TableSchema.infer(data, target="mdvis", protected=["hlthp", "idp"])
    return Comparison(parts[2], parts[0], parts[1], schema)


CASES = [
    twenty_rows,
    two_rows,
    no_synthetic_rows,
    single_column,
    single_category,
    constant_columns,
    missing_columns,
    only_ids_and_text,
    unseen_levels,
    every_dtype,
    many_classes,
    insurance,
]


# The metrics that a contract asks for: there in every case, as a number or as a reason.
REQUIRED = {
    "bias": {"representation_worst", "label_drift_worst"},
    "attributes": {"attribute_excess", "attribute_excess_worst"},
    "calibration": {"holdout_detection", "holdout_marginals", "holdout_overlap"},
    "detection": {"c2st_auc", "c2st_excess", "c2st_telltale"},
    "diversity": {"coverage_ratio", "density_ratio", "missing_categories", "duplicate_excess"},
    "fidelity": {
        "marginal_tvd_mean",
        "marginal_tvd_worst",
        "pair_tvd_mean",
        "pair_tvd_p95",
        "association_invented",
        "association_lost",
        "equivalent_fraction",
    },
    "utility": {"utility_retention", "utility_global"},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("name", TABLE)
def test_awkward_tables_give_scores_or_reasons(name, case):
    comparison = case()
    before = copy.deepcopy(contents(comparison.synthetic))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = VALIDATORS[name]()(comparison)
    check(scores)
    assert REQUIRED.get(name, set()) <= {s.metric for s in scores if s.subject == "all"}
    assert before == contents(comparison.synthetic)
