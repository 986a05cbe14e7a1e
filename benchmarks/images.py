"""Image families on real images with a holdout, one row a training.

    python benchmarks/images.py --minutes 3
    python benchmarks/images.py --data FOLDER --minutes 15 --models diffusion,image-vae

Without a folder the images are scikit-learn's 8x8 digits, a fifth held out. A folder holds
``train.parquet`` and ``test.parquet`` with the columns ``image`` (struct of bytes and path) and
``label``. A family learns the train images and samples as many. Measured are seconds, images per
second in training and sampling, the accuracy of a support vector machine on pixels (which no part
of Likeness uses) and of the classifiers of Likeness's validators, trained on synthetic, on real and
on both, and the scores of the image validators, each beside its real counterpart.

``--diffusers PYTHON`` adds the unconditional recipe of Hugging Face's diffusers, in a Python that
has it (``peers/diffusers_unconditional.py`` says how it is run). Its images have no labels: they
get those of a classifier of real images, and scores that depend on the label are left out.

Rows are merged into ``benchmarks/results/images-NAME.json`` by model, minutes, seed and settings,
with machine, versions, commit and command; ``images-NAME.md`` is their table, and
``images-NAME-MODEL-MINUTES.png`` a contact sheet of synthetic images, one row a class.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
from generators.base import Generator, Progress
from generators.image.diffusion import Diffusion, automatic_batch_size
from validators import VALIDATORS
from validators.comparison import Comparison
from validators.image_features import run as outputs
from validators.image_features import shrink, to_tensor, train_network

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
VERSIONS = ("numpy", "scikit-learn", "torch")
SCORES = ("image-fidelity", "image-diversity", "image-utility", "image-copies")
# Of images without labels of their own these alone mean something.
LABEL_FREE = (
    "frechet_ratio",
    "sliced_wasserstein_ratio",
    "coverage_ratio",
    "density_ratio",
    "copy_excess",
    "memorisation_excess",
    "membership_auc",
)
# Settings that the table tells where they are not the usual ones.
NOTABLE = {"quality": "fast", "processes": 1}
DIFFUSERS = "diffusers-unconditional"
MAX_CLASSIFIED = 5_000
CLASSIFIER_SEEDS, CLASSIFIER_STEPS = 5, 1_500
SHEET_COLUMNS = 16
TABLE = {
    "trained": "{}",
    "fit s": "{:.0f}",
    "train images/s": "{:.0f}",
    "sample images/s": "{:.0f}",
    "tstr_gap": "{:+.1%}",
    "real + synthetic gain": "{:+.1%}",
    "frechet_ratio": "{:.2f}",
    "coverage_ratio": "{:.3f}",
    "label_fidelity": "{:.3f}",
    "memorisation_excess": "{:+.1%}",
    "membership_auc": "{:.3f}",
}


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
    task = digits() if options.data is None else read_task(options.data)
    peers = [DIFFUSERS] if options.diffusers else []
    for model in [*filter(None, options.models.split(",")), *peers]:
        for seed in range(options.seed, options.seed + options.seeds):
            row = measure(task, options, model, seed)
            print(json.dumps(row, indent=1), flush=True)
            merge(task, row)


def measure(task: Task, options: argparse.Namespace, model: str, seed: int) -> dict[str, Any]:
    """The row of one training; writes its contact sheet."""
    if model == DIFFUSERS:
        synthetic, facts = by_diffusers(task, options, seed)
    else:
        synthetic, facts = trained(task, settings(options, model, seed), model)
        facts |= accuracies(task, synthetic)
    budget = "default" if options.minutes is None else f"{options.minutes:g}min"
    if torch.cuda.is_available():
        budget += f" {torch.cuda.get_device_name()}"
    if seed == options.seed:
        RESULTS.mkdir(exist_ok=True)
        name = "-".join([model, *budget.split(), *_unusual(facts)])
        contact_sheet(synthetic, task.schema).save(RESULTS / f"images-{task.name}-{name}.png")
    return {
        "model": model,
        "budget": budget,
        "seed": seed,
        **facts,
        **scores(task, synthetic, LABEL_FREE if model == DIFFUSERS else None),
        **circumstances(),
    }


def settings(options: argparse.Namespace, model: str, seed: int) -> dict[str, Any]:
    """The hyper-parameters that the command line sets."""
    chosen = json.loads(options.parameters)
    if options.minutes is not None:
        chosen["max_minutes"] = options.minutes
    known = GENERATORS[model].__dataclass_fields__
    return {**{name: value for name, value in chosen.items() if name in known}, "seed": seed}


def trained(task: Task, chosen: dict[str, Any], name: str) -> tuple[Images, dict[str, Any]]:
    """What a family of ours makes, and what it took."""
    model = GENERATORS[name].from_parameters(chosen)
    started = time.perf_counter()
    model.fit(task.train, task.schema, progress=Reporter())
    fitted = time.perf_counter()
    synthetic = model.sample(len(task.train), seed=1)
    sampled = time.perf_counter()
    if not isinstance(synthetic, Images):
        raise TypeError("an image family must give Images")
    return synthetic, {
        "parameters": model.parameters(),
        **_course(model, len(task.train), fitted - started),
        "fit s": fitted - started,
        "sample s": sampled - fitted,
        "sample images/s": len(synthetic) / (sampled - fitted),
    }


def by_diffusers(
    task: Task, options: argparse.Namespace, seed: int
) -> tuple[Images, dict[str, Any]]:
    """What the recipe of diffusers makes of the train images, and what it took."""
    if options.minutes is None:
        raise SystemExit(f"{DIFFUSERS} must know its time; give --minutes")
    peer = HERE / "peers" / "diffusers_unconditional.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "train.npy", task.train.pixels)
        subprocess.run(
            [options.diffusers, str(peer), name, str(seed), str(options.minutes)], check=True
        )
        facts = json.loads((folder / "facts.json").read_text())
        pixels = np.load(folder / "synthetic.npy")
    return Images(pixels, guesses(task, task.train, pixels, seed)), facts


def _course(model: Generator, images: int, seconds: float) -> dict[str, Any]:
    steps = model.loss_history_[-1][0] if model.loss_history_ else 0
    if not isinstance(model, Diffusion):
        return {"trained": f"{steps:,} steps", "notes": list(model.training_notes_)}
    device = next(model.network_.parameters()).device
    seen = steps * (model.batch_size or automatic_batch_size(images, device))
    return {
        "trained": f"{seen / images:.0f} epochs",
        "steps": model.steps_,
        "steps done": steps,
        "weights of step": model.chosen_[0],
        "held-out loss": min((loss for _, loss in model.validation_history_), default=None),
        "held-out minus train loss": model.gap_,
        "train images/s": seen / seconds,
    }


def accuracies(task: Task, synthetic: Images) -> dict[str, float]:
    """Accuracy on real test images after learning real, synthetic, and both kinds of images."""
    if not task.schema.labelled:
        return {}
    both = Images(
        np.concatenate([task.train.pixels, synthetic.pixels]),
        np.concatenate([task.train.labels, synthetic.labels]),
    )
    test = spread(task.test)
    figures = {
        f"SVM {name}": float(
            SVC(C=10).fit(flat(images), images.labels).score(flat(test), test.labels)
        )
        for name, images in (("TSTR", spread(synthetic)), ("TRTR", spread(task.train)))
    }
    real = [network_accuracy(task, task.train, seed) for seed in range(CLASSIFIER_SEEDS)]
    with_synthetic = [network_accuracy(task, both, seed) for seed in range(CLASSIFIER_SEEDS)]
    gains = np.subtract(with_synthetic, real)
    return {
        **figures,
        "SVM gap": figures["SVM TRTR"] - figures["SVM TSTR"],
        "real accuracy": float(np.mean(real)),
        "real + synthetic accuracy": float(np.mean(with_synthetic)),
        "real + synthetic gain": float(gains.mean()),
        "real + synthetic gain, standard error": float(gains.std(ddof=1) / len(gains) ** 0.5),
    }


def network_accuracy(task: Task, images: Images, seed: int) -> float:
    """Accuracy on the test images of a small network that learned ``images``."""
    return float((guesses(task, images, task.test.pixels, seed) == task.test.labels).mean())


def guesses(task: Task, images: Images, pixels: np.ndarray, seed: int) -> np.ndarray:
    """Labels of ``pixels`` by a small network that learned ``images``; equal effort for all."""
    scale = task.train.pixels.mean(), task.train.pixels.std()

    def inputs(part: np.ndarray) -> torch.Tensor:
        return to_tensor((shrink(part) - scale[0]) / scale[1])

    network = train_network(
        inputs(images.pixels),
        torch.from_numpy(images.labels),
        len(task.schema.classes),
        generator=torch.Generator().manual_seed(seed),
        steps=CLASSIFIER_STEPS,
    )
    labels: np.ndarray = outputs(network, inputs(pixels)).argmax(axis=1).astype(np.int64)
    return labels


def spread(images: Images) -> Images:
    """At most ``MAX_CLASSIFIED`` images, from all over the set: it may be sorted by class."""
    count = min(len(images), MAX_CLASSIFIED)
    return images.take(np.linspace(0, len(images) - 1, count).astype(np.int64))


def flat(images: Images) -> np.ndarray:
    """Pixels as rows in [0, 1]."""
    pixels: np.ndarray = images.pixels.reshape(len(images), -1) / 255.0
    return pixels


def scores(
    task: Task, synthetic: Images, chosen: Sequence[str] | None = None
) -> dict[str, list[float | None]]:
    """Estimate, ends of the 95 % interval and real counterpart of image scores; all or some."""
    comparison = Comparison(synthetic, task.train, task.test, task.schema)
    return {
        score.metric: [score.value, score.low, score.high, score.reference]
        for name in SCORES
        for score in VALIDATORS[name]()(comparison)
        if score.subject == "all" and score.value is not None
        if chosen is None or score.metric in chosen
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


def read_task(folder: Path) -> Task:
    """The images of a folder."""
    train, names = read_images(folder / "train.parquet")
    test, _ = read_images(folder / "test.parquet")
    height, width, channels = train.pixels.shape[1:]
    schema = ImageSchema(height, width, channels, names)
    return Task(name=folder.resolve().name, train=train, test=test, schema=schema)


def digits() -> Task:
    """Scikit-learn's digits: 1,437 to learn, 360 held out."""
    raw = load_digits()
    pixels = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    images = Images(pixels, raw.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(images))
    return Task(
        name="digits",
        train=images.take(order[:1437]),
        test=images.take(order[1437:]),
        schema=ImageSchema(8, 8, 1, tuple("0123456789")),
    )


