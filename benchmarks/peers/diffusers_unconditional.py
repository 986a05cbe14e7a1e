"""The unconditional recipe of Hugging Face's diffusers, in an environment of its own.

    python benchmarks/peers/diffusers_unconditional.py FOLDER SEED MINUTES

Reads ``train.npy`` (uint8 (N, H, W, C)) in FOLDER; leaves ``synthetic.npy``, as many images but at
most 1,000, and ``facts.json``. The settings are those that its documentation trains by: noise of
1,000 levels, the noise predicted, batches of 16, AdamW at 1e-4 with betas .95 and .999, warm-up and
cosine, an EMA.
Three things differ, each in its favour within minutes on a CPU: the network has three levels of
32, 64 and 64 features (its own of 114 million parameters would see a few hundred images), the
warm-up is a tenth of the training where that is less than 500 steps, and images are sampled by its
DDIM in 50 evaluations and not in 1,000. Sides are padded to a multiple of four.
Install it with ``pip install diffusers==0.42.1 -c constraints.txt``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch.nn.functional import mse_loss

BATCH, SAMPLED_AT_ONCE, EVALUATIONS = 16, 128, 50
MAX_SAMPLED = 1_000
MULTIPLE = 4


class Recipe:
    """The network, its optimiser and its average, for a training of ``steps``."""

    def __init__(self, images: torch.Tensor, seed: int, steps: int) -> None:
        # Networks of diffusers and their dropout know the global random state alone.
        torch.manual_seed(seed)  # noqa: TID251
        self.images, self.steps = images, steps
        channels = images.shape[1]
        self.network = UNet2DModel(
            sample_size=tuple(images.shape[2:]),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
        self.noising = DDPMScheduler(num_train_timesteps=1000)
        self.average = EMAModel(
            self.network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75
        )
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6
        )
        self.schedule = get_cosine_schedule_with_warmup(
            self.optimiser, min(500, steps // 10), steps
        )

    def step(self) -> float:
        """One step; gives its loss."""
        clean = self.images[torch.randint(len(self.images), (BATCH,))]
        noise = torch.randn_like(clean)
        levels = torch.randint(1000, (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            guess = self.network(self.noising.add_noise(clean, noise, levels), levels).sample
        loss = mse_loss(guess.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad()
        self.average.step(self.network.parameters())
        return float(loss.detach())

    @torch.no_grad()
    def sample(self, count: int) -> torch.Tensor:
        """Images in [-1, 1] from the averaged network."""
        self.average.copy_to(self.network.parameters())
        self.network.eval()
        # It clips its guesses; the multistep solvers do not and diverge on so short a training.
        solver = DDIMScheduler.from_config(self.noising.config)
        parts = []
        for start in range(0, count, SAMPLED_AT_ONCE):
            solver.set_timesteps(EVALUATIONS)
            x = torch.randn(min(SAMPLED_AT_ONCE, count - start), *self.images.shape[1:])
            for level in solver.timesteps:
                with torch.autocast("cpu", torch.bfloat16):
                    guess = self.network(x, level).sample
                x = solver.step(guess.float(), level, x).prev_sample
            parts.append(x.clamp(-1.0, 1.0))
        return torch.cat(parts)


def main(folder: Path, seed: int, minutes: float) -> None:
    """Train for about ``minutes`` and sample."""
    pixels = np.load(folder / "train.npy")
    count, height, width, _ = pixels.shape
    rest = [(0, -side % MULTIPLE) for side in (height, width)]
    padded = np.pad(pixels, [(0, 0), *rest, (0, 0)], mode="edge")
    images = torch.from_numpy(padded.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1.0
    begin = time.perf_counter()
    trial, tried = Recipe(images, seed, 1000), 0
    while tried < 5 or time.perf_counter() - begin < 3.0:
        trial.step()
        tried += 1
    spent = time.perf_counter() - begin
    steps = max(1, int((60.0 * minutes - spent) * tried / spent))
    recipe = Recipe(images, seed, steps)
    for number in range(steps):
        loss = recipe.step()
        if number % max(1, steps // 50) == 0:
            print(f"step {number:,} of {steps:,}, loss {loss:.3f}", file=sys.stderr, flush=True)
    fitted = time.perf_counter()
    made = recipe.sample(min(count, MAX_SAMPLED))[:, :, :height, :width]
    sampled = time.perf_counter()
    grey = ((made + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    np.save(folder / "synthetic.npy", grey.contiguous().numpy())
    facts = {
        "trained": f"{steps * BATCH / count:.0f} epochs",
        "steps": steps,
        "fit s": fitted - begin,
        "sample s": sampled - fitted,
        "train images/s": steps * BATCH / (fitted - begin),
        "sample images/s": len(made) / (sampled - fitted),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
