"""The command line, the recipes and the stages: the only place that knows both halves of the toolkit.

Importing it makes one line of a Ctrl-C that comes while libraries are imported, which no command can catch.
"""

import sys
from types import TracebackType

STOPPED = "stopped; run the same command again to go on"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _uncaught
