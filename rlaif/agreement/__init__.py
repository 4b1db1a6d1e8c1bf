"""Statistics of several annotators on the same pairs: agreement, standing in for people, few labels with many
predictions, and what a sample can decide. Pure functions of numbers."""
