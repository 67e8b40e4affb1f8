"""What a result stands beside: floors, and the rows that the paper prints in Tables 5, 6 and 7."""

import io

import numpy as np
import pandas as pd


def mean_pose(joints: np.ndarray) -> np.ndarray:
    """The training set's mean pose in the crop: joints (N, 16, 2) crop px, NaN where absent -> (16, 2) crop px.

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
_PRINTED = """table|row|head|shoulder|elbow|wrist|hip|knee|ankle|total
5|detection+regression (Res)|97.3|95.2|89.9|85.3|89.4|85.7|81.9|88.2
5|detection+regression (VGG)|95.6|92.2|83.5|78.3|84.5|77.3|70.0|83.2
5|detection only (Res)|96.2|91.3|83.4|74.5|83.1|76.6|71.3|82.6
5|regression only (Res)|96.4|92.8|84.5|77.3|84.5|79.9|74.0|84.2
5|regression+regression (Res)|96.7|93.6|86.1|80.1|88.1|80.5|76.7|85.7
5|regression+regression (VGG)|92.8|85.6|77.5|70.4|73.5|69.3|66.5|76.7
6|Bulat & Tzimiropoulos (Res)|97.9|95.1|89.9|85.3|89.4|85.7|81.9|89.7
6|Bulat & Tzimiropoulos (VGG)|96.8|91.3|82.9|77.5|83.2|74.4|67.5|82.7
6|Newell et al. [19]|97.6|95.4|90.0|85.2|88.7|85.0|80.6|89.4
6|Wei et al. [28]|97.8|95.0|88.7|84.0|88.4|82.8|79.4|88.5
6|Insafutdinov et al. [26]|96.6|94.6|88.5|84.4|87.6|83.9|79.4|88.3
6|Gkioxari et al. [37]|96.2|93.1|86.7|82.1|85.2|81.4|74.1|86.1
6|Lifshitz et al. [38]|97.8|93.3|85.7|80.4|85.3|76.6|70.2|85.0
6|Pishchulin et al. [25]|94.1|90.2|83.4|77.3|82.6|75.7|68.6|82.4
6|Hu & Ramanan [39]|95.0|91.6|83.0|76.6|81.9|74.25|69.5|82.4
6|Carreira et al. [40]|95.7|91.7|81.7|72.4|82.8|73.2|66.4|81.3
6|Tompson et al. 2014 [23]|95.8|90.3|80.5|74.3|77.6|69.7|62.8|79.6
6|Tompson et al. 2015 [24]|96.1|91.9|83.9|77.8|80.9|72.3|64.8|82.0
7|Bulat & Tzimiropoulos (Res)|96.3|92.2|88.2|85.2|92.2|91.5|88.6|90.7
7|Bulat & Tzimiropoulos (VGG)|94.8|86.6|79.5|73.5|88.1|83.2|78.5|83.5
7|Wei et al. [28]|97.8|92.5|87.0|83.9|91.5|90.8|89.9|90.5
7|Insafutdinov et al. [26]|97.4|92.7|87.5|84.4|91.5|89.9|87.2|90.1
7|Pishchulin et al. [25]|97.0|91.0|83.8|78.1|91.0|86.7|82.0|87.1
7|Lifshitz et al. [38]|96.8|89.0|82.7|79.1|90.9|86.0|82.5|86.7
7|Yang et al. [41]|90.6|78.1|73.8|68.8|74.8|69.9|58.9|73.6
7|Carreira et al. [40]|90.5|81.8|65.8|59.8|81.6|70.6|62.0|73.1
7|Tompson et al. 2014 [23]|90.6|79.2|67.9|63.4|69.5|71.0|64.2|72.3
7|Fan et al. [42]|92.4|75.2|65.3|64.0|75.7|68.3|70.4|73.0
7|Chen & Yuille [22]|91.8|78.2|71.8|65.5|73.3|70.2|63.4|73.4
"""


def published(table: int) -> pd.DataFrame:
    """Table 5, 6 or 7 as printed: index row, columns COLUMNS and total, percent. SOURCES[table] says on which people.

    Bracketed numbers are the paper's references. KeyError for another table.
    """
    rows = pd.read_csv(io.StringIO(_PRINTED), sep="|", index_col="row")
    if table not in SOURCES:
        raise KeyError(f"table {table}, expected {', '.join(map(str, SOURCES))}")
    return rows[rows["table"] == table].drop(columns="table")


def audit() -> pd.DataFrame:
    """F17: each printed total beside the plain mean of its seven columns, and their difference; all three tables."""
    tables = {
        (table, row): values for table in SOURCES for row, values in published(table).iterrows()
    }
    rows = pd.DataFrame(tables).T.rename_axis(["table", "row"])
    mean = rows[COLUMNS].mean(axis=1)
    return pd.DataFrame(
        {"total": rows["total"], "mean of columns": mean, "difference": rows["total"] - mean}
    )
