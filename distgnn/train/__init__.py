"""Training runs: what ``distgnn train`` and the example script do, callable from Python.

* :mod:`distgnn.train.config`: the options of a run,
* :mod:`distgnn.train.source`: what it trains on, in the form that its mode needs,
* :mod:`distgnn.train.tasks`: what is learned, and how it is measured,
* :mod:`distgnn.train.trial`: one model trained on one split,
* :mod:`distgnn.train.run`: a whole run of one or many trials,
* :mod:`distgnn.train.checkpoint`: saving and loading all that a job needs to go on,
* :mod:`distgnn.train.report`: what a run leaves behind: metrics, curve, table.
"""
