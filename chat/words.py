"""What the terminal says, in English and Persian, and how it writes numbers, times and days."""

import calendar
import os
from collections.abc import Mapping
from datetime import date, datetime

from chat.errors import BadRequest, PeykError

LANGUAGES = ("en", "fa")
_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
_MONTHS = {
    "en": [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    "fa": ["فروردین", "اردیبهشت", "خرداد", "تیر", "مرداد", "شهریور", "مهر", "آبان", "آذر", "دی", "بهمن", "اسفند"],
}
_WEEKDAYS = {
    "en": calendar.day_name[:],
    "fa": ["دوشنبه", "سه‌شنبه", "چهارشنبه", "پنجشنبه", "جمعه", "شنبه", "یکشنبه"],
}
_EN = {
    "name": "Peyk",
    "write": "write a message…",
    "channels": "Channels",
    "private": "Private",
    "others": "Other channels",
    "welcome": "Welcome. /join a channel, or /help.",
    "no_channel": "no channel",
    "subscribed": "subscribed: yes",
    "not_subscribed": "subscribed: no",
    "connected": "connected",
    "connecting": "reconnecting…",
    "refused": "disconnected",
    "unread": "{n} unread",
    "all_read": "all read",
    "loading": "loading…",
    "below": "↓ {n} below · End",
    "today": "Today",
    "yesterday": "Yesterday",
    "new": "new",
    "one_missed": "1 message missed here",
    "missed": "{n} messages missed here",
    "beginning": "the channel begins here",
    "forgotten": "older messages are no longer kept",
    "sending": "sending",
    "waiting": "not sent yet; it goes as soon as the connection is back",
    "failed": "not sent: {reason} · Ctrl+R tries again, Ctrl+X drops it",
    "late": "the connection was away for long; look whether it is here already",
    "joined": "joined {channel}",
    "left": "left {channel}",
    "gone": "{channel}: {reason}",
    "remake": "{channel}: {reason}; /join {channel} to make it anew",
    "anew": "{channel} began anew; some of what was here is gone",
    "renamed": "you are {name} now",
    "topic": "{channel}: {topic}",
    "no_topic": "{channel} has no topic; /topic <text> sets one",
    "who": "{n} here: {names}",
    "found": "{n} found for “{text}”",
    "none_found": "nothing found for “{text}” in the last {n} messages",
    "nothing_failed": "there is nothing to send again",
    "leave_hint": "Ctrl+C once more, /quit or Ctrl+D to leave",
    "in_already": "you are in {name} already",
    "be_in": "you are in no channel; /join <channel> first",
    "which": "{usage}: what is missing? See /help",
    "no_command": "there is no command {word}; there are {commands}",
    "not_done": "Redis did not do this, try again: {reason}",
    "away": "the connection is away; try again when it is back",
    "name_rule": "a channel name has 1 to 64 letters, digits, marks, '_', '-' or '.', not starting with a dot; "
    "no spaces and no invisible characters: /join my-channel",
    "themes": "themes: {names}",
    "keys": "Enter sends · Ctrl+J or Shift+Enter: new line · Tab completes · ↑ ↓ what you wrote · PgUp PgDn scroll · "
    "Alt+↑ Alt+↓ or a click: channels · Alt+a: next unread",
    "help_join": "create a channel if need be, and join it",
    "help_leave": "leave this channel",
    "help_channels": "all channels: » here, + joined",
    "help_send": "send a text; plain text does the same",
    "help_quit": "leave the terminal",
    "help_help": "this",
    "help_who": "who is here now",
    "help_history": "show older messages",
    "help_topic": "show what this channel is about, or say it",
    "help_me": "say what you do: * sara waves",
    "help_search": "find a text in this channel",
    "help_name": "go on under another name",
    "help_msg": "write to one person alone",
    "help_decline": "not to talk to who asked",
    "asks": "{name} wants to talk to you: /msg {name} accepts, /decline {name} does not",
    "declined": "{name} does not talk to you alone",
    "help_theme": "colours: peyk, dark, contrast",
}
_FA = {
    "name": "پیک",
    "write": "پیامی بنویسید…",
    "channels": "کانال‌ها",
    "private": "خصوصی",
    "others": "کانال‌های دیگر",
    "welcome": "خوش آمدید. پیوستن به کانال: /join، راهنما: /help",
    "no_channel": "بدون کانال",
    "subscribed": "عضو: بله",
    "not_subscribed": "عضو: نه",
    "connected": "متصل",
    "connecting": "در حال اتصال دوباره…",
    "refused": "قطع",
    "unread": "نخوانده: {n}",
    "all_read": "همه خوانده شده",
    "loading": "در حال بارگذاری…",
    "below": "↓ پایین‌تر: {n} پیام · End",
    "today": "امروز",
    "yesterday": "دیروز",
    "new": "تازه",
    "one_missed": "اینجا از دست رفته: ۱ پیام",
    "missed": "اینجا از دست رفته: {n} پیام",
    "beginning": "آغاز کانال",
    "forgotten": "پیام‌های قدیمی‌تر دیگر نگهداری نمی‌شوند",
    "sending": "در حال فرستادن",
    "waiting": "هنوز نرفته؛ با بازگشت ارتباط فرستاده می‌شود",
    "failed": "فرستاده نشد: {reason} · دوباره: Ctrl+R، رها کردن: Ctrl+X",
    "late": "ارتباط مدتی دراز قطع بود؛ نگاه کنید که پیام‌تان اینجا نباشد",
    "joined": "به {channel} پیوستید",
    "left": "{channel} را ترک کردید",
    "gone": "{channel}: {reason}",
    "remake": "{channel}: {reason}؛ برای ساختن دوباره: /join {channel}",
    "anew": "{channel} از نو آغاز شد و بخشی از آنچه اینجا بود دیگر نیست",
    "renamed": "اکنون نام شما {name} است",
    "topic": "{channel}: {topic}",
    "no_topic": "برای {channel} موضوعی ننوشته‌اند؛ با /topic بنویسید",
    "who": "اینجا {n} نفر هستند: {names}",
    "found": "پیدا شد: {n} پیام برای «{text}»",
    "none_found": "در {n} پیام آخر چیزی برای «{text}» پیدا نشد",
    "nothing_failed": "پیامی برای فرستادن دوباره نیست",
    "leave_hint": "برای خروج یک بار دیگر Ctrl+C، یا /quit یا Ctrl+D",
    "in_already": "اکنون در {name} هستید",
    "be_in": "در هیچ کانالی نیستید؛ نخست با /join به کانالی بپیوندید",
    "which": "{usage}: چیزی کم است؛ /help را ببینید",
    "no_command": "دستور {word} وجود ندارد؛ دستورها: {commands}",
    "not_done": "Redis این کار را نکرد، دوباره بکوشید: {reason}",
    "away": "ارتباط قطع است؛ پس از بازگشت آن دوباره بکوشید",
    "name_rule": "نام کانال ۱ تا ۶۴ حرف، رقم، «_»، «-» یا «.» دارد، بی‌فاصله و بی‌نویسهٔ ناپیدا، و با نقطه آغاز نمی‌شود",
    "themes": "پوسته‌ها: {names}",
    "keys": "Enter فرستادن · Ctrl+J یا Shift+Enter خط تازه · Tab کامل کردن · ↑ ↓ نوشته‌های پیشین · PgUp PgDn پیمایش · "
    "Alt+↑ Alt+↓ یا کلیک: کانال‌ها · Alt+a: نخواندهٔ بعدی",
    "help_join": "پیوستن به کانال؛ اگر نباشد ساخته می‌شود",
    "help_leave": "ترک این کانال",
    "help_channels": "همهٔ کانال‌ها: » اینجا، + پیوسته",
    "help_send": "فرستادن متن؛ نوشتن متن ساده هم همین است",
    "help_quit": "خروج",
    "help_help": "همین راهنما",
    "help_who": "چه کسانی اینجا هستند",
    "help_history": "نمایش پیام‌های قدیمی‌تر",
    "help_topic": "دیدن یا نوشتن موضوع کانال",
    "help_me": "گفتن کاری که می‌کنید: * سارا دست تکان می‌دهد",
    "help_search": "جست‌وجو در این کانال",
    "help_name": "ادامه با نامی دیگر",
    "help_msg": "پیام خصوصی به یک نفر",
    "help_decline": "نپذیرفتن گفت‌وگوی دو نفره",
    "asks": "{name} می‌خواهد با شما گفت‌وگو کند؛ پذیرفتن: /msg {name}، نپذیرفتن: /decline {name}",
    "declined": "گفت‌وگوی دو نفره با {name} پذیرفته نشد",
    "help_theme": "رنگ‌ها: peyk، dark، contrast",
}
WORDS = {"en": _EN, "fa": _FA}
ERRORS = {  # by the codes of errors and, from 2000 on, of a subscription's end; in English they explain themselves
    100: "سرور نتوانست؛ کمی بعد دوباره امتحان کنید",
    101: "نخست باید وارد شوید",
    102: "چنین کانالی نیست",
    103: "اجازهٔ این کار را ندارید",
    104: "چنین کاری شدنی نیست",
    105: "پیش‌تر گرفته شده است",
    106: "به سقف مجاز رسیده‌اید",
    107: "پذیرفتنی نیست",
    108: "اینجا فراهم نیست",
    109: "نشست شما پایان یافت؛ دوباره وارد شوید",
    111: "بیش از اندازه تند؛ کمی صبر کنید",
    112: "دیگر نگهداری نمی‌شود",
    2000: "کانال پاک شد",
    2001: "اجازهٔ این کار را ندارید",
    2002: "شما را از اینجا بیرون کرده‌اند",
}


class Told(BadRequest):
    """What somebody did wrong, said in their language already."""


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """The language the environment asks for, as POSIX orders it; English where that is none of ours."""
    asked = next(filter(None, map(environment.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return asked[:2] if asked[:2] in LANGUAGES else "en"


class Words:
    """Says things in one language."""

    def __init__(self, language: str = "en") -> None:
        self.language = language
        self._words = WORDS[language]

    def __call__(self, key: str, **values: object) -> str:
        """What the terminal says for `key`; numbers among the values are written the language's way."""
        shown = {name: self.number(value) if isinstance(value, int) else value for name, value in values.items()}
        return self._words[key].format(**shown)

    def error(self, error: Exception) -> str:
        """What went wrong, and the remedy."""
        if isinstance(error, Told):
            return str(error)
        if isinstance(error, PeykError):
            return self.reason(error.code, str(error))
        return self("not_done", reason=error)

    def reason(self, code: int, said: str) -> str:
        """What was said in English; in Persian behind what kind of error it is."""
        return f"{ERRORS[code]}: {said}" if self.language == "fa" and code in ERRORS else said

    def number(self, value: int) -> str:
        text = f"{value:,}"
        return text.translate(_DIGITS).replace(",", "٬") if self.language == "fa" else text

    def clock(self, ms: int) -> str:
        """`10:00`, in local time; dashes where the time is unknown."""
        try:
            text = datetime.fromtimestamp(ms / 1000).strftime("%H:%M") if ms else "--:--"
        except (ValueError, OverflowError, OSError):
            text = "--:--"
        return text.translate(_DIGITS) if self.language == "fa" else text

    def day(self, day: date, today: date) -> str:
        """A day as one says it: today, yesterday, or its date; in Persian by the Solar Hijri calendar."""
        if (today - day).days in (0, 1):
            return self("today" if day == today else "yesterday")
        year, month, number = (day.year, day.month, day.day) if self.language == "en" else solar_hijri(day)
        now = today.year if self.language == "en" else solar_hijri(today)[0]
        parts = [_WEEKDAYS[self.language][day.weekday()], str(number), _MONTHS[self.language][month - 1]]
        text = " ".join(parts if year == now else [*parts, str(year)])
        return text.translate(_DIGITS) if self.language == "fa" else text


def solar_hijri(day: date) -> tuple[int, int, int]:
    """Year, month and day in the Iranian calendar, by its cycle of 33 years: 12,053 days, of which 8 years are leap."""
    cycles, days = divmod(day.toordinal() + 356032, 12053)
    year = 33 * cycles - 1595
    cycles, days = divmod(days, 1461)
    year += 4 * cycles
    if days > 365:
        year, days = year + (days - 1) // 365, (days - 1) % 365
    if days < 186:
        return year, 1 + days // 31, 1 + days % 31
    return year, 7 + (days - 186) // 30, 1 + (days - 186) % 30
