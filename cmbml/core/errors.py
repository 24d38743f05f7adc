"""The one exception that is shown to users without a traceback."""


class UserError(Exception):
    """A mistake of the user: one or two sentences saying what is wrong, where, and what to do."""
