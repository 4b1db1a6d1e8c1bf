"""The stages, one file each: `run(stage)` reads what earlier stages left in the run folder and leaves its
own."""
