"""What every generator promises, and the errors it may raise.

Error tree::

    LikenessError
    ├── DataError (ValueError)          the data breaks a requirement
    │   └── SchemaError                 the data and the schema disagree
    ├── ParameterError (ValueError)     a hyper-parameter or an argument is out of range
    ├── NoSupport (ValueError)          no row of the model can fulfil the conditions
    ├── NotFittedError (RuntimeError)   sample or save before fit
    ├── CheckpointError (RuntimeError)  a saved model cannot be written or read
    └── TrainingError (RuntimeError)    training diverged and could not be rolled back

Messages say the requirement, the fact and the remedy; they name columns, rows and counts, never
a cell of the data.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import hmac
import importlib
import json
import secrets
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd

from .schema import Data, Images, ImageSchema, Schema, TableSchema

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .conditions import Cells, Conditions
    from .encoding import EncodedTable

T = TypeVar("T")
Modality = Literal["table", "image"]


class LikenessError(Exception):
    """Base of all errors that Likeness raises on purpose."""


class DataError(LikenessError, ValueError):
    """The data breaks a requirement."""


class SchemaError(DataError):
    """The data and the schema disagree."""


class ParameterError(LikenessError, ValueError):
    """A hyper-parameter or an argument is out of range or unknown."""


class NoSupport(LikenessError, ValueError):
    """No row of the model can fulfil the conditions; the message says which condition."""


class NotFittedError(LikenessError, RuntimeError):
    """The generator has not been fitted yet."""


class CheckpointError(LikenessError, RuntimeError):
    """A saved model cannot be written or read."""


class TrainingError(LikenessError, RuntimeError):
    """Training diverged and could not be rolled back."""


@dataclass(frozen=True)
class Progress:
    """One report of a long task: ``step`` of ``total``, done after ``seconds``.

    The steps up to ``first`` were done by an earlier run that this one goes on from.
    """

    phase: str
    step: int
    total: int
    seconds: float
    loss: float | None = None
    first: int = 0

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to go, or None before the first step."""
        if self.step <= self.first:
            return None
        return self.seconds / (self.step - self.first) * max(self.total - self.step, 0)


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Block:
    """A run of consecutive rows of a sample, with the seed that alone decides its content.

    Attributes:
        start: index of the first row in the whole sample.
        size: number of rows.
        seed: 63-bit seed, a hash of (the sample's seed, the block's number).
    """

    start: int
    size: int
    seed: int

    def rng(self) -> np.random.Generator:
        """A fresh NumPy generator for this block."""
        return np.random.default_rng(self.seed)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all ``parts``: the same parts give the same seed anywhere."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(kw_only=True)
