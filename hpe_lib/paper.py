"""What the paper says: the numbers that several notebooks need, and how we read it where it is silent."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
INSTALLED = Path(__file__).resolve().parent / "notebooks"  # there only outside a checkout
NOTEBOOKS = INSTALLED if INSTALLED.is_dir() else ROOT / "notebooks"
RELEASED = Path(__file__).parent / "weights" / "leeds"  # weights that come along
N_JOINTS = 16  # N of eq. 1 and 2, also where fewer joints are annotated (F3)
MARGIN = (
    1.25  # side of the square that the network sees / height of the person standing upright (F1)
)
BODY = 200.0  # px: the body size in which §3 gives the disc's radius (10 px) and we read the Gaussian's sigma (5 px)


def reading(*ids: str) -> "pandas.DataFrame":  # noqa: F821
    """How the paper is read where it is silent or contradicts itself: the rows of these ids, or all.

    Index id, columns topic, paper, we_do, why, cost: texts of reading.yaml. KeyError on another id.
    """
    import pandas as pd  # here: hpe --help waits for neither
    import yaml

    text = Path(__file__).with_name("reading.yaml").read_text(encoding="utf-8")
    rows = pd.DataFrame(yaml.safe_load(text)).set_index("id")
    return rows.loc[list(ids)] if ids else rows
