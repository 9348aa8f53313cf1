// What the page says, in English and Persian, and how it writes numbers, times and days.

const WORDS = {
  en: {
    language: "فارسی",
    tagline: "Chat that keeps its place",
    askName: "What should others call you?",
    nameRule: "1 to 64 letters or digits, also _ - and . but no spaces, and no dot first",
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
    newChannel: "New channel",
    channelName: "Name",
    channelDescription: "What is it about? (optional)",
    create: "Join or create",
    cancel: "Cancel",
    more: (n) => `and ${n} more: join one by its name`,
    noChannels: "No channels yet. Make the first.",
    choose: "Choose a channel, or make a new one.",
    back: "All channels",
    leave: "Leave",
    changeName: "Change name",
    write: "Write a message…",
    send: "Send",
    joining: "Catching up…",
    empty: "Nothing here yet. Say hello.",
    earlier: "Earlier messages",
    beginning: "The channel begins here",
    forgotten: "Older messages are no longer kept",
    full: (n) => `Only the latest ${n} messages are shown here`,
    gap: (n) => (n === "1" ? "1 message here is no longer kept" : `${n} messages here are no longer kept`),
    newMessages: "New messages",
    sending: "Sending…",
    failed: "Not sent",
    retry: "Try again",
    discard: "Discard",
    connecting: "Connecting…",
    waiting: "Connection lost. Reconnecting… What you write is sent when it is back.",
    refused: "The server ended the connection",
    deleted: "This channel was deleted.",
    ended: "This channel cannot be followed",
    rejoin: "Join again",
    today: "Today",
    yesterday: "Yesterday",
  },
  fa: {
    language: "English",
    tagline: "گفت‌وگویی که جایش را گم نمی‌کند",
    askName: "دیگران شما را چه بنامند؟",
    nameRule: "۱ تا ۶۴ حرف یا رقم، و نیز _ - و . ؛ بی‌فاصله، و نه با نقطه در آغاز",
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
    newChannel: "کانال تازه",
    channelName: "نام",
    channelDescription: "دربارهٔ چیست؟ (اختیاری)",
    create: "پیوستن یا ساختن",
    cancel: "انصراف",
    more: (n) => `و ${n} کانال دیگر؛ با نام بپیوندید`,
    noChannels: "هنوز کانالی نیست. نخستین را بسازید.",
    choose: "کانالی برگزینید یا کانال تازه‌ای بسازید.",
    back: "همهٔ کانال‌ها",
    leave: "ترک",
    changeName: "تغییر نام",
    write: "پیامی بنویسید…",
    send: "فرستادن",
    joining: "در حال رسیدن به گفت‌وگو…",
    empty: "هنوز چیزی گفته نشده. سلام کنید.",
    earlier: "پیام‌های پیشین",
    beginning: "آغاز کانال",
    forgotten: "پیام‌های قدیمی‌تر دیگر نگهداری نمی‌شوند",
    full: (n) => `اینجا تنها ${n} پیام آخر نمایش داده می‌شود`,
    gap: (n) => `${n} پیام در اینجا دیگر نگهداری نمی‌شود`,
    newMessages: "پیام‌های تازه",
    sending: "در حال فرستادن…",
    failed: "فرستاده نشد",
    retry: "دوباره",
    discard: "دور انداختن",
    connecting: "در حال اتصال…",
    waiting: "ارتباط قطع شد. در حال اتصال دوباره… نوشته‌هایتان پس از آن فرستاده می‌شود.",
    refused: "سرور ارتباط را پایان داد",
    deleted: "این کانال پاک شد.",
    ended: "این کانال را نمی‌توان دنبال کرد",
    rejoin: "پیوستن دوباره",
    today: "امروز",
    yesterday: "دیروز",
  },
};

const asked = new URLSearchParams(location.search).get("lang");
export const language = (asked ?? navigator.language).toLowerCase().startsWith("fa") ? "fa" : "en";
export const otherLanguage = language === "fa" ? "en" : "fa";

const locale = navigator.language.toLowerCase().startsWith(language) ? navigator.language : language;
const numbers = new Intl.NumberFormat(locale);
const times = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
const days = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "medium" });

export const number = (value) => numbers.format(value);
export const time = (date) => times.format(date);
export const moment = (date) => moments.format(date);

/** What the page says for `key`; a number in it is written the language's way. */
export function say(key, value) {
  const words = WORDS[language][key];
  return typeof words === "function" ? words(number(value)) : words;
}

export function day(date) {
  const today = new Date();
  if (date.toDateString() === today.toDateString()) return say("today");
  today.setDate(today.getDate() - 1);
  return date.toDateString() === today.toDateString() ? say("yesterday") : days.format(date);
}

/** Put the language's words into the page: data-say is an element's text, data-placeholder and data-label attributes. */
export function translate(root) {
  const each = (name, put) => {
    for (const element of root.querySelectorAll(`[data-${name}]`)) put(element, say(element.dataset[name]));
  };
  each("say", (element, words) => (element.textContent = words));
  each("placeholder", (element, words) => (element.placeholder = words));
  each("label", (element, words) => element.setAttribute("aria-label", words));
}
