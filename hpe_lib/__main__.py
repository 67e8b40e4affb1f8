"""python -m hpe_lib: the command `hpe`, as torchrun needs it (torchrun … -m hpe_lib train …)."""

import sys


def main() -> None:
    """Run the command. Ctrl-C is one line while it is still being imported, too."""
    try:
        from hpe_lib import cli
    except KeyboardInterrupt:
        print("hpe: interrupted", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
