"""What a store is, and what one is built from."""
