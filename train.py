"""`python train.py DATA --output RUN`: the classic entry, the same as `captionkit train`."""

import sys

from captionkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
