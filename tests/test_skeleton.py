from hpe_lib.skeleton import LSP_NAMES, LSP_ROWS, MPII


def test_order_is_mpii_s():
    assert (
        MPII.names[0] == "right_ankle"
        and MPII.names[9] == "head_top"
        and MPII.names[15] == "left_wrist"
    )
    assert MPII.index("left_shoulder") == 13 and len(set(MPII.names)) == 16


def test_mirror_swaps_left_and_right_and_nothing_else():
    assert MPII.mirror == [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10]
    assert [MPII.mirror[row] for row in MPII.mirror] == list(range(16))


def test_limbs_are_a_tree_on_all_joints():
    assert len(MPII.limbs) == 15 and {child for child, _ in MPII.limbs} == set(range(16)) - {
        MPII.index("pelvis")
    }
    for joint in MPII.names:
        seen = []
        while joint != "pelvis":
            assert joint not in seen
            seen.append(joint)
            joint = MPII.parents[joint]


def test_limbs_of_the_left_are_the_mirrored_limbs_of_the_right():
    swapped = {(MPII.mirror[child], MPII.mirror[parent]) for child, parent in MPII.limbs}
    assert swapped == set(MPII.limbs)


def test_scored_are_the_14_without_pelvis_and_thorax():
    assert (
        set(range(16)) - set(MPII.scored) == {MPII.index("pelvis"), MPII.index("thorax")}
        and len(MPII.scored) == 14
    )
    assert list(MPII.groups) == ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]


def test_lsp_joints_have_their_place_by_name():
    """LSP's neck is MPII's upper neck, not its thorax."""
    assert LSP_NAMES[0] == "right_ankle" and LSP_NAMES[5] == "left_ankle"
    assert LSP_NAMES[12:] == ("upper_neck", "head_top")
    assert (
        LSP_ROWS == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9]
        and sorted(LSP_ROWS) == MPII.scored
    )
