"""What results are compared with: the mean pose, and the printed rows of Tables 5, 6 and 7."""

from pathlib import Path

import numpy as np
import pandas as pd


def mean_pose(joints: np.ndarray) -> np.ndarray:
    """The mean pose (16, 2), crop px, of joints (N, 16, 2), crop px, NaN where absent.

    A joint that nobody has (pelvis and thorax of LSP) is NaN.
    """
    counts = (~np.isnan(joints[..., 0])).sum(0)
    return np.nansum(joints, axis=0) / np.where(counts, counts, np.nan)[:, None]


SOURCES = {
    5: "MPII validation, PCKh@0.5",
    6: "MPII test, PCKh@0.5",
    7: "LSP test, person-centric, PCK@0.2",
}
COLUMNS = ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]


def published(table: int) -> pd.DataFrame:
    """Table 5, 6 or 7 as printed, in percent: index row, columns COLUMNS and total.

    SOURCES has the people and the metric. Numbers in brackets are the paper's references.
    KeyError on another table.
    """
    rows = pd.read_csv(Path(__file__).with_name("published.csv"), index_col="row")
    if table not in SOURCES:
        raise KeyError(f"table {table}, expected {', '.join(map(str, SOURCES))}")
    return rows[rows["table"] == table].drop(columns="table")


def audit() -> pd.DataFrame:
    """Each printed total beside the mean of its seven columns, and their difference (F17)."""
    tables = {
        (table, row): values for table in SOURCES for row, values in published(table).iterrows()
    }
    rows = pd.DataFrame(tables).T.rename_axis(["table", "row"])
    mean = rows[COLUMNS].mean(axis=1)
    return pd.DataFrame(
        {"total": rows["total"], "mean of columns": mean, "difference": rows["total"] - mean}
    )
