"""Table Evaluator as a judge: ``python table_evaluator_report.py FOLDER...``.

Its ``evaluate`` with the classification of the target; it has no use for a holdout, no interval
and no bound, so it has no rule of its own. Dates are days.
"""

from __future__ import annotations

from judging import Judgement, Sides, judge_all
from table_evaluator import TableEvaluator


def judge(dated: Sides) -> Judgement:
    """Its overview, copies and nearest neighbours."""
    sides = dated.in_days()
    tool = TableEvaluator(sides.train, sides.synthetic, cat_cols=sides.words)
    found = tool.evaluate(target_col=sides.target, target_type="class", return_outputs=True)
    scores = {name: float(row["result"]) for name, row in found["Overview Results"].items()}
    privacy = found["Privacy Results"]
    distance = privacy["nearest neighbor mean"]["result"]
    copies = tool.get_copies(return_len=True)
    return Judgement({**scores, "nearest neighbour": float(distance), "copies": -copies}, {})


if __name__ == "__main__":
    judge_all("table-evaluator", "MIT", judge)
