from __future__ import annotations

from typing import Any

import pytest

from distgnn import BackendOptionError, ConfigError
from distgnn.train.config import TrainConfig


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"task": "edge"}, "task must be one of graph, node, link, node-regression, not 'edge'"),
        ({"eval_every": 0}, "eval_every must be at least 1"),
        ({"mode": "full", "batch_size": 10}, "all nodes in one batch: leave out batch_size, or use mode='sampled'"),
        ({"mode": "full", "num_neighbors": "9,9,9"}, "num_neighbors only go with mode='sampled', not 'full'"),
        ({"mode": "full", "staleness": -1}, "staleness is a number of steps, at least 0, not -1"),
        ({"mode": "sampled", "staleness": 2}, "staleness only goes with mode='full' or mode='history', not 'sampled'"),
        ({"mode": "history", "task": "link"}, "mode='history' is for labels of nodes, not task='link'"),
        (
            {"checkpoint_every": "5 weeks"},
            "number of epochs, steps or minutes above 0, such as 5, 200steps or 10min, not",
        ),
        ({"checkpoint_every": "1.5steps"}, "not '1.5steps'"),
        ({"checkpoint_every": 0}, "above 0, such as 5, 200steps or 10min, not 0"),
        ({"num_neighbors": "10,10", "num_layers": 3}, "has 2 numbers, and the model 3 layers: give one number a layer"),
        ({"num_neighbors": "10,x,1"}, "whole numbers joined by commas, such as 10,10, not '10,x,1'"),
        ({"num_neighbors": "10,0,1"}, "at least 1, or -1 for all, in each layer"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1"),
        ({"lr": -0.1}, "lr must be finite and at least 0"),
        ({"sparse_lr": float("nan")}, "sparse_lr must be finite"),
        ({"weight_decay": float("inf")}, "weight_decay must be finite"),
        ({"timeout": 0.0}, "timeout must be finite and above 0, not 0.0"),
        ({"timeout": 5.0, "option": ["timeout=6"]}, "timeout is 5.0 and in option 6: give it once"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"folds": 1}, r"folds must be 0 \(split once\) or at least 2"),
        ({"folds": 10, "runs": 2}, "do not go together"),
        ({"model": "gcn"}, "model must be one of gin, gine, sage, not 'gcn'"),
        ({"norm": "batch"}, "norm must be one of none, batch_norm, layer_norm"),
        ({"sparse_optimizer": "lamb"}, "sparse_optimizer must be one of sgd, adagrad"),
        ({"use_dist_edge_embedding": True}, "needs model='gine'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_can(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**options)


def test_the_defaults_can_be() -> None:
    assert TrainConfig().as_dict()["dataset"] == "MUTAG"


def test_what_is_usual_depends_on_the_task_and_gives_way_to_what_is_said() -> None:
    usual = {task: TrainConfig().for_task(task) for task in ("graph", "node", "link")}
    assert [(config.num_layers, config.lr, config.norm) for config in usual.values()] == [
        (3, 0.01, "batch_norm"),
        (2, 0.003, "none"),
        (2, 0.003, "none"),
    ]
    assert TrainConfig(num_layers=4, lr=0.5).for_task("node") == TrainConfig(
        num_layers=4, lr=0.5, sparse_lr=0.01, weight_decay=5e-4, norm="none"
    )
    assert TrainConfig(num_neighbors="5,4,3").for_task("node").num_layers == 3


def test_options_of_the_backend_are_read_as_python_writes_them() -> None:
    config = TrainConfig(timeout=5.0, option=["share_memory=False", "device=cuda:0", "names=(1, 2)"])
    assert config.backend_options == {"share_memory": False, "device": "cuda:0", "names": (1, 2), "timeout": 5.0}
    with pytest.raises(BackendOptionError, match="--option 'device' has no value; write it as NAME=VALUE"):
        TrainConfig(option=["device"])
