"""The demo: a corpus that the project owns, and the plan of the label run on it; not installed."""
