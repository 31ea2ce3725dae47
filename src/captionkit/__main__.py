"""`python -m captionkit`: the command line."""

import sys

from captionkit.cli import main

sys.exit(main())
