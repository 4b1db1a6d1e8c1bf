"""Reading runs: the summary, the report, and runs side by side."""
