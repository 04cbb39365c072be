"""`python -m multilingual_diffusion` is the `multilingual-diffusion` command."""

import sys

from .pipeline_core.cli import main

sys.exit(main())
