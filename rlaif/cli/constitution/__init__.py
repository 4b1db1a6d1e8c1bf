"""`rlaif constitution`: a command is a file of its own."""

# The order of the help page.
from rlaif.cli.constitution import (  # noqa: F401, I001
    lint,
    test,
    try_,
    open,
    diff,
    apply,
    coverage,
    executors,
    induce,
    exchange,
    schema,
)
