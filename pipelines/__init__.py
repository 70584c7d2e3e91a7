"""The command line, the recipes and the stages: the only place that knows both halves of the toolkit.

Importing this package also installs a hook that reports Ctrl-C in one line while libraries are still being imported,
when no command can catch it yet.
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
