"""Text for people, on a terminal or in a message."""


def clean(text: str) -> str:
    """Text from a file, safe for a terminal and on one line: what does not print is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
