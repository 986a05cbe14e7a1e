"""Images of the owner changed by a fitted model, and models of image pairs.

What comes out shows real images, in part or by their shape: it belongs where they belong. Each file
is marked as a composite of real and generated media.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from generators import GENERATORS, Images, ImageSchema, load_generator
from generators.base import DataError, Editable, Generator, OnProgress, ParameterError, SchemaError
from generators.persistence import model_digest

from .boundary import guarded
from .home import Home, canonical_json, whole_folder
from .publication.digest import content_digest
from .publication.parquet import COMPOSITE, encode_png, to_arrow, write_parquet
from .sources import RawImages, read_source, source_for_path
from .sources.images import image_files
from .sources.pixels import LONGEST_SIDE, decode_all
from .spec import SourceSpec

_WHITE = 128


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """One edit of a set of images; exactly one of the four.

    Attributes:
        inpaint: a picture of the images' size; what is white in it is made anew.
        vary: strength of the variation, from 0 to 1.
        upscale: enlarge to the size that the model makes.
        translate: make the counterparts, by a model of pairs.
        seed: of what is made.
    """

    inpaint: Path | None = None
    vary: float | None = None
    upscale: bool = False
    translate: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """The edit that is asked for.

        Raises:
            ParameterError: none or several are.
        """
        asked = {
            "inpaint": self.inpaint is not None,
            "vary": self.vary is not None,
            "upscale": self.upscale,
            "translate": self.translate,
        }
        names = [name for name, wanted in asked.items() if wanted]
        if len(names) != 1:
            given = ", ".join(f"--{name}" for name in names) or "none"
            raise ParameterError(
                f"an edit is one of --inpaint, --vary, --upscale, --translate; got {given}"
            )
        return names[0]


@guarded
def edit_images(
    model: Path,
    source: Path,
    request: EditRequest,
    output: Path,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Change the images of ``source`` and write them; gives the facts of the edit.

    Args:
        model: folder of a fitted model.
        source: folder of images, Parquet or IDX file. A sub-folder with the name of one of the
            model's classes is that class; others have none.
        request: the edit.
        output: a Parquet file (its suffix tells), or a new folder of PNG files and ``edit.json``.
        progress: called now and then.

    Raises:
        CheckpointError: the folder holds no model.
        ParameterError: the model edits no images, the edit is wrong, or the output exists.
        DataError: the images cannot be read, or do not fit the model.
    """
    name = request.name
    if output.exists():
        raise ParameterError(f"the output must be new, {output} exists; choose another")
    generator = _editable(load_generator(model))
    schema = generator.schema_
    if not isinstance(schema, ImageSchema):
        raise ParameterError(f"an edit needs a model of images, {generator.name} makes tables")
    raw = _read(source, max(schema.height, schema.width))
    images = Images(raw.images.pixels, _labels(raw, schema))
    made = _edited(generator, images, request, (schema.height, schema.width), progress)
    facts = {
        "edit": name,
        "images": len(made),
        "seed": request.seed,
        "model": model_digest(model),
        "digital_source_type": COMPOSITE,
        "unreadable": raw.unreadable,
        "notes": list(raw.notes),
    }
    return {**facts, **_write(made, schema, output, facts)}


