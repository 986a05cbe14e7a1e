"""The synthesizers of SDV 2 as generators, for comparison; the only file that imports ``sdv``.

SDV, CTGAN and RDT are under the Business Source License 1.1: they are called here, never copied.
What this adapter adds to them: the kinds of columns come from our schema, not from SDV's
detection; categories enter as codes and datetimes as numbers, so that no category name is inside
SDV's metadata and nothing is written to disk; a seed decides the rows; global random states are
put back; samples have exactly the rows, order and dtypes that were asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import joblib  # type: ignore[import-untyped]  # noqa: TID251 (only to keep SDV off its processes)
import numpy as np
import pandas as pd
import torch

from ..base import (
    Block,
    CheckpointError,
    DataError,
    Generator,
    LikenessError,
    Modality,
    OnProgress,
    ParameterError,
    Progress,
    derive_seed,
)
from ..encoding import ColumnCodec, from_numbers, surrogate
from ..schema import TableSchema, to_numbers
from .modes import check_codes

_TABLE = "t"


@dataclass(kw_only=True)
class SdvGenerator(Generator):
    """A single-table synthesizer of SDV; a family names its class and its arguments."""

    modality: ClassVar[Modality] = "table"
    persistent: ClassVar[bool] = False
    synthesizer: ClassVar[str]
    """Name of the class in ``sdv.single_table``."""

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.codecs_ = [ColumnCodec.fit(data[c.name], c) for c in schema.modelled]
        self.learned_ = [
            codec for codec in self.codecs_ if not bool(data[codec.column.name].isna().all())
        ]
        if not self.learned_:
            raise DataError(
                f"{self.name} needs a column to learn, all {len(schema.columns)} are empty, ids "
                "or text; declare the kind of at least one as categorical, numerical or datetime"
            )
        frame = pd.DataFrame(
            {_label(at): _to_sdv(codec, data) for at, codec in enumerate(self.learned_)}
        )
        with _isolated(derive_seed(self.name, self.seed, "fit")):
            self.synthesizer_: Any = self._learn(frame)
        progress(Progress("fit", 1, 1, time.perf_counter() - begin))

    def _learn(self, frame: pd.DataFrame) -> object:
        """A fitted synthesizer."""
        classes, metadata = _import("sdv.single_table"), _import("sdv.metadata")
        columns = {
            _label(at): {"sdtype": "categorical" if codec.column.discrete else "numerical"}
            for at, codec in enumerate(self.learned_)
        }
        described = metadata.Metadata.load_from_dict(
            {"tables": {_TABLE: {"columns": columns}}, "relationships": []}
        )
        synthesizer = getattr(classes, self.synthesizer)(described, **self._arguments())
        synthesizer.fit({_TABLE: frame})
        fitted: object = synthesizer
        return fitted

    def _sample_block(self, block: Block) -> pd.DataFrame:
        with _isolated(block.seed):
            # Fresh models all share one fixed seed, and the missing values of numerical columns
            # are drawn from a stream that only reset_sampling rewinds.
            self.synthesizer_.reset_sampling()
            self.synthesizer_._set_random_state(block.seed % 2**32)
            drawn = self.synthesizer_.sample(num_rows=block.size)[_TABLE]
        if len(drawn) != block.size:
            raise LikenessError(
                f"a sample must have {block.size} rows, {self.name} gave {len(drawn)}; "
                "use another generator for this table"
            )
        # The rewound stream puts missing values into the same rows whatever the seed; in another
        # order they fall anywhere.
        drawn = drawn.iloc[block.rng().permutation(block.size)].reset_index(drop=True)
        return self._to_frame(drawn, block)

    def _to_frame(self, drawn: pd.DataFrame, block: Block) -> pd.DataFrame:
        labels = {codec.column.name: _label(at) for at, codec in enumerate(self.learned_)}
        codecs = {codec.column.name: codec for codec in self.codecs_}
        schema: Any = self.schema_
        series: dict[str, pd.Series] = {}
        for column in schema.columns:
            if not column.modelled:
                series[column.name] = surrogate(column, block.size, block.start)
            elif column.name in labels:
                series[column.name] = _from_sdv(codecs[column.name], drawn[labels[column.name]])
            else:
                codes = np.full(block.size, codecs[column.name].missing_code, dtype=np.int32)
                series[column.name] = codecs[column.name].decode(codes, np.full(block.size, np.nan))
        return pd.DataFrame(series, columns=list(schema.names))

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Arguments of the synthesizer."""

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        raise self._unsaved()

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:  # noqa: ARG002
        raise self._unsaved()

    def _unsaved(self) -> CheckpointError:
        return CheckpointError(
            f"a saved model must not need a pickle, but {self.name} would; "
            "fit and sample it in one step, or choose another generator"
        )


