"""What raters are asked. Imports nothing, so that a server starts at once."""

REAL_OR_GENERATED, SAME_PERSON = "real-or-generated", "same-person"
TASKS = (REAL_OR_GENERATED, SAME_PERSON)

# Task -> answers that a page may send. "left" and "right" are turned into "first" and "second" by the store.
CHOICES = {REAL_OR_GENERATED: ("left", "right"), SAME_PERSON: ("same", "different")}