@guarded
def fit_pairs(
    target: Path,
    source: Path,
    parameters: dict[str, Any],
    output: Path,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Fit a model that makes the images of ``target`` from those of ``source``.

    Images of equal path within the two folders are a pair. The model holds real values: keep it as
    safe as the images.

    Args:
        target: folder of the images to be made.
        source: folder of those they are made from.
        parameters: of the diffusion.
        output: a new folder for the model.
        progress: called now and then.

    Raises:
        DataError: a folder cannot be read, or an image has no counterpart.
        ParameterError: a parameter is wrong, or the output exists.
    """
    if output.exists():
        raise ParameterError(f"the output folder must be new, {output} exists; choose another")
    made, given = (_whole(path) for path in (target, source))
    apart = _names(target) ^ _names(source)
    if apart:
        raise DataError(
            f"every image must have a counterpart of the same name, {len(apart)} have none; "
            "rename them or leave them out"
        )
    if made.images.pixels.shape[:3] != given.images.pixels.shape[:3]:
        raise DataError(
            "both folders must hold images of one size, they are "
            f"{made.images.pixels.shape[1:3]} and {given.images.pixels.shape[1:3]}; resize them"
        )
    pixels = np.concatenate([made.images.pixels, given.images.pixels], axis=3)
    height, width, channels = pixels.shape[1:]
    schema = ImageSchema(height, width, channels, made.schema.classes)
    chosen = {**parameters, "source_channels": given.images.pixels.shape[3]}
    generator = GENERATORS["diffusion"].from_parameters(chosen)
    generator.fit(Images(pixels, made.images.labels), schema, progress=progress)
    with whole_folder(output.absolute()) as stage:
        generator.save(stage)
    return {"pairs": len(pixels), "model": model_digest(output), "folder": str(output)}


def _editable(generator: Generator) -> Editable:
    if isinstance(generator, Editable):
        return generator
    able = [name for name in GENERATORS if issubclass(GENERATORS[name], Editable)]
    raise ParameterError(
        f"an edit needs a generator that can, {generator.name} cannot; fit one of {', '.join(able)}"
    )


def _read(path: Path, side: int) -> RawImages:
    found = source_for_path(path)
    size = side if side > LONGEST_SIDE else None
    raw = read_source(found.model_copy(update={"size": size}), Home.from_environment().vault)
    if not isinstance(raw, RawImages):
        raise DataError(f"images are needed, {path} holds a table; give a folder of images")
    return raw


def _whole(path: Path) -> RawImages:
    if not path.is_dir():
        raise DataError(f"pairs are two folders of images, {path} is none; give a folder")
    source = SourceSpec(kind="images", path=str(path.absolute()))
    raw = read_source(source, Home.from_environment().vault)
    if not isinstance(raw, RawImages) or raw.unreadable:
        raise DataError(
            f"every image of a pair must be readable, some in {path.name} are not; leave out both"
        )
    return raw


def _names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder).with_suffix("")) for file in image_files(folder)}


def _labels(raw: RawImages, schema: ImageSchema) -> np.ndarray:
    """The model's class of each image, -1 where it has none of that name."""
    if not schema.labelled:
        return np.zeros(len(raw.images), np.int64)
    known = {name: number for number, name in enumerate(schema.classes)}
    numbers = np.array([known.get(name, -1) for name in raw.schema.classes], np.int64)
    labels: np.ndarray = numbers[raw.images.labels]
    return labels


def _edited(
    generator: Editable,
    images: Images,
    request: EditRequest,
    size: tuple[int, int],
    progress: OnProgress | None,
) -> Images:
    seed = request.seed
    if request.inpaint is not None:
        mask = _mask(request.inpaint, size)
        return generator.inpaint(images, mask, seed=seed, progress=progress)
    if request.vary is not None:
        return generator.vary(images, request.vary, seed=seed, progress=progress)
    if request.upscale:
        return generator.upscale(images, seed=seed, progress=progress)
    return generator.translate(images, seed=seed, progress=progress)


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Where the picture at ``path`` is white.

    Raises:
        SchemaError: it is of another size than the images.
    """
    if not path.is_file():
        raise DataError(f"the mask must be a picture, {path} is none; give a PNG file")
    pixels = decode_all([path], max(size)).pixels[0]
    if pixels.shape[:2] != size:
        raise SchemaError(
            f"the mask must be of the images' size {size}, it is {pixels.shape[:2]}; resize it"
        )
    white: np.ndarray = pixels[..., 0] >= _WHITE
    return white


def _write(
    made: Images, schema: ImageSchema, output: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    height, width, channels = made.pixels.shape[1:]
    named = schema.labelled and bool((made.labels >= 0).all())
    own = ImageSchema(height, width, channels, schema.classes if named else ("all",))
    table = to_arrow(made, own, mark=COMPOSITE)
    digest = content_digest(table)
    if output.suffix.lower() in (".parquet", ".pq"):
        partial = output.with_name(f".{output.name}.partial")
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        footer = {
            "edit": str(facts["edit"]),
            "model": str(facts["model"]),
            "seed": str(facts["seed"]),
        }
        write_parquet(
            table, partial, {**footer, "content_digest": digest}, own.classes if named else ()
        )
        partial.replace(output)
        return {"content_digest": digest, "file": str(output)}
    with whole_folder(output.absolute()) as stage:
        for number, pixels in enumerate(made.pixels):
            (stage / f"{number:08d}.png").write_bytes(encode_png(pixels, COMPOSITE))
        (stage / "edit.json").write_text(canonical_json({**facts, "content_digest": digest}))
    return {"content_digest": digest, "folder": str(output)}
