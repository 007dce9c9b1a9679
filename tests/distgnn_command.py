"""What ``python -m distgnn`` does: run as ``python distgnn_command.py train OPTIONS``."""

from distgnn.cli.app import main

if __name__ == "__main__":
    main()
