"""Numbers of the paper that several notebooks need, and our reading where it is silent."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
INSTALLED = Path(__file__).resolve().parent / "notebooks"  # there only outside a checkout
NOTEBOOKS = INSTALLED if INSTALLED.is_dir() else ROOT / "notebooks"
RELEASED = Path(__file__).parent / "weights" / "leeds"  # the weights in this package
N_JOINTS = 16  # N of eq. 1 and 2, also where fewer joints are annotated (F3)
MARGIN = 1.25  # side of the square that the network sees / height of the person upright (F1)
BODY = 200.0  # px: the body size for which §3 gives a radius of 10 px and a sigma of 5 px (F1)


def reading(*ids: str) -> "pandas.DataFrame":  # noqa: F821
    """How we read the paper where it is silent or contradicts itself: rows of reading.yaml.

    ids: of the rows; without any, all rows. Index id; columns topic, paper, we_do, why, cost.
    KeyError on an unknown id.
    """
    import pandas as pd  # here, so that hpe --help does not wait for it
    import yaml

    text = Path(__file__).with_name("reading.yaml").read_text(encoding="utf-8")
    rows = pd.DataFrame(yaml.safe_load(text)).set_index("id")
    return rows.loc[list(ids)] if ids else rows
