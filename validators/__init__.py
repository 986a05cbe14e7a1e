"""What can be measured of (train, holdout, synthetic); knows only the generators' data types."""

from generators.base import Modality, Registry

from .base import Score as Score
from .base import Scorecard as Scorecard
from .base import Validator as Validator
from .comparison import Comparison as Comparison

VALIDATORS: Registry[Validator] = Registry(
    "validator",
    {
        "attributes": "validators.privacy.attributes:Attributes",
        "bias": "validators.bias:Bias",
        "calibration": "validators.calibration:Calibration",
        "copies": "validators.privacy.copies:Copies",
        "detection": "validators.detection:Detection",
        "diversity": "validators.diversity:Diversity",
        "fidelity": "validators.fidelity:Fidelity",
        "image-appearance": "validators.image_appearance:ImageAppearance",
        "image-bias": "validators.image:ImageBias",
        "image-copies": "validators.privacy.images:ImageCopies",
        "image-diversity": "validators.image:ImageDiversity",
        "image-fidelity": "validators.image:ImageFidelity",
        "image-utility": "validators.image:ImageUtility",
        "membership": "validators.privacy.membership:Membership",
        "subgroups": "validators.subgroups:Subgroups",
        "utility": "validators.utility:Utility",
    },
)


def validators_of(modality: Modality) -> list[str]:
    """The names of the validators of tables, or of images, whose names begin with ``image-``.

    Nothing is imported to tell: those of images need torch, a table's run does not.
    """
    return [name for name in VALIDATORS if name.startswith("image-") == (modality == "image")]
