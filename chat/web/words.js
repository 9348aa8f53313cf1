// What the page says, in English and Persian, and how it writes numbers, times and days.

const isolated = (name) => `\u2068${name}\u2069`; // a name keeps its own direction inside a sentence

const WORDS = {
  en: {
    language: "فارسی",
    tagline: "Chat that keeps its place",
    askName: "What should others call you?",
    nameRule: "1 to 64 letters or digits, also _ - and . but no spaces, nothing invisible, and no dot first",
    enter: "Start chatting",
    name: "Name",
    password: "Password",
    signIn: "Sign in",
    register: "Register",
    signOut: "Sign out",
    withAccount: "Sign in or register",
    asGuest: "Go on as a guest",
    passwordRule: "A password has 8 to 256 characters",
    wrongPassword: "Name or password is wrong",
    nameTaken: "This name is taken: choose another, or sign in",
    hasAccount: "This name has an account: sign in, or take another name",
    tooOften: "Too many attempts: try again in a minute",
    registrationClosed: "Nobody registers here: ask the operator for an account",
    signedOut: "You were signed out: sign in again",
    away: "The server does not answer: try again in a moment",
    channels: "Channels",
    others: "Other channels",
    newChannel: "Join or create a channel",
    channelName: "Channel name",
    channelDescription: "What is it about? (optional)",
    create: "Join or create",
    cancel: "Cancel",
    more: (n) => `and ${n} more: join one by its name`,
    noChannels: "No channels yet. Make the first.",
    choose: "Choose a channel, or make a new one.",
    back: "All channels",
    leave: "Leave channel",
    changeName: "Change name",
    unread: (n, name) => `${name}, ${n} unread`,
    mentions: (n, name) => `${name}, ${n} unread, you are mentioned`,
    topic: "Topic",
    addTopic: "Add a topic",
    write: "Write a message…",
    send: "Send",
    joining: "Catching up…",
    empty: "Nothing here yet. Say hello.",
    earlier: "Earlier messages",
    beginning: "The channel begins here",
    forgotten: "Older messages are no longer kept",
    gap: (n) => (n === "1" ? "1 message here is no longer kept" : `${n} messages here are no longer kept`),
    newLine: "New",
    newMessages: (n) => (n === "1" ? "1 new message" : `${n} new messages`),
    newest: "Newest messages",
    sending: "Sending…",
    failed: "Not sent",
    retry: "Try again",
    edit: "Edit",
    discard: "Discard",
    uncertain: "it may have been sent long ago: look whether it is here",
    members: "Members",
    here: (n) => `Here now · ${n}`,
    notHere: (n) => `Away · ${n}`,
    mention: (n, name) => `Mention ${name}`,
    andMore: (n) => `and ${n} more`,
    wantsToTalk: (n, name) => `${isolated(name)} wants to talk to you`,
    accept: "Accept",
    decline: "Decline",
    you: "you",
    close: "Close",
    search: "Search this channel",
    searching: (n) => `Searching… ${n} messages`,
    found: (n, all) => `${n} found in the latest ${all} messages`,
    foundMany: (n, all) => `The latest ${n}, of the latest ${all} messages`,
    said: (n, name) => `${isolated(name)} says: `,
    typing: (n, names) => `${names} ${n === "1" ? "is" : "are"} typing…`,
    manyTyping: "Several people are typing…",
    connecting: "Connecting…",
    waiting: "Connection lost. Reconnecting… What you write is sent when it is back.",
    refused: "The server ended the connection",
    deleted: "This channel was deleted.",
    ended: "This channel cannot be followed",
    rejoin: "Join again",
    noCommand: (n, word) => `There is no command ${isolated(word)}; /help shows them all, and // says a slash`,
    which: (n, usage) => `${isolated(usage)}: what is missing? See /help`,
    accountName: "Your name is your account's: sign out to go on under another",
    help_join: "create a channel if need be, and join it",
    help_leave: "leave this channel",
    help_channels: "all channels",
    help_send: "send a text; plain text does the same",
    help_quit: "sign out, or change your name",
    help_help: "this",
    help_who: "who belongs here, and who is here now",
    help_history: "show older messages",
    help_topic: "say what this channel is about",
    help_me: "say what you do",
    help_search: "find a text in this channel",
    help_name: "go on under another name",
    help_msg: "write to one person alone",
    help_decline: "not to talk to who asked",
    today: "Today",
    yesterday: "Yesterday",
  },
  fa: {
    language: "English",
    tagline: "گفت‌وگویی که جایش را گم نمی‌کند",
    askName: "دیگران شما را به چه نامی بشناسند؟",
    nameRule: "۱ تا ۶۴ حرف یا رقم، و نیز _ - و . ؛ بی‌فاصله، بی‌نویسهٔ ناپیدا، و نه با نقطه در آغاز",
    enter: "آغاز گفت‌وگو",
    name: "نام",
    password: "گذرواژه",
    signIn: "ورود",
    register: "ثبت‌نام",
    signOut: "خروج",
    withAccount: "ورود یا ثبت‌نام",
    asGuest: "ورود به‌عنوان مهمان",
    passwordRule: "گذرواژه باید ۸ تا ۲۵۶ نویسه باشد",
    wrongPassword: "نام یا گذرواژه نادرست است",
    nameTaken: "این نام گرفته شده است؛ نام دیگری برگزینید یا وارد شوید",
    hasAccount: "این نام حساب کاربری دارد؛ وارد شوید یا نام دیگری برگزینید",
    tooOften: "تلاش‌ها بیش از اندازه بود؛ یک دقیقهٔ دیگر دوباره امتحان کنید",
    registrationClosed: "ثبت‌نام در اینجا بسته است؛ از گردانندهٔ سرور حساب بخواهید",
    signedOut: "نشست شما پایان یافت؛ دوباره وارد شوید",
    away: "سرور پاسخ نمی‌دهد؛ کمی بعد دوباره امتحان کنید",
    channels: "کانال‌ها",
    others: "کانال‌های دیگر",
    newChannel: "پیوستن به کانال یا ساختن آن",
    channelName: "نام کانال",
    channelDescription: "دربارهٔ چیست؟ (اختیاری)",
    create: "پیوستن یا ساختن",
    cancel: "انصراف",
    more: (n) => `و ${n} کانال دیگر؛ با نام بپیوندید`,
    noChannels: "هنوز کانالی نیست. نخستین را بسازید.",
    choose: "کانالی برگزینید یا کانال تازه‌ای بسازید.",
    back: "همهٔ کانال‌ها",
    leave: "ترک کانال",
    changeName: "تغییر نام",
    unread: (n, name) => `${name}، ${n} پیام نخوانده`,
    mentions: (n, name) => `${name}، ${n} پیام نخوانده، از شما نام برده‌اند`,
    topic: "موضوع",
    addTopic: "افزودن موضوع",
    write: "پیامی بنویسید…",
    send: "فرستادن",
    joining: "در حال دریافت پیام‌های تازه…",
    empty: "هنوز چیزی گفته نشده. سلام کنید.",
    earlier: "پیام‌های پیشین",
    beginning: "آغاز کانال",
    forgotten: "پیام‌های قدیمی‌تر دیگر نگهداری نمی‌شوند",
    gap: (n) => `${n} پیام در اینجا دیگر نگهداری نمی‌شود`,
    newLine: "تازه",
    newMessages: (n) => `${n} پیام تازه`,
    newest: "تازه‌ترین پیام‌ها",
    sending: "در حال فرستادن…",
    failed: "فرستاده نشد",
    retry: "تلاش دوباره",
    edit: "ویرایش",
    discard: "دور انداختن",
    uncertain: "شاید پیش‌تر فرستاده شده باشد؛ نگاه کنید که اینجا نباشد",
    members: "اعضا",
    here: (n) => `حاضر · ${n}`,
    notHere: (n) => `غایب · ${n}`,
    mention: (n, name) => `نام بردن از ${name}`,
    andMore: (n) => `و ${n} نفر دیگر`,
    wantsToTalk: (n, name) => `${isolated(name)} می‌خواهد با شما گفت‌وگو کند`,
    accept: "پذیرفتن",
    decline: "نپذیرفتن",
    you: "شما",
    close: "بستن",
    search: "جست‌وجو در این کانال",
    searching: (n) => `در حال جست‌وجو… ${n} پیام`,
    found: (n, all) => `${n} مورد در ${all} پیام آخر`,
    foundMany: (n, all) => `${n} مورد آخر، از ${all} پیام آخر`,
    said: (n, name) => `${isolated(name)} می‌گوید: `,
    typing: (n, names) => `${names} در حال ${n === "۱" ? "نوشتن است" : "نوشتن‌اند"}…`,
    manyTyping: "چند نفر در حال نوشتن‌اند…",
    connecting: "در حال اتصال…",
    waiting: "ارتباط قطع شد. در حال اتصال دوباره… نوشته‌هایتان پس از آن فرستاده می‌شود.",
    refused: "سرور ارتباط را پایان داد",
    deleted: "این کانال پاک شد.",
    ended: "این کانال را نمی‌توان دنبال کرد",
    rejoin: "پیوستن دوباره",
    noCommand: (n, word) => `دستور ${isolated(word)} وجود ندارد؛ /help همه را نشان می‌دهد و // یک ممیز می‌گوید`,
    which: (n, usage) => `${isolated(usage)}: چیزی کم است؛ /help را ببینید`,
    accountName: "نام شما از آن حساب شماست؛ برای نام دیگر نخست خارج شوید",
    help_join: "پیوستن به کانال؛ اگر نباشد ساخته می‌شود",
    help_leave: "ترک این کانال",
    help_channels: "همهٔ کانال‌ها",
    help_send: "فرستادن متن؛ نوشتن متن ساده هم همین است",
    help_quit: "خروج، یا تغییر نام",
    help_help: "همین راهنما",
    help_who: "چه کسانی عضوند و اکنون اینجا هستند",
    help_history: "نمایش پیام‌های قدیمی‌تر",
    help_topic: "نوشتن موضوع کانال",
    help_me: "گفتن کاری که می‌کنید",
    help_search: "جست‌وجو در این کانال",
    help_name: "ادامه با نامی دیگر",
    help_msg: "پیام خصوصی به یک نفر",
    help_decline: "نپذیرفتن گفت‌وگوی دو نفره",
    today: "امروز",
    yesterday: "دیروز",
  },
};

