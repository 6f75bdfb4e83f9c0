"""`python -m nanolab`, see cli.py."""

import sys

from nanolab.cli import main

sys.exit(main())
