"""The command line, the recipes and the stages: the only place that knows both halves of the toolkit.

Importing this package makes a Ctrl-C one line even while libraries are imported, before any command could catch it.
"""

import sys
from types import TracebackType

STOPPED = "stopped; run the same command again to go on"


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_uncaught
