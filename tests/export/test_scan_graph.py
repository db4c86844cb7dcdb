"""The committed graphs are those that their script builds, and these are the formulas."""

import numpy as np
import onnx
import onnxruntime
import pytest
from airrep_export.scan_graph import BUILDERS, build_product_graph, build_scan_graph


@pytest.mark.parametrize("file", BUILDERS, ids=lambda file: file.name)
def test_the_committed_graph_is_what_the_script_builds(file):
    """Compared as messages: how another release of protobuf or onnx lays out the bytes does not matter."""
    committed, built = onnx.load(file), onnx.load_from_string(BUILDERS[file]())
    assert committed.graph == built.graph, "run python -m airrep_export.scan_graph"
    assert (committed.ir_version, committed.opset_import) == (built.ir_version, built.opset_import)


def run(graph, **inputs):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_the_scan_graph_is_scores_both_ends_and_the_sums_of_pooling():
    rng = np.random.default_rng(0)
    queries, block = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    beta = np.float32(0.7)
    found = run(build_scan_graph(), queries=queries, block=block, k=np.array([4]), beta=np.array(beta))
    scores = queries.astype(np.float64) @ block.T
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    np.testing.assert_array_equal(found["high_rows"], np.argsort(-scores, axis=1)[:, :4])
    np.testing.assert_array_equal(found["low_rows"], np.argsort(scores, axis=1)[:, :4])
    np.testing.assert_allclose(found["low_scores"], np.sort(scores, axis=1)[:, :4], atol=1e-5)
    top = np.abs(scores).max(axis=1)
    weights = np.exp(beta * (np.abs(scores) - top[:, None]))
    np.testing.assert_allclose(found["top"], top, rtol=1e-5)
    np.testing.assert_allclose(found["weight"], weights.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["weighted"], (weights * scores).sum(axis=1), rtol=1e-4, atol=1e-4)


def test_the_product_graph_is_the_product():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
    np.testing.assert_allclose(
        run(build_product_graph(), rows=rows, columns=columns)["out"], rows @ columns, atol=1e-5
    )
