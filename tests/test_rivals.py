import numpy as np

from hpe_lib import rivals


def test_mean_pose_is_the_mean_of_those_who_have_the_joint():
    joints = np.full((3, 16, 2), np.nan)
    joints[:, 0] = [[0, 3], [3, 3], [6, 9]]
    joints[1, 1] = [5, 7]
    pose = rivals.mean_pose(joints)
    assert pose.shape == (16, 2) and pose[:2].tolist() == [[3, 5], [5, 7]] and np.isnan(pose[2:]).all()
