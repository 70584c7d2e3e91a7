"""Defines the two errors that end a command with a message: mistakes of the user, and rows that a stage lost."""


class UserError(Exception):
    """A mistake the user can mend. The message says what was wrong, where, and what to do; exit code 1."""


class AccountingError(Exception):
    """A stage lost or invented rows: rows in differ from rows out plus rows dropped. A bug of the tool; exit code 2."""