class Generator(ABC):
    """A family of models that learns a dataset and samples new rows or images.

    The fields of the dataclass are the hyper-parameters. Fitted attributes end in ``_``. The same
    data and seed give the same model on a CPU, bit for bit; the global random state is untouched.

    A family implements ``_fit``, ``_sample_block``, ``_state`` and ``_restore``.
    """

    seed: int = 0

    name: ClassVar[str]
    suits: ClassVar[str] = ""
    """When to use the family, in a sentence."""
    modality: ClassVar[Modality]
    persistent: ClassVar[bool] = True
    """False where a saved model would need a pickle: it is then fitted and sampled at once."""
    rows_per_block: ClassVar[int] = 8192
    """A sample is a concatenation of blocks with seeds of their own, so that it never depends on
    the number of shards or workers. Part of the format: a change changes all samples."""

    def fit(self, data: Data, schema: Schema, *, progress: OnProgress | None = None) -> Self:
        """Learn ``data``.

        Args:
            data: a DataFrame for table families, ``Images`` for image families; not modified.
            schema: its schema; the columns of the frame must be the schema's, in its order.
            progress: called now and then with a ``Progress``.

        Raises:
            SchemaError: data and schema disagree.
            DataError: fewer than two rows.
        """
        if self.modality == "table":
            check_table(data, schema)
        else:
            check_images(data, schema)
        self.schema_: Schema = schema
        self.loss_history_: list[tuple[int, float]] = []
        self.training_notes_: list[str] = []
        self._fit(data, schema, progress or _no_progress)
        self.fitted_ = True
        return self

    def sample(self, n: int, *, seed: int, progress: OnProgress | None = None) -> Data:
        """Exactly ``n`` new rows or images in the schema's order and dtypes.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            ParameterError: ``n`` is negative.
        """
        self._require_fitted()
        if n < 0:
            raise ParameterError(f"sample size must be at least 0, got {n}; ask for 0 or more rows")
        parts: list[Data] = []
        for block in self.blocks(n, seed):
            parts.append(self._sample_block(block))
            if progress is not None:
                progress(Progress("sample", block.start + block.size, n, 0.0))
        return _concatenate(parts, self.schema_)

    def sample_block(self, block: Block) -> Data:
        """The rows of one block: what a worker computes when a sample is split into shards."""
        self._require_fitted()
        return self._sample_block(block)

    def blocks(self, n: int, seed: int) -> Iterator[Block]:
        """The blocks of a sample of ``n`` rows with ``seed``."""
        for number, start in enumerate(range(0, n, self.rows_per_block)):
            size = min(self.rows_per_block, n - start)
            yield Block(start, size, derive_seed(self.name, seed, number))

    def row_seeds(self, n: int, seed: int) -> np.ndarray:
        """The seed of each image of a sample, int64, shape (n,).

        An image of an image family depends on the model, its own seed and its class alone.
        """
        blocks = self.blocks(n, seed)
        seeds = [derive_seed(block.seed, i) for block in blocks for i in range(block.size)]
        return np.array(seeds, dtype=np.int64)

    @property
    def evaluations(self) -> int:
        """Network evaluations that an image of a sample takes (NFE)."""
        return 1

    def save(self, folder: Path) -> None:
        """Write the fitted model into ``folder`` as safetensors and JSON.

        The files hold real column values: they belong into the vault.

        Raises:
            NotFittedError: before ``fit``.
            CheckpointError: this family cannot be saved (see ``persistent``).
        """
        from . import persistence

        self._require_fitted()
        if not self.persistent:
            raise CheckpointError(
                f"a saved model must not need a pickle, but {self.name} would; "
                "fit and sample it in one step, or choose another generator"
            )
        arrays, state = self._state()
        persistence.write(folder, self.name, self.parameters(), self.schema_, arrays, state)

    @classmethod
    def load(cls, folder: Path, key: bytes | None = None) -> Self:
        """The fitted model that ``save`` wrote into ``folder``.

        Args:
            folder: of the model.
            key: with which ``persistence.seal`` sealed it, where it did.

        Raises:
            CheckpointError: the files are missing, damaged, of another family, or sealed with
                another key.
        """
        from . import persistence

        saved = persistence.read(folder, key)
        if saved.name != cls.name:
            raise CheckpointError(
                f"the folder must hold a {cls.name} model, it holds {saved.name!r}; "
                "use generators.load_generator"
            )
        generator = cls.from_parameters(saved.parameters)
        generator.schema_ = saved.schema
        generator.loss_history_, generator.training_notes_ = [], []
        generator._restore(saved.arrays, saved.state)
        generator.fitted_ = True
        return generator

    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters as a JSON-able dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """A new generator with these hyper-parameters.

        Raises:
            ParameterError: an unknown name, for which the message gives the nearest known one, or
                a value of another type.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in parameters:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ParameterError(
                    f"{cls.name} takes the parameters {', '.join(known)}; got {key!r}{hint}"
                )
        hints = typing.get_type_hints(cls)
        for key, value in parameters.items():
            if not _fits(value, hints[key]):
                wanted = getattr(hints[key], "__name__", str(hints[key]))
                raise ParameterError(
                    f"{key} of {cls.name} must be {wanted}, got {value!r}; "
                    f"`likeness generators {cls.name}` explains it"
                )
        return cls(**parameters)

    def _require_fitted(self) -> None:
        if not getattr(self, "fitted_", False):
            raise NotFittedError(f"{self.name} must be fitted first; call fit or load")

    @abstractmethod
    def _fit(self, data: Any, schema: Any, progress: OnProgress) -> None:  # noqa: ANN401
        """Learn checked data."""

    @abstractmethod
    def _sample_block(self, block: Block) -> Data:
        """``block.size`` rows that depend on the model and ``block.seed`` alone."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fitted state as named arrays and a JSON-able dictionary."""

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """Inverse of ``_state``; ``schema_`` is already set."""


