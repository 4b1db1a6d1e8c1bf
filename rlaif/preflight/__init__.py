"""Before anything runs: checks, opening a run folder, and what a run will cost."""
