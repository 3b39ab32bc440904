"""Errors that a caller may want to catch. Imports nothing, so that the command line can answer at once."""


class GanaugError(Exception):
    """Base of the errors that a caller may want to catch; the message says what was got, expected and what to do."""


class CacheError(GanaugError):
    """A latent cache cannot be opened, read or written."""


class CheckpointError(GanaugError):
    """A weight file cannot be opened, or is not what it was taken for."""


class ImageError(GanaugError):
    """An image file cannot be turned into a face image."""


class UserInputError(GanaugError, ValueError):
    """An argument is outside what is allowed."""