class Resumable(Generator):
    """A family that trains by steps and goes on from a checkpoint.

    A family hands ``checkpoint`` to ``training.run_steps``, with all that its steps change.

    Attributes:
        checkpoint: where the training keeps its state; set during ``fit_or_resume`` alone.
    """

    checkpoint = None  # not annotated: it is no hyper-parameter

    def fit_or_resume(
        self,
        data: Data,
        schema: Schema,
        *,
        checkpoint: Checkpoint,
        progress: OnProgress | None = None,
    ) -> Self:
        """``fit`` that keeps its state in ``checkpoint`` and goes on from what it finds there.

        On a CPU the model is that of an uninterrupted ``fit``, bit for bit. The checkpoint stays:
        discard it once the model is saved.

        Raises:
            SchemaError: data and schema disagree.
            DataError: fewer than two rows.
            CheckpointError: the checkpoint cannot be written.
        """
        self.checkpoint = checkpoint
        try:
            return self.fit(data, schema, progress=progress)
        finally:
            self.checkpoint = None


class Editable(Generator):
    """An image family that changes given images.

    Each result has its image's label; -1 says that the class is not known. A result depends on the
    model, the seed, the image and its index alone.
    """

    @abstractmethod
    def inpaint(
        self, images: Images, mask: np.ndarray, *, seed: int, progress: OnProgress | None = None
    ) -> Images:
        """``images`` with the pixels under ``mask`` made anew; the others stay as they are.

        Args:
            images: of the schema's height, width and channels.
            mask: bool, (H, W) for all or (N, H, W); true where pixels are made anew.
            seed: of what is made.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            SchemaError: images or mask are of another size.
        """

    @abstractmethod
    def vary(
        self, images: Images, strength: float, *, seed: int, progress: OnProgress | None = None
    ) -> Images:
        """Images like the given ones.

        Args:
            images: of the schema's height, width and channels.
            strength: from 0 (the same) to 1 (nothing of them is left).
            seed: of what is made.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            SchemaError: the images are of another size.
            ParameterError: ``strength`` is not within (0, 1].
        """

    @abstractmethod
    def upscale(self, low: Images, *, seed: int, progress: OnProgress | None = None) -> Images:
        """Images of the schema's size whose block averages are the pixels of ``low``.

        Args:
            low: the schema's size divided by a whole number.
            seed: of what is made.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            SchemaError: the size of ``low`` does not divide the schema's.
        """

    @abstractmethod
    def translate(self, source: Images, *, seed: int, progress: OnProgress | None = None) -> Images:
        """The counterpart of each image, by a model that has learned pairs.

        Args:
            source: images of the kind that was given in each pair.
            seed: of what is made.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            ParameterError: the model has not learned pairs.
            SchemaError: the images are of another size.
        """


class Density(ABC):
    """A family that says how likely a row is."""

    @abstractmethod
    def log_density(self, data: pd.DataFrame) -> np.ndarray:
        """The log of the model's density of each row, nats, float64, shape (N,).

        Raises:
            NotFittedError: before ``fit`` or ``load``.
        """


class Privacy(NamedTuple):
    """An (ε, δ)-guarantee for one training row (Dwork, Roth 2014).

    With another row instead of it, the odds of whatever is seen of the model change by a factor of
    e^ε at most, but for a probability of δ. What is public from the start, names, kinds, levels and
    bounds of the columns and the number of rows, is no part of it.
    """

    epsilon: float
    delta: float

    @property
    def sentence(self) -> str:
        """For those who get the rows."""
        return (
            f"The training is differentially private with ε = {self.epsilon:g} and δ = "
            f"{self.delta:g} for each training row, by construction. Names, levels and bounds of "
            "the columns and the number of rows count as public, what was measured beside real "
            "rows is not covered, and the ε of several trainings add up."
        )


