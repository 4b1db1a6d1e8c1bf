"""Reinforcement learning on plain tensors: numerics, the decode loop, and PPO itself; no files, no config folders."""