def read_images(path: Path) -> tuple[Images, tuple[str, ...]]:
    """Images and class names of a Parquet file."""
    table = pq.read_table(path)
    decoded = [
        np.atleast_3d(np.asarray(Image.open(io.BytesIO(entry["bytes"]))))
        for entry in table["image"].to_pylist()
    ]
    labels = table["label"].to_numpy().astype(np.int64)
    names = [str(label) for label in range(int(labels.max()) + 1)]
    if "label_name" in table.column_names:
        for label, name in zip(labels, table["label_name"].to_pylist(), strict=True):
            names[label] = str(name)
    return Images(np.stack(decoded).astype(np.uint8), labels), tuple(names)


def circumstances() -> dict[str, Any]:
    """What is needed to repeat a row."""
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": shlex.join(["python", "benchmarks/images.py", *map(_bare, sys.argv[1:])]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit or None,
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
    }


def merge(task: Task, row: dict[str, Any]) -> None:
    """Put ``row`` into the results, in place of an earlier one of its kind, and write the table."""
    target = RESULTS / f"images-{task.name}.json"
    rows = json.loads(target.read_text())["rows"] if target.exists() else []
    kept = [other for other in rows if _kind(other) != _kind(row)]
    whole = sorted([*kept, row], key=lambda one: (one["model"], one["budget"], one["seed"]))
    images = {"train": len(task.train), "test": len(task.test)}
    target.write_text(json.dumps({"images": images, "rows": whole}, indent=2) + "\n")
    target.with_suffix(".md").write_text(markdown(whole))


