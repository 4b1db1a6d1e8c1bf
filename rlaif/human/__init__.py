"""Feedback from people: importing it from other formats, rankings and labels files, simulated annotators."""
