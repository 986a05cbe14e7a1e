"""Real datasets that ship with a dependency: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from generators.base import ParameterError
from generators.schema import Images, ImageSchema

from .images import RawImages
from .tables import RawTable


def _randhie() -> RawTable:
    from statsmodels.datasets import randhie

    frame = randhie.load_pandas().data.copy()
    # The copy has no number for persons, but a person's years follow each other and agree in all
    # columns but the visits: a change in any of them begins another person.
    person = frame.drop(columns="mdvis")
    frame["person"] = (person != person.shift()).any(axis=1).cumsum()
    return RawTable(frame)


def _breast_cancer() -> RawTable:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.rename(columns=lambda name: str(name).replace(" ", "_"))
    names = np.array(["malignant", "benign"], dtype=object)
    frame["diagnosis"] = names[frame.pop("target").to_numpy()]
    return RawTable(frame)


def _digits() -> RawImages:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The original grey levels are 0..16; 255/16 keeps them apart in eight bits.
    pixels = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    schema = ImageSchema(8, 8, 1, classes=tuple(str(digit) for digit in range(10)))
    return RawImages(Images(pixels, bunch.target.astype(np.int64)), schema)


BUILTIN: dict[str, Callable[[], RawTable | RawImages]] = {
    "breast_cancer": _breast_cancer,
    "digits": _digits,
    "randhie": _randhie,
}


def read(name: str) -> RawTable | RawImages:
    """The built-in dataset of that name.

    Raises:
        ParameterError: there is none.
    """
    if name not in BUILTIN:
        raise ParameterError(f"a built-in source is one of {', '.join(BUILTIN)}; got {name!r}")
    return BUILTIN[name]()
