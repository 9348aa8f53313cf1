// What one channel's log shows: a window on its history. Messages in the order of their offsets, our unsent ones last,
// marks where history has holes, and a line above what is new. It never holds more than KEEP of them: what leaves at one
// end is read again when somebody scrolls there. Whatever people wrote is only ever set as text.

import { format } from "./format.js";
import { isText, written } from "./json.js";
import { folded } from "./names.js";
import { day, moment, say, sayError, time } from "./words.js";

export const KEEP = 500;
const SAME_BREATH = 5 * 60_000; // ms between messages of one person that are shown under one name
const HUES = 8; // as many as chat.css has

const template = (id) => document.getElementById(id).content.firstElementChild;
const graphemes = new Intl.Segmenter();

/** The words of a message, as search finds them; whatever has no text is compact JSON. */
export const wordsOf = (data) => (isText(data?.text) ? data.text : written(data));

/** Whether a message is an event: what programs send. */
const isEvent = (data) => isText(data?.id) && isText(data?.type) && "payload" in data;

export function hue(user) {
  let sum = 0;
  for (const character of user) sum = (sum * 31 + character.codePointAt(0)) % 65521;
  return `hue-${sum % HUES}`;
}

export const initial = (user) => (graphemes.segment(user)[Symbol.iterator]().next().value?.segment ?? "").toUpperCase();

export class Log {
  element = document.createElement("ol");
  attached = false; // it shows the channel's end: what comes belongs here
  beginning = -1; // the oldest offset, where nothing older is in history
  #items = []; // {position, offset?, user?, date?, element}, sorted by position
  #sent = new Map(); // our unsettled messages -> their items
  #line = null; // the offset above what is new
  #today = new Date().toDateString(); // when its days were called today or yesterday

  /** `client` knows who we are; the others are told which failed message to try again, to forget, or to write anew. */
  constructor(client, onResend, onDiscard, onEdit) {
    Object.assign(this, { client, onResend, onDiscard, onEdit });
    this.element.className = "messages";
  }

  get size() {
    return this.#items.length;
  }

  get unsent() {
    return this.#sent.size;
  }

  /** Those of ours that are unsettled. */
  get messages() {
    return [...this.#sent.keys()];
  }

  /** The offset of the oldest message shown; undefined where none is. */
  get first() {
    return this.#items.find((item) => item.offset)?.offset;
  }

  /** The offset up to which it shows the channel; 0 where it shows nothing. */
  get last() {
    return this.#items.findLast((item) => item.position < Infinity)?.position ?? 0;
  }

  /** Show these publications in place of all before; what is unsent stays. */
  reset(publications) {
    for (const item of this.#items.splice(0)) item.element.remove();
    for (const publication of publications) this.#add(publication);
    for (const item of this.#sent.values()) this.#insert(item);
    this.attached = false;
    this.beginning = -1;
  }

  /** Show a page of older messages above. */
  prepend(publications) {
    const { first } = this;
    const newest = publications.at(-1)?.offset ?? 0;
    if (newest && newest + 1 < first) this.gap(newest + 1, first - 1);
    for (const publication of publications) this.#add(publication);
    if (!publications.length) this.beginning = first;
    while (this.size > KEEP && this.#items.at(-1 - this.unsent).position) this.#drop(this.size - 1 - this.unsent);
  }

  /** Show a page of newer messages below. */
  append(publications) {
    for (const publication of publications) {
      const last = this.last;
      if (last && publication.offset > last + 1) this.gap(last + 1, publication.offset - 1);
      this.#add(publication);
    }
    this.#trim();
  }

  /** What was just said; `message` is our unsettled one that it settles. `following`: the end is on the screen. */
  live(publication, message, following) {
    if (message) return this.settle(message, publication);
    if (!following && this.size >= KEEP) this.detach(publication.offset - 1); // nothing may jump that somebody reads
    if (this.attached) this.#add(publication);
    this.#trim();
  }

  /** What comes no longer belongs here; neither does what of ours was stored ahead of `offset`, the channel's place. */
  detach(offset) {
    this.attached = false;
    for (let index = this.size - 1; index >= 0; index--) {
      const { position } = this.#items[index];
      if (position > offset && position < Infinity) this.#drop(index);
    }
  }

  gap(first, last) {
    const element = template("gap-template").cloneNode(true);
    element.querySelector("span").textContent = say("gap", last - first + 1);
    this.#insert({ position: last, behind: first - 1, element });
  }

  /** Draw the line of what is new behind the message at `offset`; null: none. */
  mark(offset) {
    this.#line = offset;
    for (let index = 0; index < this.size; index++) this.#arrange(index);
  }

  /** The first new message, below the line. */
  get marked() {
    return this.element.querySelector(".new-line")?.parentElement;
  }

  find(offset) {
    return this.#items.find((item) => item.offset === offset)?.element;
  }

  /** The first item whose lower edge is below `y`, a place on the screen; undefined: all are above it. */
  at(y) {
    let [low, high] = [0, this.size];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#items[middle].element.getBoundingClientRect().bottom > y) high = middle;
      else low = middle + 1;
    }
    return this.#items[low];
  }

  /** The highest offset that is wholly above `y`. */
  readTo(y) {
    const item = this.at(y);
    const index = item ? this.#items.indexOf(item) : this.size;
    return this.#items.slice(0, index).findLast(({ offset }) => offset)?.offset ?? 0;
  }

  /** Show a message of ours that is on its way. */
  sending(message) {
    const item = this.#sent.get(message) ?? this.#message(message.data, this.client.user, new Date(message.at));
    item.element.classList.add("pending");
    item.element.classList.remove("failed");
    item.element.querySelector(".foot")?.remove();
    this.#foot(item, "sending");
    if (this.#sent.has(message)) return;
    this.#sent.set(message, Object.assign(item, { position: Infinity }));
    this.#insert(item);
  }

  /** Our message is stored: it moves to where its offset belongs, if that is shown. */
  settle(message, { offset, time: ms }) {
    const item = this.#sent.get(message);
    if (!item) return;
    this.#remove(message);
    if (!this.attached) return;
    item.element.classList.remove("pending", "failed");
    item.element.querySelector(".foot")?.remove();
    item.date = new Date(ms ?? item.date);
    stamp(item);
    this.#insert(Object.assign(item, { position: offset, offset }));
  }

  failed(message, error) {
    const item = this.#sent.get(message);
    if (!item) return;
    item.element.classList.replace("pending", "failed");
    const foot = this.#foot(item, "failed");
    foot.firstElementChild.append(`: ${sayError(error)}`);
    this.#button(foot, "retry", () => this.onResend(message));
    for (const [name, then] of [["edit", this.onEdit], ["discard", this.onDiscard]]) {
      this.#button(foot, name, () => {
        this.#remove(message);
        then(message);
      });
    }
  }

  #foot({ element }, words) {
    element.querySelector(".foot")?.remove();
    const foot = Object.assign(document.createElement("p"), { className: "foot" });
    const status = Object.assign(document.createElement("span"), { className: "status", textContent: say(words) });
    foot.append(status);
    element.append(foot);
    return foot;
  }

  #button(foot, name, onclick) {
    const button = document.createElement("button");
    foot.append(Object.assign(button, { type: "button", className: `${name} link`, textContent: say(name), onclick }));
  }

