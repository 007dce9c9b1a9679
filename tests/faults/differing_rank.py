"""A rank with options of its own: run as ``python differing_rank.py OPTIONS``, a JSON list of command lines by rank."""

from __future__ import annotations

import json
import os
import sys

import torch

import distgnn
from distgnn.cli.app import main
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdam

mine = json.loads(sys.argv[1])[int(os.environ["RANK"])]
if mine[0] == "script":
    with distgnn.use(mine[1], timeout=20):
        table = StoredEmbedding(10, 4, name="words")
        optimizer = SparseAdam(table, lr=float(mine[2]))
        table(torch.arange(3)).sum().backward()
        optimizer.step()
else:
    sys.argv[1:] = mine
    main()
