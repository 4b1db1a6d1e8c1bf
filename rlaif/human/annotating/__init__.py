"""The ranking page: what is shown to whom, what they choose, and the labels that come of it."""
