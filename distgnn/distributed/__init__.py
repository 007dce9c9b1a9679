"""The ranks of a job: how they are started, meet, prove who they are, and work together."""
