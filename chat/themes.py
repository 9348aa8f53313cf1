"""The colours of the screen. Every text stands out from what is behind it: WCAG's 4.5 : 1, in `contrast` 7 : 1."""

from typing import NamedTuple


class Palette(NamedTuple):
    """Backgrounds are of the five parts of the screen; each is followed by what is written on it."""

    header: str
    header_text: str
    header_quiet: str
    side: str
    side_text: str
    side_quiet: str
    side_here: str  # the current channel's background
    side_here_text: str
    badge: str
    badge_text: str
    alarm: str  # a badge where somebody called this user
    alarm_text: str
    log: str
    log_text: str
    log_quiet: str
    log_error: str
    log_accent: str
    mention: str
    mention_text: str
    input: str
    input_text: str
    input_quiet: str
    status: str
    status_text: str
    status_warning: str
    names: tuple[str, ...]  # who writes, on the log

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each text with each background it is written on."""
        header = [(text, self.header) for text in (self.header_text, self.header_quiet)]
        side = [(text, self.side) for text in (self.side_text, self.side_quiet)]
        badges = [(self.side_here_text, self.side_here), (self.badge_text, self.badge), (self.alarm_text, self.alarm)]
        log = [(t, self.log) for t in (self.log_text, self.log_quiet, self.log_error, self.log_accent, *self.names)]
        rest = [(self.mention_text, self.mention), (self.input_text, self.input), (self.input_quiet, self.input)]
        status = [(text, self.status) for text in (self.status_text, self.status_warning)]
        return header + side + badges + log + rest + status


THEMES = {
    "peyk": Palette(
        *("#333333", "#ffffff", "#cfcfcf"),
        *("#666666", "#ffffff", "#e9e9e9"),
        *("#cccccc", "#111111"),
        *("#4a4a4a", "#ffffff"),
        *("#ffd75f", "#111111"),
        *("#cccccc", "#141414", "#4a4a4a", "#8a0f0f", "#0b3d91"),
        *("#f5e6a8", "#141414"),
        *("#999999", "#000000", "#2a2a2a"),
        *("#666666", "#ffffff", "#fff0b3"),
        ("#0b3d91", "#6a1b7a", "#7a2e00", "#00502f", "#8b0038", "#3b3b98", "#574000", "#004b57"),
    ),
    "dark": Palette(
        *("#101114", "#f2f2f4", "#a8abb5"),
        *("#1d1f25", "#e3e4e8", "#9da1ad"),
        *("#34384a", "#ffffff"),
        *("#3d4150", "#ffffff"),
        *("#f2b84b", "#141414"),
        *("#16171b", "#dfe1e6", "#8f94a1", "#ff8f85", "#8ab4ff"),
        *("#3a3320", "#fff3d1"),
        *("#26282f", "#f2f2f4", "#9da1ad"),
        *("#1d1f25", "#d5d7de", "#f2b84b"),
        ("#8ab4ff", "#d7a6ff", "#ffb48a", "#7fd6a4", "#ff9cc0", "#a9b1ff", "#e0c36b", "#6fd3e0"),
    ),
    "contrast": Palette(
        *("#000000", "#ffffff", "#ffffff"),
        *("#000000", "#ffffff", "#d0d0d0"),
        *("#ffffff", "#000000"),
        *("#ffffff", "#000000"),
        *("#ffff00", "#000000"),
        *("#000000", "#ffffff", "#d0d0d0", "#ffb0a8", "#ffff00"),
        *("#ffff00", "#000000"),
        *("#000000", "#ffffff", "#d0d0d0"),
        *("#ffffff", "#000000", "#7a0000"),
        ("#ffffff", "#00ffff", "#ffff00", "#7dff7d", "#ffb3ff", "#ffd08a"),
    ),
}
"""`peyk` has the colours of the specification: #333, #666, #999, #CCC, #666."""
