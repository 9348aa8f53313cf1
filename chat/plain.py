"""Text that others wrote, made fit for a terminal: it moves no cursor, turns no line around, and has a known width.

Terminals disagree about how wide joined emoji are. So what joins or tints them is left out, and the parts are shown.
"""

import re
import unicodedata

from rich.cells import get_character_cell_size

MARKS = 6  # combining marks in a row that are shown: what languages need, not towers of them
CUT = 4000  # characters of a message that are shown
_JOINERS = "\u200c\u200d"
# Joiners that stand behind no letter, variation selectors, skin tones: terminals disagree about each.
_DISPUTED = re.compile(
    r"(?<![\w\u0300-\u036f\u0900-\u0dff\u064b-\u0670])[\u200c\u200d]|[\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]"
)


def harmless(text: str) -> str:
    """`text` without what could move the cursor, run the terminal or turn the line around; as long as it was."""
    return "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" or c in _JOINERS else " " for c in text)


def glyphs(text: str) -> str:
    """One harmless line of characters whose width every terminal knows."""
    if text.isascii():
        return harmless(text)
    safe, run = [], 0
    for c in _DISPUTED.sub("", harmless(text)):
        run = run + 1 if unicodedata.category(c) in ("Mn", "Me") else 0
        if run <= MARKS:
            safe.append(c)
    return "".join(safe)


def paragraphs(text: str) -> list[str]:
    """The lines of a message, each harmless; a very long message is cut."""
    cut = text[:CUT] + (f" … (+{len(text) - CUT})" if len(text) > CUT else "")
    return [glyphs(line) for line in cut.replace("\t", "    ").split("\n")]


def width(text: str) -> int:
    """Terminal cells that glyphs take."""
    return len(text) if text.isascii() else sum(map(get_character_cell_size, text))


def wrap(text: str, cells: int) -> list[str]:
    """`text` in lines of at most `cells` cells: broken at spaces, and inside words that are longer than a line."""
    cells, lines, line = max(1, cells), [], ""
    for word in re.findall(" +|[^ ]+", text):
        if width(line) + width(word) <= cells:
            line += word
            continue
        if line.strip(" "):
            lines.append(line.rstrip(" "))
        line = ""
        if word[0] != " ":  # a line neither ends nor begins with the spaces it is broken at
            while width(word) > cells:
                head = clip(word, cells) or word[0]
                lines.append(head)
                word = word[len(head) :]
            line = word
    return [*lines, line] if line or not lines else lines


def clip(text: str, cells: int) -> str:
    """As much from the beginning of `text` as fits into `cells`."""
    used = 0
    for i, c in enumerate(text):
        used += get_character_cell_size(c)
        if used > cells:
            return text[:i]
    return text


def fit(text: str, cells: int) -> str:
    """`text` in exactly `cells` cells: filled up with spaces, or cut short with an ellipsis."""
    if width(text) > cells:
        text = clip(text, max(cells - 1, 0)) + "…"[:cells]
    return text + " " * (cells - width(text))
