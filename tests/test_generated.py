"""Documents that hypothesis makes up: each is read, or refused in one line."""

import copy
import json

import hostile
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpe_lib.workbook.artifacts import BadInput

KINDS = "boxes", "json", "manifest", "history", "yaml"
SHORT = 40
LONG = 2000  # documents of a kind
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw, document):
    """The document with one value replaced, taken away, or put where none was."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 4)) == 0:
        return draw(VALUES)
    document = copy.copy(document)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 6)) == 0:
        del document[key]
    elif isinstance(document, dict) and draw(st.integers(0, 6)) == 0:
        document[draw(st.text(max_size=8))] = draw(VALUES)
    else:
        document[key] = draw(changed(document[key]))
    return document


def parsed(kind, content):
    """What a sample says: of YAML and JSON; of a history its first line."""
    if kind == "yaml":
        return yaml.safe_load(content)
    return json.loads(content.splitlines()[0] if kind == "history" else content)


def written(kind, document):
    """A document's bytes."""
    if kind == "yaml":
        return yaml.safe_dump(document).encode()
    return json.dumps(document).encode() + b"\n" * (kind == "history")


@pytest.mark.parametrize("examples", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_made_up_documents_are_read_or_refused_in_one_line(kind, examples, tmp_path):
    sample = hostile.plain_samples(tmp_path)[kind]
    ends = []

    def read(document):
        path = tmp_path / "one" / "file.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written(kind, document))
        try:
            assert hostile.read_plain(kind, path, tmp_path)
            ends.append("read")
        except BadInput as error:
            said = str(error)
            assert "\n" not in said and "found" in said and "expected" in said
            assert len(said) < 1500
            ends.append("refused")

    read(parsed(kind, sample))
    assert ends == ["read"], "the sample itself"
    how = {"max_examples": examples, "deadline": None, "database": None, "derandomize": True}
    settings(**how)(given(changed(parsed(kind, sample)))(read))()
    print(f"{kind}: read {ends.count('read')}, refused {ends.count('refused')}")
    assert "refused" in ends or kind == "history"  # broken lines are left out of it
