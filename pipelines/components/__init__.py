"""What a ``defs.yaml`` may name as its type."""

from .synthetic_dataset import SyntheticDataset as SyntheticDataset
