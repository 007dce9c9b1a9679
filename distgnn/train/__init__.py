"""Training runs: what ``distgnn train`` and the example script do, callable from Python.

* :mod:`distgnn.train.config`: the options of a run,
* :mod:`distgnn.train.source`: what it trains on, in the form that its mode needs,
* :mod:`distgnn.train.tasks`: what is learned, and how it is measured,
* :mod:`distgnn.train.trial`: one model trained on one split,
* :mod:`distgnn.train.run`: a whole run of one or many trials,
* :mod:`distgnn.checkpoint`: saving and loading all that a job needs to go on,
* :mod:`distgnn.report.folder`: what a run leaves behind: metrics, curve, table,
* :mod:`distgnn.train.trained`: the models that it leaves; :func:`load_run` brings one back.
"""

from typing import TYPE_CHECKING

from distgnn._lazy import lazy_names

if TYPE_CHECKING:
    from distgnn.train.trained import load_run

__all__ = ["load_run"]


# The command line reads its defaults from this package, without torch.
__getattr__ = lazy_names(__name__, {"trained": __all__})
