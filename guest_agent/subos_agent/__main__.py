"""`python -m subos_agent` is `subos-agent`."""

import sys

from subos_agent.cli import main

sys.exit(main())
