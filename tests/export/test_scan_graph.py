"""The committed graphs are those that their script builds."""

import pytest
from airrep_export.scan_graph import BUILDERS


@pytest.mark.parametrize("file", BUILDERS, ids=lambda file: file.name)
def test_the_committed_graph_is_what_the_script_builds(file):
    assert file.read_bytes() == BUILDERS[file](), "run python -m airrep_export.scan_graph"
