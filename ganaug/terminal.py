"""Text of others on a terminal. Imports nothing, so that the command line can answer at once."""


def printable(text: str) -> str:
    """Text on one line in which nothing commands a terminal; what cannot be printed is written as in Python's source.

    Names of photos and the text in a picture may hold anything: another colour, a line that was never said, bytes that
    are no text.

    Example:
        >>> printable("a\\x1b[31mb") == "a" + chr(92) + "x1b[31mb"
        True
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
