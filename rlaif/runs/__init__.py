"""What a run is: its folder and rows, storage, seeds, spending, signals and processes."""