  #remove(message) {
    const item = this.#sent.get(message);
    this.#sent.delete(message);
    const index = this.#items.indexOf(item);
    if (index >= 0) this.#drop(index);
  }

  #drop(index) {
    const [item] = this.#items.splice(index, 1);
    item.element.remove();
    if (item.position < Infinity && index === this.size - this.unsent) this.attached = false;
    this.#arrange(index);
  }

  #trim() {
    while (this.size > KEEP && this.#items[0].position < Infinity) this.#drop(0);
  }

  #add({ offset, data, info, time: ms }) {
    const position = offset ?? this.last;
    const item = this.#message(data, info?.user ?? "", new Date(ms ?? Date.now()));
    this.#insert(Object.assign(item, { position, offset }));
  }

  #message(data, user, date) {
    const element = template("message-template").cloneNode(true);
    const me = folded(this.client.user);
    const [avatar, head, text] = element.children;
    head.firstElementChild.textContent = user;
    head.firstElementChild.classList.add(hue(user));
    avatar.textContent = initial(user);
    avatar.classList.add(hue(user));
    element.classList.toggle("own", folded(user) === me);
    element.classList.toggle("action", data?.me === true); // what somebody does: /me
    if (isText(data?.text)) text.replaceChildren(...format(data.text, me));
    else if (isEvent(data)) text.append(card(data));
    else {
      element.classList.add("raw");
      text.textContent = wordsOf(data);
    }
    const item = { user, date, element };
    stamp(item);
    return item;
  }

  /** Put an item where its position belongs, unless its offset is shown already. */
  #insert(item) {
    const items = this.#items;
    let index = items.length;
    while (index && items[index - 1].position > item.position) index--;
    for (let i = index - 1; item.offset && i >= 0 && items[i].position === item.position; i--) {
      if (items[i].offset === item.offset) return;
    }
    this.element.insertBefore(item.element, items[index]?.element ?? null);
    items.splice(index, 0, item);
    if (item.offset) item.element.dataset.offset = item.offset;
    this.#arrange(index);
    this.#arrange(index + 1);
    const today = new Date().toDateString();
    if (today === this.#today) return;
    this.#today = today; // midnight has passed
    this.mark(this.#line);
  }

  /** What an item shows depends on the one before it: its day, whether the same person goes on, what is new. */
  #arrange(index) {
    const [before, item] = [this.#items[index - 1], this.#items[index]];
    if (!item?.date) return;
    const sameDay = before?.date?.toDateString() === item.date.toDateString();
    const line = this.#line ?? Infinity;
    const isNew = item.position > line && !((before?.behind ?? before?.position) > line);
    label(item.element, "day", !sameDay && (!before || before.date) && day(item.date));
    label(item.element, "new-line", isNew && (before || line === 0) && item.offset && say("newLine"));
    const goesOn = sameDay && before.user === item.user && item.date - before.date < SAME_BREATH;
    item.element.classList.toggle("continued", goesOn && !isNew);
  }
}

/** A line of words above a message, or none. */
function label(element, name, words) {
  const there = element.querySelector(`:scope > .${name}`);
  if (!words) return there?.remove();
  if (there) return (there.textContent = words);
  element.prepend(Object.assign(document.createElement("p"), { className: name, textContent: words }));
}

function stamp({ element, date }) {
  const stamp = element.querySelector("time");
  stamp.textContent = time(date);
  stamp.dateTime = date.toISOString();
  stamp.title = moment(date);
}

/** An event as a compact card: its type, and its payload folded. */
function card({ type, payload }) {
  const element = template("event-template").cloneNode(true);
  element.querySelector(".type").textContent = type;
  element.querySelector("pre").textContent = written(payload, 2);
  return element;
}
