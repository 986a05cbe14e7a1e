"""What can be learned and sampled; imports nothing else of Likeness."""

from pathlib import Path

from .base import Generator as Generator
from .base import Registry as Registry
from .schema import Images as Images
from .schema import ImageSchema as ImageSchema
from .schema import TableSchema as TableSchema

GENERATORS: Registry[Generator] = Registry(
    "generator",
    {
        "autoregressive": "generators.tabular.autoregressive:Autoregressive",
        "bayesian-network": "generators.tabular.bayesian_network:BayesianNetwork",
        "ctgan": "generators.tabular.ctgan:CTGAN",
        "diffusion": "generators.image.diffusion:Diffusion",
        "forest": "generators.tabular.forest:Forest",
        "gaussian-copula": "generators.tabular.gaussian_copula:GaussianCopula",
        "hidden-tree": "generators.tabular.hidden_tree:HiddenTree",
        "image-autoencoder": "generators.image.autoencoder:ImageAutoencoder",
        "image-flow": "generators.image.flow:ImageFlow",
        "image-gan": "generators.image.gan:ImageGAN",
        "image-vae": "generators.image.vae:ImageVAE",
        "independent": "generators.tabular.independent:Independent",
        "mixture": "generators.tabular.mixture:Mixture",
        "mst": "generators.tabular.mst:MST",
        "pixel-autoregressive": "generators.image.autoregressive:PixelAutoregressive",
        "rbm": "generators.image.rbm:RBM",
        "rows-then-images": "generators.image.rows_then_images:RowsThenImages",
        "sdv-copulagan": "generators.tabular.sdv:SdvCopulaGAN",
        "sdv-ctgan": "generators.tabular.sdv:SdvCTGAN",
        "sdv-gaussian-copula": "generators.tabular.sdv:SdvGaussianCopula",
        "sdv-tvae": "generators.tabular.sdv:SdvTVAE",
        "table-diffusion": "generators.tabular.diffusion:TableDiffusion",
        "table-flow": "generators.tabular.flow:TableFlow",
        "table-rbm": "generators.tabular.rbm:TableRBM",
        "tvae": "generators.tabular.tvae:TVAE",
    },
)


def load_generator(folder: Path, key: bytes | None = None) -> Generator:
    """The fitted generator in ``folder``, whatever its family.

    Args:
        folder: of the model.
        key: with which the model was sealed, where it was.

    Raises:
        CheckpointError: the folder holds no readable model, or one sealed with another key.
    """
    from . import persistence

    return GENERATORS[persistence.read(folder, key).name].load(folder, key)