@dataclass(kw_only=True)
class SdvGaussianCopula(SdvGenerator):
    """SDV's GaussianCopulaSynthesizer at its defaults."""

    name: ClassVar[str] = "sdv-gaussian-copula"
    suits: ClassVar[str] = "to compare with SDV; its model cannot be saved"
    synthesizer: ClassVar[str] = "GaussianCopulaSynthesizer"

    def _arguments(self) -> dict[str, Any]:
        return {}


@dataclass(kw_only=True)
class _SdvNeural(SdvGenerator):
    """A synthesizer that trains for ``epochs``, otherwise at its defaults.

    Attributes:
        epochs: passes over the table.
    """

    epochs: int = 300

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ParameterError(f"epochs of {self.name} must be at least 1, got {self.epochs}")

    def _arguments(self) -> dict[str, Any]:
        return {"epochs": self.epochs}


@dataclass(kw_only=True)
class SdvCTGAN(_SdvNeural):
    """SDV's CTGANSynthesizer."""

    name: ClassVar[str] = "sdv-ctgan"
    suits: ClassVar[str] = "to compare with SDV; its model cannot be saved"
    synthesizer: ClassVar[str] = "CTGANSynthesizer"


@dataclass(kw_only=True)
class SdvTVAE(_SdvNeural):
    """SDV's TVAESynthesizer."""

    name: ClassVar[str] = "sdv-tvae"
    suits: ClassVar[str] = "to compare with SDV; its model cannot be saved"
    synthesizer: ClassVar[str] = "TVAESynthesizer"


@dataclass(kw_only=True)
class SdvCopulaGAN(_SdvNeural):
    """SDV's CopulaGANSynthesizer."""

    name: ClassVar[str] = "sdv-copulagan"
    suits: ClassVar[str] = "to compare with SDV; its model cannot be saved"
    synthesizer: ClassVar[str] = "CopulaGANSynthesizer"


def _label(position: int) -> str:
    return f"c{position}"


def _to_sdv(codec: ColumnCodec, data: pd.DataFrame) -> pd.Series:
    """A column as SDV gets it: float64 numbers, or the codes of categories as text."""
    series = data[codec.column.name]
    if not codec.column.discrete:
        return pd.Series(to_numbers(series))
    codes, _ = codec.encode(series)
    check_codes(codec, codes)
    texts = np.array([*(str(code) for code in range(len(codec.levels))), None], dtype=object)
    return pd.Series(texts[codes], dtype=object)


def _from_sdv(codec: ColumnCodec, drawn: pd.Series) -> pd.Series:
    """Inverse of ``_to_sdv``, on the column's grid and within its range."""
    if not codec.column.discrete:
        return from_numbers(codec.snap(to_numbers(drawn)), codec.column)
    codes = pd.to_numeric(drawn).fillna(codec.missing_code).to_numpy(dtype=np.int32)
    return codec.decode(codes, np.full(len(codes), np.nan))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LikenessError(
            f"the sdv-* generators need the package sdv 2, {error.name or name} cannot be "
            "imported; install it with: pip install 'sdv>=2,<3', or choose another generator"
        ) from error


@contextlib.contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Run SDV quietly, in threads, from known global random states, and put those back.

    SDV draws from the global states of Python, NumPy and torch. Its default joblib backend leaves
    idle worker processes, which a child process waits for at its end (300 s).
    """
    logger = logging.getLogger("sdv")
    level = logger.level
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (to put it back)
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        warnings.catch_warnings(),
        joblib.parallel_config(backend="threading"),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            random.setstate(random.Random(seed).getstate())
            np.random.set_state(np.random.RandomState(seed % 2**32).get_state())  # noqa: NPY002
            torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
            if torch.cuda.is_available():
                torch.cuda.manual_seed_all(seed)
            yield
        finally:
            logger.setLevel(level)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002 (as above)
