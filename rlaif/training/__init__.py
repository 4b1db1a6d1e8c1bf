"""trl's trainers, pairs, groups, sources of reward, sampling, monitoring and tracking."""
