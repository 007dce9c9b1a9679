"""``python -m distgnn`` is the ``distgnn`` command."""

from distgnn.cli.app import main

main()
