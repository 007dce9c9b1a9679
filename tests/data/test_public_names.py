from __future__ import annotations

import distgnn.data


def test_the_public_names_are_exactly_these() -> None:
    assert distgnn.data.__all__ == [
        "DataWarning",
        "LoadedDataset",
        "generate_graph",
        "load_custom_graph",
        "load_dataset",
    ]
    assert all(hasattr(distgnn.data, name) for name in distgnn.data.__all__)
