"""Files of a user: tables of nodes, edges, features and labels."""
