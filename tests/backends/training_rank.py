"""What ``distgnn`` does as a rank: run as ``python training_rank.py train OPTIONS``."""

from distgnn.cli.app import main

if __name__ == "__main__":
    main()
