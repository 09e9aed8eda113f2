"""`fml` and `python -m fml_lightning`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the heavy imports wait until it is called."""
    from fml_lightning.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
