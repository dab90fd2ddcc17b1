"""The measuring process, with a short warm-up and few rounds. Started as a program."""

import sys

from headstart.deployment import measuring, timing

if __name__ == "__main__":
    timing.WARM_UP_S, timing.TURN_S, timing.MOST_S = 0.1, 0.02, 0.5
    measuring.main(*sys.argv[1:])
