"""The needs of a full-graph run, before it runs.

* :mod:`~distgnn.plan.job`: the run, and what each rank has of the graph,
* :mod:`~distgnn.plan.traffic`: the bytes that a rank sends in a step,
* :mod:`~distgnn.plan.memory`: the memory of a rank, tensor by tensor,
* :mod:`~distgnn.plan.sample`: a small run of the same kind, which tells how fast this machine is,
* :mod:`~distgnn.plan.estimate`: all of it for a number of machines, and the smallest number that fits.
"""
