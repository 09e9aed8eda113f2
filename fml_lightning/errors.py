"""The exception for what a user can mend, shown as one sentence; and the one for what time will mend."""


class UserError(ValueError):
    """Input that cannot work. Its message says where, what was expected, what came, and what to do."""


class NotYetError(UserError):
    """A site whose data grow has too few windows yet; it is worth asking again."""
