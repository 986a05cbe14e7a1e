"""The image diffusion family on real images with a holdout.

    python benchmarks/images.py --steps 900
    python benchmarks/images.py --parquet train.parquet --test test.parquet --minutes 6

Without a file the images are scikit-learn's 8x8 digits, a fifth held out. A file holds the columns
``image`` (struct of bytes and path) and ``label``. The generator learns the train images and
samples as many. Measured are seconds, images per second in training and sampling, the accuracy of
a classifier of pixels that is trained on synthetic and on real images (a support vector machine,
which no part of Likeness uses), and the scores of Likeness's image validators, each beside its real
counterpart. The result goes to ``benchmarks/results/`` as JSON with machine, versions and command,
and as a contact sheet of synthetic images, one row a class.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generators import GENERATORS, Images, ImageSchema
from generators.base import Progress
from generators.image.diffusion import Diffusion, automatic_batch_size
from validators import VALIDATORS
from validators.comparison import Comparison

RESULTS = Path(__file__).resolve().parent / "results"
VERSIONS = ("numpy", "scikit-learn", "torch")
SCORES = ("image-fidelity", "image-diversity", "image-utility", "image-copies")
MAX_CLASSIFIED = 5_000
SHEET_COLUMNS = 16


@dataclass(frozen=True, kw_only=True)
class Task:
    """Real images that are learned, and real images that are not."""

    name: str
    train: Images
    test: Images
    schema: ImageSchema


def main() -> None:
    """Run the benchmark that the command line asks for."""
    options = _options()
    task = read_task(options.parquet, options.test)
    figures: dict[str, Any] = {}
    for seed in range(options.seeds):
        sheet = RESULTS / f"images-{task.name}.png" if seed == 0 else None
        figures[f"seed {seed}"] = measure(task, settings(options, seed), sheet)
        print(json.dumps(figures[f"seed {seed}"], indent=1), flush=True)
    write(task, figures)


def settings(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The hyper-parameters that the command line sets."""
    chosen = json.loads(options.parameters)
    if options.steps is not None:
        chosen["steps"] = options.steps
    if options.minutes is not None:
        chosen["max_minutes"] = options.minutes
    return {**chosen, "seed": seed}


def measure(task: Task, chosen: dict[str, Any], sheet: Path | None) -> dict[str, Any]:
    """All figures of one training; writes the contact sheet where one is asked for."""
    model = GENERATORS["diffusion"].from_parameters(chosen)
    if not isinstance(model, Diffusion):
        raise TypeError("the diffusion family must be Diffusion")
    started = time.perf_counter()
    model.fit(task.train, task.schema, progress=Reporter())
    fitted = time.perf_counter()
    synthetic = model.sample(len(task.train), seed=1)
    sampled = time.perf_counter()
    if not isinstance(synthetic, Images):
        raise TypeError("an image family must give Images")
    if sheet is not None:
        contact_sheet(synthetic, task.schema).save(sheet)
    done = model.loss_history_[-1][0]
    device = next(model.network_.parameters()).device
    batch = model.batch_size or automatic_batch_size(len(task.train), device)
    return {
        "parameters": model.parameters(),
        "steps": model.steps_,
        "steps done": done,
        "weights of step": model.chosen_[0],
        "held-out loss": min((loss for _, loss in model.validation_history_), default=None),
        "held-out minus train loss": model.gap_,
        "fit s": fitted - started,
        "sample s": sampled - fitted,
        "train images/s": done * batch / (fitted - started),
        "sample images/s": len(synthetic) / (sampled - fitted),
        **accuracies(task, synthetic),
        **scores(task, synthetic),
    }


def accuracies(task: Task, synthetic: Images) -> dict[str, float]:
    """Accuracy on real test images after learning synthetic (TSTR) and real images (TRTR)."""
    figures = {
        name: SVC(C=10)
        .fit(flat(images), images.labels[:MAX_CLASSIFIED])
        .score(flat(task.test), task.test.labels[:MAX_CLASSIFIED])
        for name, images in (("SVM TSTR", synthetic), ("SVM TRTR", task.train))
    }
    return {**figures, "SVM gap": figures["SVM TRTR"] - figures["SVM TSTR"]}


