"""What raters are told before the first picture."""

from pathlib import Path

from ganaug.errors import UserInputError

DEFAULT_CONSENT = """\
You are invited to look at pictures of faces and to answer a short question about each pair. Some pictures are photos
of real people, others were made by a computer.

There are {total} pairs, which takes about {minutes} minutes. You can stop at any time and go on later with the same
link.

For each pair, your answer and the time that you took are stored, under a number and without your name. They are kept
on the computer that shows you this page, for the person who sent you the link; nothing is sent anywhere else.

Taking part is voluntary. You can withdraw at any time, also after the last pair, with the button at the bottom of the
page: your answers are then erased.

The photos show real people. Please do not copy, photograph or pass on what you see."""

_SECONDS_PER_TRIAL = 5.0  # what a pair takes at leisure; only tells raters what to expect
MAX_CHARACTERS = 20_000  # of a text of the user's own


def consent_text(path: str | Path | None, num_trials: int) -> str:
    """The text that a rater must accept: paragraphs, parted by empty lines.

    Args:
        path: A file with a text of the user's own, UTF-8; None for the default.
        num_trials: Which the default mentions.

    Raises:
        UserInputError: For a file that cannot be read, is empty, or is far too long.
    """
    if path is None:
        minutes = max(round(num_trials * _SECONDS_PER_TRIAL / 60), 1)
        return DEFAULT_CONSENT.format(total=num_trials, minutes=minutes)
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"--consent {path}: cannot be read as UTF-8 text: {error}") from error
    if not text or len(text) > MAX_CHARACTERS:
        raise UserInputError(f"--consent {path}: expected a text of 1 to {MAX_CHARACTERS} characters, got {len(text)}")
    return text
