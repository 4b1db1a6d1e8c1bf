"""PPO: its formulas, its decode loop, the algorithm, and its checkpoints; knows nothing of runs and
stages."""