class Private(Generator):
    """A table family whose training is differentially private.

    The noise of a training is a function of ``noise_key``, the data, the schema and the
    parameters. So a training can be repeated by who has them, and two trainings of other data,
    seeds or parameters have noise that is independent: each costs its ε, and the costs add up.

    Attributes:
        noise_key: as secret as the data, for who knows it can take the noise away; None lets the
            operating system make one, and no training is like another.
    """

    noise_key: bytes | None = None

    @property
    @abstractmethod
    def privacy(self) -> Privacy:
        """What the training guarantees."""

    def _noise(self, data: pd.DataFrame) -> bytes:
        """The key of the noise in the training of ``data``."""
        if self.noise_key is None:
            return secrets.token_bytes(32)
        rows = pd.util.hash_pandas_object(data, index=False).to_numpy().tobytes()
        told = [self.name, json.dumps(self.parameters()), self.schema_.to_json(), ""]
        return hmac.digest(self.noise_key, "\x1f".join(told).encode() + rows, "sha256")


class ExampleLoss(ABC):
    """Ability: say how badly the fitted model explains each image, for audits by its owner."""

    @abstractmethod
    def example_losses(self, data: Images, *, seed: int) -> np.ndarray:
        """Losses, float64, shape (N, levels): lower where the model knows the image better.

        Raises:
            NotFittedError: ``fit`` has not run.
        """


