"""The ranks of a job: start, rendezvous, authentication, collectives."""
