"""Rendezvous: launchers, addresses, ports, cluster files and authentication."""