/** What the server says, in Persian, by code: of an error; from 2000 on why a subscription ended, from 3500 a connection. */
const ERRORS = {
  0: "ارتباط قطع است؛ پس از اتصال دوباره امتحان کنید",
  100: "سرور نتوانست؛ کمی بعد دوباره امتحان کنید",
  102: "چنین کانالی نیست",
  103: "اجازهٔ این کار را ندارید",
  106: "به سقف مجاز رسیده‌اید",
  107: (why) => `پذیرفتنی نیست (${why})`,
  111: "بیش از اندازه تند؛ کمی صبر کنید",
  2000: "کانال پاک شد",
  2001: "اجازهٔ این کار را ندارید",
  2002: "شما را از اینجا بیرون کرده‌اند",
  3501: "درخواست نادرست بود",
  3503: "بیش از اندازه تند؛ کمی صبر کنید",
};

/** `text` where each half of a character that stands alone is U+FFFD: JSON and UTF-8 have no way to write such halves. */
export const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\ufffd");

/**
 * What somebody typed or pasted, as a message may hold it (the server's rule, pipeline/content.py, by the same vectors):
 * every way to end a line is a newline, other control characters are gone.
 */
export const cleaned = (text) =>
  wellFormed(text.replace(/\r\n?|[\v\f\x85]/g, "\n").replace(/[\x00-\x08\x0e-\x1f\x7f-\x9f]/g, ""));

