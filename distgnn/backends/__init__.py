"""The storage engines that come with distgnn, one module or package each.

Nobody imports them but the registry, by name: ``distgnn.use("memory")``.
"""
