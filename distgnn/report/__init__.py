"""The folder of a run: records, figures, pages and events."""
