"""`python -m rl4nlu` is `rl4nlu`."""

import sys

from .cli import main

sys.exit(main())