def flat(images: Images) -> np.ndarray:
    """Pixels as rows in [0, 1]."""
    part = images.pixels[:MAX_CLASSIFIED]
    pixels: np.ndarray = part.reshape(len(part), -1) / 255.0
    return pixels


def scores(task: Task, synthetic: Images) -> dict[str, list[float | None]]:
    """Estimate, ends of the 95 % interval and real counterpart of every image score."""
    comparison = Comparison(synthetic, task.train, task.test, task.schema)
    return {
        score.metric: [score.value, score.low, score.high, score.reference]
        for name in SCORES
        for score in VALIDATORS[name]()(comparison)
        if score.subject == "all" and score.value is not None
    }


def contact_sheet(images: Images, schema: ImageSchema) -> Image.Image:
    """The first images of each class, one row a class, four times as large."""
    height, width, channels = images.pixels.shape[1:]
    rows = []
    for label in range(len(schema.classes)):
        chosen = images.pixels[images.labels == label][:SHEET_COLUMNS]
        row = np.full((SHEET_COLUMNS, height + 1, width + 1, channels), 128, np.uint8)
        row[: len(chosen), :height, :width] = chosen
        rows.append(np.concatenate(list(row), axis=1))
    whole = np.concatenate(rows)
    picture = Image.fromarray(whole[..., 0] if channels == 1 else whole)
    return picture.resize((picture.width * 4, picture.height * 4), Image.Resampling.NEAREST)


class Reporter:
    """Prints the state of the training every ten seconds."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take one report."""
        if progress.seconds - self.last >= 10.0 and progress.loss is not None:
            self.last = progress.seconds
            print(
                f"{progress.phase} {progress.step}/{progress.total} loss {progress.loss:.3f} "
                f"{progress.seconds:.0f} s, {progress.remaining or 0:.0f} s to go",
                file=sys.stderr,
                flush=True,
            )


def read_task(train: Path | None, test: Path | None) -> Task:
    """The images of the files, or digits."""
    if train is None or test is None:
        return digits()
    learned, names = read_images(train)
    unseen, _ = read_images(test)
    schema = ImageSchema(*learned.pixels.shape[1:], names)
    return Task(name=train.parent.name or train.stem, train=learned, test=unseen, schema=schema)


def digits() -> Task:
    """Scikit-learn's digits: 1,437 to learn, 360 held out."""
    raw = load_digits()
    pixels = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    images = Images(pixels, raw.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(images))
    schema = ImageSchema(8, 8, 1, tuple("0123456789"))
    return Task(
        name="digits",
        train=images.take(order[:1437]),
        test=images.take(order[1437:]),
        schema=schema,
    )


def read_images(path: Path) -> tuple[Images, tuple[str, ...]]:
    """Images and class names of a Parquet file."""
    table = pq.read_table(path)
    decoded = [
        np.atleast_3d(np.asarray(Image.open(io.BytesIO(entry["bytes"]))))
        for entry in table["image"].to_pylist()
    ]
    labels = table["label"].to_numpy().astype(np.int64)
    count = int(labels.max()) + 1
    names = [str(label) for label in range(count)]
    if "label_name" in table.column_names:
        for label, name in zip(labels, table["label_name"].to_pylist(), strict=True):
            names[label] = str(name)
    return Images(np.stack(decoded).astype(np.uint8), labels), tuple(names)


def write(task: Task, figures: dict[str, Any]) -> None:
    """Write the figures with what is needed to repeat them."""
    result = {
        "command": shlex.join(["python", "benchmarks/images.py", *map(_bare, sys.argv[1:])]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        "images": {"train": len(task.train), "test": len(task.test)},
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"images-{task.name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _bare(argument: str) -> str:
    return Path(argument).name if argument.endswith(".parquet") else argument


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parquet", type=Path, help="real images to learn")
    parser.add_argument("--test", type=Path, help="real images that are held out")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--minutes", type=float, help="training time, where no steps are given")
    parser.add_argument("--parameters", default="{}", help="more hyper-parameters as JSON")
    parser.add_argument("--seeds", type=int, default=1, help="trainings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