/** localStorage, which a browser may refuse: then everything is asked again. */
export const memory = {
  get(key) {
    try {
      return localStorage.getItem(`peyk.${key}`) ?? "";
    } catch {
      return "";
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`peyk.${key}`, value);
      return true;
    } catch {
      return false;
    }
  },
  remove(key) {
    try {
      localStorage.removeItem(`peyk.${key}`);
    } catch {
      // it was never there
    }
  },
  /** The keys that begin with `prefix`. */
  names(prefix) {
    try {
      const begins = `peyk.${prefix}`;
      return Object.keys(localStorage).filter((key) => key.startsWith(begins)).map((key) => key.slice("peyk.".length));
    } catch {
      return [];
    }
  },
};

const asked = new URLSearchParams(location.search).get("lang");
if (asked) memory.set("language", asked);
const chosen = asked || memory.get("language") || navigator.language;
export const language = chosen.toLowerCase().startsWith("fa") ? "fa" : "en";
export const otherLanguage = language === "fa" ? "en" : "fa";

const spoken = navigator.language.toLowerCase().startsWith(language) ? navigator.language : language;
const locale = language === "fa" ? "fa-IR-u-ca-persian-nu-arabext" : spoken;
const numbers = new Intl.NumberFormat(locale);
const times = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
const days = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const oldDays = new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" });
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });
const lists = new Intl.ListFormat(locale, { type: "conjunction" });

export const number = (value) => numbers.format(value);
export const time = (date) => times.format(date);
export const moment = (date) => moments.format(date);
export const names = (list) => lists.format(list.map(isolated));

/** What the page says for `key`; a number in it is written the language's way. */
export function say(key, value, more) {
  const words = WORDS[language][key];
  if (typeof words !== "function") return words;
  return words(number(value ?? 0), typeof more === "number" ? number(more) : more);
}

/** What the server has against something: a ReplyError. Where we have no words for it, it explains itself. */
export function sayError({ code, message }) {
  if (language === "en") return message;
  const words = ERRORS[code] ?? isolated(message);
  return typeof words === "function" ? words(isolated(message)) : words;
}

export function day(date) {
  const today = new Date();
  if (date.toDateString() === today.toDateString()) return say("today");
  const old = date.getFullYear() !== today.getFullYear();
  today.setDate(today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return say("yesterday");
  return (old ? oldDays : days).format(date);
}

/** Put the language's words into the page: data-say is an element's text, data-placeholder and data-label attributes. */
export function translate(root) {
  const each = (name, put) => {
    for (const element of root.querySelectorAll(`[data-${name}]`)) put(element, say(element.dataset[name]));
  };
  each("say", (element, words) => (element.textContent = words));
  each("placeholder", (element, words) => (element.placeholder = words));
  each("label", (element, words) => {
    element.setAttribute("aria-label", words);
    if (element.matches("button, a")) element.title = words;
  });
}
