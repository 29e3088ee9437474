"""Runs the command line as `python -m vaefast`."""

import sys

from .cli import main

sys.exit(main())