def _kind(row: dict[str, Any]) -> list[Any]:
    chosen = {k: v for k, v in row.get("parameters", {}).items() if k != "seed"}
    return [row["model"], row["budget"], row["seed"], json.dumps(chosen, sort_keys=True)]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table; intervals and circumstances are in the JSON file."""
    names = ["model", "budget", "seed", *TABLE]
    lines = [names, ["---"] * len(names)]
    for row in rows:
        cells = [" ".join([row["model"], *_unusual(row)]), row["budget"], str(row["seed"])]
        for name, form in TABLE.items():
            value = row.get(name)
            value = value[0] if isinstance(value, list) else value
            cells.append("–" if value is None else form.format(value))
        lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _unusual(row: dict[str, Any]) -> list[str]:
    chosen = row.get("parameters", {})
    return [
        f"{name}={chosen[name]}"
        for name, usual in NOTABLE.items()
        if chosen.get(name, usual) != usual
    ]


def _bare(argument: str) -> str:
    """Paths of this machine say nothing to others."""
    return Path(argument).name if os.sep in argument else argument


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of real images; default digits")
    parser.add_argument("--minutes", type=float, help="training time; default the family's own")
    parser.add_argument("--models", default="diffusion", help="families: a,b")
    parser.add_argument("--diffusers", help=f"a Python for {DIFFUSERS}; with --minutes")
    parser.add_argument("--parameters", default="{}", help="more hyper-parameters as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the first training")
    parser.add_argument("--seeds", type=int, default=1, help="trainings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
