"""Metrics in words, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from .verdict import GateResult, Verdict

METRICS: dict[str, str] = {
    "structure_columns": "Columns and their order",
    "structure_rows": "Number of rows",
    "structure_types": "Data types",
    "structure_nulls": "Missing values only where allowed",
    "structure_domain": "Values in the declared domain",
    "structure_ids": "Unique ids",
    "structure_shape": "Height, width and channels",
    "structure_pixels": "8-bit pixels",
    "structure_labels": "Known classes",
    "holdout_detection": "Holdout told from train by a classifier",
    "holdout_marginals": "Distance of holdout and train, worst column",
    "holdout_overlap": "Holdout rows that are train rows, over chance",
    "holdout_subjects": "Subjects that are in both train and holdout",
    "association_drift": "Association of one pair, synthetic less real",
    "association_invented": "Invented association, worst pair",
    "association_lost": "Lost association, worst pair",
    "equivalent_fraction": "As near as this share of a real sample",
    "marginal_tvd": "Distance of one column's values",
    "marginal_tvd_mean": "Distance of column values, mean",
    "marginal_tvd_worst": "Distance of column values, worst column",
    "pair_tvd": "Distance of one pair of columns",
    "pair_tvd_mean": "Distance of column pairs, mean",
    "pair_tvd_p95": "Distance of column pairs, 95th percentile",
    "c2st_auc": "Detection by a classifier",
    "c2st_column_auc": "Detection by a classifier, what one column tells",
    "near_copy_excess": "Near copies of training rows, over chance",
    "tstr": "Skill of models trained on synthetic data",
    "trtr": "Skill of models trained on real data",
    "tstr_accuracy": "Accuracy of classifiers trained on synthetic images",
    "trtr_accuracy": "Accuracy of classifiers trained on real images",
    "representation_ratio": "Share of the group over its real share",
    "label_drift": "Drift of the group's outcome gap",
    "subgroup_tvd": "Distance of the group's column values",
    "subgroup_tvd_worst": "Distance of a group's column values, worst group",
    "equalised_odds_drift": "Drift of the group's TPR or FPR",
    "equalised_odds_drift_worst": "Drift of TPR or FPR, worst group",
    "subgroup_auc_loss": "AUC lost in the group",
    "subgroup_auc_loss_worst": "AUC lost in a group, worst group",
    "c2st_excess": "Detection by a classifier, over real data",
    "utility_retention": "Skill kept by models trained on synthetic data",
    "utility_global": "Skill kept with every column as the target",
    "c2st_telltale": "Rows that a classifier is sure about, over real data",
    "tstr_gap": "Accuracy lost by training on synthetic data",
    "coverage_ratio": "Coverage of the real data's regions",
    "density_ratio": "Rows that lie among real rows",
    "missing_categories": "Categories that are missing",
    "missing_classes": "Classes that are missing",
    "duplicate_excess": "Exact duplicates, over real data",
    "copy_excess": "Verbatim copies of training rows, over chance",
    "dcr_share": "Closer to training rows than to unseen rows",
    "nearest_is_train": "Closer to training images than to unseen images",
    "memorisation_excess": "Near copies of training images, over chance",
    "attribute_excess": "Secrets of training records guessed, over unseen records",
    "attribute_excess_worst": "Secrets guessed over unseen records, worst column",
    "membership_auc": "Who was in the training data: best attack",
    "membership_tpr_at_fpr1": "Who was in the training data: sure hits",
    "membership_auc_isolated": "Who was in the training data: most isolated rows",
    "membership_auc_group": "Who of the group was in the training data",
    "membership_auc_group_worst": "Who was in the training data: worst group",
    "representation_worst": "Share of groups, worst ratio",
    "class_representation_worst": "Share of classes, worst ratio",
    "label_drift_worst": "Outcome gap between groups, worst drift",
    "class_share_ratio": "Share of the class over its real share",
    "class_coverage": "Coverage of the class's real images",
    "class_coverage_worst": "Coverage of a class's real images, worst class",
    "intensity_excess": "Grey values: how bright and dark images are",
    "spectrum_excess": "Detail: coarse and fine structure",
    "label_fidelity_loss_worst": "Images that show another class, worst class",
    "tstr_gap_worst": "Accuracy lost by training on synthetic data, worst class",
    "canary_epsilon": "Privacy loss ε by planted records",
    "membership_loss_auc": "Who was in the training data: by the model's own error",
    "sliced_wasserstein_ratio": "Sliced Wasserstein distance, relative to real data",
    "frechet_ratio": "Fréchet distance, relative to real data",
    "frechet_distance": "Fréchet distance",
    "kernel_distance": "Kernel distance",
    "label_fidelity": "Images that show the class of their label",
    "association_gap": "What an image tells of its row, less than in real data",
}

DIMENSIONS: dict[str, str] = {
    "structure": "Is it well-formed?",
    "fidelity": "Does it look like the real data?",
    "utility": "Can models learn from it?",
    "diversity": "Does it reach everything?",
    "privacy": "Does it give anyone away?",
    "bias": "Does it treat groups alike?",
}


def metric_words(metric: str) -> str:
    """A metric's name in words; one that is not listed is spelled out."""
    return METRICS.get(metric) or metric.replace("_", " ").capitalize()


