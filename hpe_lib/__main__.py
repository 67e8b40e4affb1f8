"""python -m hpe_lib: the command `hpe`, as torchrun needs it (torchrun … -m hpe_lib train …)."""

from hpe_lib.cli import main

if __name__ == "__main__":
    main()
