"""What a person can mend is told in one line."""


class Unusable(Exception):
    """Something that was given cannot be used; the message says what and what to do. Commands end with exit code 2."""
