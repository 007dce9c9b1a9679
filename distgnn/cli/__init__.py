"""The ``distgnn`` command: one module a subcommand, put together in :mod:`distgnn.cli.app`."""
