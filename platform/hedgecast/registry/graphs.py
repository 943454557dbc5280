"""Names of a bundle's files for those who do not open it: the manifest, and the graphs that draw."""

from __future__ import annotations

MANIFEST = "bundle.json"
"""A folder that has it is a bundle."""
SCENARIOS_GRAPH = "scenarios.onnx"
"""Context and noise to scenarios."""
BASELINE_GRAPH = "baseline.onnx"
"""The same without the network."""
DENOISER_GRAPH = "denoiser.onnx"
"""One step of the denoiser."""


def student_graph(digest: str) -> str:
    """The file beside a bundle that holds a student's scenario graph.

    Parameters
    ----------
    digest : str
        Hexadecimal SHA-256 of its content: graphs of two students are two files.
    """
    return f"student-{digest[:16]}.onnx"
