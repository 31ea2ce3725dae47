"""`python -m captionkit`: the command line."""

import sys

from captionkit.cli.main import main

sys.exit(main())
