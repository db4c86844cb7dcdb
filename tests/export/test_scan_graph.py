"""The committed scan graph is the one that its script builds."""

from airrep_export.scan_graph import FILE, build_scan_graph


def test_the_committed_graph_is_what_the_script_builds():
    assert FILE.read_bytes() == build_scan_graph(), "run python -m airrep_export.scan_graph"