def number(value: float | None) -> str:
    """Three decimals, fewer for large numbers; a dash where there is none."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    digits = 3 if abs(value) < 10 else 1
    # Adding zero turns the −0.000 of a tiny negative number into 0.000.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share in percent, with one decimal below ten."""
    digits = 0 if abs(value) >= 0.0995 else 1
    return f"{value:.{digits}%}".replace("%", " %").replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """The interval as ``low to high``, or nothing where it is a point or absent."""
    if low is None or high is None or low == high:
        return ""
    return f"{number(low)} to {number(high)}"


def status_words(gate: GateResult) -> str:
    """The answer in a word: a failed warning is a warning, an interval across a bound is open."""
    if gate.inconclusive:
        return "Not proven" if gate.proof else "Open"
    if gate.failed:
        return "Failed" if gate.blocks else "Warning"
    return "Holds" if gate.passed else "Not applicable"


def tally(*, hold: int, undecided: int, warned: int, failed: int = 0) -> str:
    """How many gates said what, each counted once: ``9 gates: 6 hold, 2 are open, 1 warns``.

    Args:
        hold: within their bound beyond doubt.
        undecided: the rows are too few to tell, and no proof is asked for.
        warned: they do not hold, and do not stop the release.
        failed: they stop it.
    """
    said = [
        f"{hold} {'holds' if hold == 1 else 'hold'}",
        f"{undecided} {'is' if undecided == 1 else 'are'} open",
        f"{warned} {'warns' if warned == 1 else 'warn'}",
        f"{failed} {'fails' if failed == 1 else 'fail'}",
    ]
    counts = (hold, undecided, warned, failed)
    told = ", ".join(text for text, count in zip(said, counts, strict=True) if count)
    total = sum(counts)
    return f"{total} {'gate' if total == 1 else 'gates'}: {told}" if total else "no gate applies"


def tally_of(gates: Iterable[GateResult]) -> str:
    """``tally`` of answers; what is not asked of this dataset is not counted."""
    asked = [gate for gate in gates if not gate.not_applicable]
    return tally(
        hold=sum(gate.status == "passed" for gate in asked),
        undecided=sum(gate.inconclusive and gate.passed for gate in asked),
        warned=sum(gate.failed and not gate.blocks for gate in asked),
        failed=sum(gate.blocks for gate in asked),
    )


def gate_rows(verdict: Verdict) -> list[dict[str, str]]:
    """The gates as rows of text, for a terminal: one dictionary a gate, in the verdict's order."""
    return [
        {
            "dimension": gate.dimension,
            "gate": gate.gate,
            "metric": metric_words(gate.metric),
            "subject": gate.subject,
            "value": number(gate.value),
            "interval": interval(gate.low, gate.high),
            "reference": number(gate.reference),
            "bound": gate.bound,
            "verdict": status_words(gate),
            "reason": gate.reason,
        }
        for gate in verdict.gates
    ]
