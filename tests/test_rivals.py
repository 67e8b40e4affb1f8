import numpy as np
import pytest

from hpe_lib import rivals


def test_mean_pose_is_the_mean_of_those_who_have_the_joint():
    joints = np.full((3, 16, 2), np.nan)
    joints[:, 0] = [[0, 3], [3, 3], [6, 9]]
    joints[1, 1] = [5, 7]
    pose = rivals.mean_pose(joints)
    assert (
        pose.shape == (16, 2) and pose[:2].tolist() == [[3, 5], [5, 7]] and np.isnan(pose[2:]).all()
    )


def test_the_printed_rows_are_all_there_and_say_where_they_are_from():
    counts = {table: len(rivals.published(table)) for table in rivals.SOURCES}
    assert counts == {5: 6, 6: 12, 7: 11}
    assert rivals.published(5).loc["detection+regression (Res)", "total"] == 88.2
    assert rivals.published(6).loc["Hu & Ramanan [39]", "knee"] == 74.25
    assert rivals.published(7).columns.tolist() == [*rivals.COLUMNS, "total"]
    with pytest.raises(KeyError):
        rivals.published(4)


def test_the_audit_finds_what_does_not_add_up():
    """F17: table 7's totals are plain means, table 6's lie above, 5-Res's a whole point below."""
    difference = rivals.audit()["difference"]
    assert difference[7].abs().max() < 0.11
    assert (difference[6] > 0.3).all()
    assert difference[5, "detection+regression (Res)"] == pytest.approx(-1.04, abs=0.01)
    shared = rivals.COLUMNS[2:]
    ours = [rivals.published(5).loc["detection+regression (Res)"], rivals.published(6).iloc[0]]
    assert ours[0][shared].equals(ours[1][shared]) and ours[0]["total"] != ours[1]["total"]
