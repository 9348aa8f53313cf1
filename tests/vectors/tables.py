"""What the page must know of Unicode that no browser tells it: the code points that were no characters yet in the
Unicode of our Python. Whatever a newer browser knows of them, they fold to themselves on the page as on the server.

    python -m tests.vectors.tables     # prints the line for chat/web/names.js
"""

import sys
import unicodedata

from chat.models import UNSEEN

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def unassigned() -> str:
    """Ranges of unassigned code points, each as two numbers of base 36: how far behind the last, and how long."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) != "Cn":
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    written, last = [], 0
    for first, end in ranges:
        written.append(f"{_base36(first - last)},{_base36(end - first)}")
        last = end
    return " ".join(written)


def unseen() -> str:
    """The class of what is not seen, as JavaScript writes it."""
    return "".join(c if c == "-" else f"\\u{{{ord(c):x}}}" for c in UNSEEN)


def _base36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _ALPHABET[digit] + digits
    return digits


if __name__ == "__main__":
    print(f'const UNASSIGNED =\n  "{unassigned()}";')
    print(f"const UNSEEN = String.raw`{unseen()}`;")
