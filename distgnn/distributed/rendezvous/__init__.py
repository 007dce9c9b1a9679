"""Where the ranks of a job meet: what a launcher says, addresses, and who may come in."""
