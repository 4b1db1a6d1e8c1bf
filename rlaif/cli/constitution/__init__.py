"""`rlaif constitution`: a command is a file of its own."""

# The order of the help page.
from rlaif.cli.constitution import (  # noqa: F401
    apply,
    coverage,
    diff,
    exchange,
    executors,
    induce,
    lint,
    open,
    schema,
    test,
    try_,
)