class Labelled(Generator):
    """An image family that makes images of given classes.

    A family implements ``_images``.
    """

    def sample_labelled(
        self, labels: np.ndarray, *, seed: int, progress: OnProgress | None = None
    ) -> Images:
        """An image of each of the classes ``labels``, in their order.

        Args:
            labels: class numbers, int64, shape (N,); not modified.
            seed: of the sample; image i depends on it, on i and on its class alone.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            ParameterError: a label is not a class number.
        """
        wanted = self._class_numbers(labels)

        def make(block: Block) -> Images:
            return self._images(block, wanted[block.start : block.start + block.size])

        return self._sampled(len(wanted), seed, make, progress)

    def _class_numbers(self, labels: np.ndarray) -> np.ndarray:
        self._require_fitted()
        classes = len(self.schema_.classes) if isinstance(self.schema_, ImageSchema) else 0
        wanted = np.asarray(labels, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < classes:
            raise ParameterError(
                f"labels must be class numbers from 0 to {classes - 1}, some are not; give others"
            )
        return wanted

    def _sampled(
        self,
        count: int,
        seed: int,
        make: Callable[[Block], Images],
        progress: OnProgress | None,
    ) -> Images:
        parts: list[Data] = []
        for block in self.blocks(count, seed):
            parts.append(make(block))
            if progress is not None:
                progress(Progress("sample", block.start + block.size, count, 0.0))
        images = _concatenate(parts, self.schema_)
        if not isinstance(images, Images):
            raise TypeError("an image family must give Images")
        return images

    @abstractmethod
    def _images(self, block: Block, labels: np.ndarray) -> Images:
        """An image of each label; image i depends on the model, ``block.seed``, i and its label."""


class Described(Labelled):
    """An image family that learns ``Images.traits`` and makes images of given ones.

    A family implements ``_described``. Where ``fit`` gets no traits it learns the labels alone.
    """

    def sample_described(
        self,
        labels: np.ndarray,
        traits: np.ndarray,
        *,
        seed: int,
        progress: OnProgress | None = None,
    ) -> Images:
        """An image of each label and its traits, in their order.

        Args:
            labels: class numbers, int64, shape (N,); not modified.
            traits: float32, shape (N, F) with the F that ``fit`` got; not modified.
            seed: of the sample; image i depends on it, on i, its label and its traits alone.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            ParameterError: a label is not a class number.
        """
        wanted = self._class_numbers(labels)

        def make(block: Block) -> Images:
            rows = slice(block.start, block.start + block.size)
            return self._described(block, wanted[rows], traits[rows])

        return self._sampled(len(wanted), seed, make, progress)

    def _images(self, block: Block, labels: np.ndarray) -> Images:
        return self._described(block, labels, None)

    @abstractmethod
    def _described(self, block: Block, labels: np.ndarray, traits: np.ndarray | None) -> Images:
        """An image of each label and its traits; None where nothing is known of them."""


class Conditional(Generator):
    """A table family that samples under conditions and completes given rows.

    A family sets ``codec_`` when it is fitted or restored, and implements ``_sample_block_where``
    and ``_fill_block``.

    Attributes:
        codec_: the TableCodec by which the family sees a table.
    """

    codec_: Any

    def sample_where(
        self,
        conditions: Conditions | Iterable[str],
        n: int,
        *,
        seed: int,
        progress: OnProgress | None = None,
    ) -> Data:
        """Exactly ``n`` new rows that all fulfil every condition.

        They are in the schema's order and dtypes, and depend on model, conditions and seed alone.

        Args:
            conditions: as text (see ``generators.conditions``) or parsed; none allow every row.
            n: number of rows.
            seed: of the sample.
            progress: called now and then with a ``Progress``.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            ParameterError: a condition is wrong, or ``n`` is negative.
            NoSupport: no row of the model fulfils the conditions.
        """
        from .conditions import Conditions

        self._require_fitted()
        schema: TableSchema = self.codec_.schema
        if not isinstance(conditions, Conditions):
            conditions = Conditions.parse(conditions, schema)
        if n < 0:
            raise ParameterError(f"sample size must be at least 0, got {n}; ask for 0 or more rows")
        cells = conditions.cells(self.codec_)
        parts: list[Data] = []
        for block in self.blocks(n, seed):
            if cells:
                encoded = self._sample_block_where(block, cells, conditions)
                parts.append(self.codec_.decode(encoded, first_row=block.start))
            else:
                parts.append(self._sample_block(block))
            if progress is not None:
                progress(Progress("sample", block.start + block.size, n, 0.0))
        return _concatenate(parts, schema)

    def fill(
        self, frame: pd.DataFrame, *, seed: int, progress: OnProgress | None = None
    ) -> pd.DataFrame:
        """``frame`` completed: its missing cells and the columns it does not have.

        What is given stays as it is and decides, together with the model, what is drawn. A missing
        cell of a given column gets a value; a column that is not given is drawn as in the real
        data, missing cells included. Ids and texts become surrogates.

        Args:
            frame: some of the schema's columns, in any order; not modified.
            seed: of what is drawn.
            progress: called now and then with a ``Progress``.

        Returns:
            The rows of ``frame`` in their order; columns and dtypes are the schema's.

        Raises:
            NotFittedError: before ``fit`` or ``load``.
            SchemaError: an unknown column, or cells of another type than the column's.
            DataError: categories that the model does not know.
        """
        from .completion import Completion

        self._require_fitted()
        whole = Completion.of(frame, self.codec_)
        for block in self.blocks(len(frame), seed):
            rows = slice(block.start, block.start + block.size)
            encoded, given = whole.encoded.take(rows), whole.given[rows]
            if not given.all():
                whole.put(rows, self._fill_block(block, encoded, given, whole.present))
            if progress is not None:
                progress(Progress("fill", block.start + block.size, len(frame), 0.0))
        return whole.decode()

    @abstractmethod
    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        """``block.size`` rows within ``cells`` (by position in ``codec_``).

        They depend on the model, ``cells`` and ``block.seed`` alone. ``conditions`` is for
        ``conditions.unsupported``, which makes the NoSupport to raise.
        """

    @abstractmethod
    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        """``encoded`` with other cells where ``given`` (bool, shape (N, D)) is False.

        The cells there are arbitrary before. A column where ``present`` (bool, shape (D,)) is True
        must not be left missing, unless all it can be is missing.
        """


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - a type or a form of typing
    """Whether a JSON-able value is of this type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if origin in (tuple, list):
        return isinstance(value, tuple | list) and all(_fits(item, inner[0]) for item in value)
    if hint in (int, float):
        allowed = (int,) if hint is int else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, type(None)) else True


class Registry(Mapping[str, type[T]], Generic[T]):
    """Names and the classes behind them, imported at first use.

    So torch and scikit-learn stay out of a process that only lists or validates names.
    """

    def __init__(self, kind: str, paths: Mapping[str, str]) -> None:
        self._kind = kind
        self._paths = dict(paths)

    def require(self, name: str) -> None:
        """Raise ParameterError where ``name`` is unknown; nothing is imported."""
        if name not in self._paths:
            near = difflib.get_close_matches(name, self._paths, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(
                f"the {self._kind} must be one of {', '.join(self._paths)}; got {name!r}{hint}"
            )

    def __getitem__(self, name: str) -> type[T]:
        self.require(name)
        module, _, attribute = self._paths[name].partition(":")
        loaded: type[T] = getattr(importlib.import_module(module), attribute)
        return loaded

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def check_table(data: Data, schema: Schema) -> None:
    """Raise SchemaError or DataError unless ``data`` is a frame that ``schema`` describes."""
    if not isinstance(schema, TableSchema):
        raise SchemaError(
            f"a table generator needs a TableSchema, got {type(schema).__name__}; "
            "use TableSchema.infer(frame)"
        )
    if not isinstance(data, pd.DataFrame):
        raise SchemaError(
            f"a table generator needs a pandas DataFrame, got {type(data).__name__}; convert it"
        )
    names = [str(name) for name in data.columns]
    if names != list(schema.names):
        missing = [name for name in schema.names if name not in names]
        extra = [name for name in names if name not in schema.names]
        raise SchemaError(
            "the columns must be the schema's, in its order; "
            f"missing {missing or 'none'}, unknown {extra or 'none'}; select and order them"
        )
    if len(data) < 2:
        raise DataError(f"a table needs at least 2 rows, got {len(data)}; give more data")


def check_images(data: Data, schema: Schema) -> None:
    """Raise SchemaError or DataError unless ``data`` are images that ``schema`` describes."""
    if not isinstance(schema, ImageSchema) or not isinstance(data, Images):
        raise SchemaError(
            "an image generator needs Images and an ImageSchema, got "
            f"{type(data).__name__} and {type(schema).__name__}"
        )
    shape = (schema.height, schema.width, schema.channels)
    if data.pixels.shape[1:] != shape:
        raise SchemaError(
            f"images must be {shape} (height, width, channels) as the schema says, "
            f"got {data.pixels.shape[1:]}"
        )
    if schema.table is not None:
        if data.rows is None or len(data.rows) != len(data):
            found = 0 if data.rows is None else len(data.rows)
            raise SchemaError(f"{len(data)} images need a row each, there are {found}; give them")
        check_table(data.rows, schema.table)
    if len(data) < 2:
        raise DataError(f"an image set needs at least 2 images, got {len(data)}; give more data")


def _concatenate(parts: list[Data], schema: Schema) -> Data:
    if isinstance(schema, ImageSchema):
        shape = (0, schema.height, schema.width, schema.channels)
        images = [part for part in parts if isinstance(part, Images)]
        if not images:
            empty = schema.table.empty_frame() if schema.table else None
            return Images(np.zeros(shape, np.uint8), np.zeros(0, np.int64), empty)
        rows = [part.rows for part in images if part.rows is not None]
        return Images(
            np.concatenate([part.pixels for part in images]),
            np.concatenate([part.labels for part in images]),
            pd.concat(rows, ignore_index=True) if rows else None,
        )
    frames = [part for part in parts if isinstance(part, pd.DataFrame)]
    if not frames:
        return schema.empty_frame()
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def _no_progress(_: Progress) -> None:
    return None
