"""The one exception for what a user can mend; the command line shows it as one sentence."""


class UserError(ValueError):
    """Input that cannot work. Its message says where, what was expected, what came, and what to do."""
