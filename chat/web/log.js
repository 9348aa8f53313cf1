// What one channel's log shows: messages in the order of their offsets, our unsent ones last, marks where history has
// holes. At most KEEP of them: the oldest leave at the top. Whatever people wrote is only ever set as textContent.

import { day, moment, say, time } from "./words.js";

export const KEEP = 500;
const SAME_BREATH = 5 * 60_000; // ms between messages of one person that are shown under one name
const HUES = 8; // as many as chat.css has

const template = (id) => document.getElementById(id).content.firstElementChild;

/** The words of a message; an event ({type, payload}) or whatever else has no text is shown as compact JSON. */
const wordsOf = (data) => (typeof data?.text === "string" ? data.text : JSON.stringify(data));

function hue(user) {
  let sum = 0;
  for (const character of user) sum = (sum * 31 + character.codePointAt(0)) % 65521;
  return sum % HUES;
}

export class Log {
  element = document.createElement("ol");
  #items = []; // {position, offset?, user?, date?, element}, sorted by position
  #sent = new Map(); // our unsettled messages -> their items

  /** `client` knows who we are; `onResend` and `onDiscard` are told which failed message to try again or forget. */
  constructor(client, onResend, onDiscard) {
    Object.assign(this, { client, onResend, onDiscard });
    this.element.className = "messages";
  }

  get size() {
    return this.#items.length;
  }

  /** The offset of the oldest message shown; undefined where none is. */
  get oldest() {
    return this.#items.find((item) => item.offset)?.offset;
  }

  /** Show these publications in place of all before; what is unsent stays. */
  reset(publications) {
    for (const item of this.#items.splice(0)) item.element.remove();
    for (const publication of publications) this.add(publication);
    for (const item of this.#sent.values()) this.#insert(item);
  }

  /** Show a publication, once; `message` is our unsettled one that it settles. */
  add(publication, message) {
    if (message) return this.settle(message, publication);
    const { offset, data, info, time: ms } = publication;
    const position = offset ?? this.#items.findLast((item) => item.offset)?.offset ?? 0;
    const item = this.#message(data, info?.user ?? "", new Date(ms ?? Date.now()));
    return this.#insert(Object.assign(item, { position, offset }));
  }

  gap(first, last) {
    const element = template("gap-template").cloneNode(true);
    element.querySelector("span").textContent = say("gap", last - first + 1);
    this.#insert({ position: last, element });
  }

  /** Show a message of ours that is on its way. */
  sending(message) {
    const item = this.#sent.get(message) ?? this.#message(message.data, this.client.user, new Date());
    item.element.classList.add("pending");
    item.element.classList.remove("failed");
    item.element.querySelector(".status").textContent = say("sending");
    if (this.#sent.has(message)) return;
    this.#sent.set(message, Object.assign(item, { position: Infinity }));
    this.#insert(item);
  }

  /** Our message is stored: it moves to where its offset belongs. */
  settle(message, { offset, time: ms }) {
    const item = this.#sent.get(message);
    if (!item) return;
    this.#remove(message);
    item.element.classList.remove("pending", "failed");
    item.date = new Date(ms ?? item.date);
    this.#stamp(item);
    this.#insert(Object.assign(item, { position: offset, offset }));
  }

  failed(message, reason) {
    const element = this.#sent.get(message)?.element;
    if (!element) return;
    element.classList.replace("pending", "failed");
    element.querySelector(".status").textContent = `${say("failed")}: ${reason}`;
    element.querySelector(".retry").onclick = () => this.onResend(message);
    element.querySelector(".discard").onclick = () => {
      this.#remove(message);
      this.onDiscard(message);
    };
  }

  #remove(message) {
    const item = this.#sent.get(message);
    this.#sent.delete(message);
    this.#items = this.#items.filter((other) => other !== item);
    item.element.remove();
  }

  #message(data, user, date) {
    const element = template("message-template").cloneNode(true);
    const item = { user, date, element };
    const author = element.querySelector(".author");
    author.textContent = user;
    author.classList.add(`hue-${hue(user)}`);
    element.classList.toggle("own", user === this.client.user);
    element.classList.toggle("event", typeof data?.text !== "string");
    element.querySelector(".text").textContent = wordsOf(data);
    for (const button of element.querySelectorAll("[data-say]")) button.textContent = say(button.dataset.say);
    this.#stamp(item);
    return item;
  }

  #stamp({ element, date }) {
    const stamp = element.querySelector("time");
    stamp.textContent = time(date);
    stamp.dateTime = date.toISOString();
    stamp.title = moment(date);
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
    if (items.length > KEEP) {
      items.shift().element.remove();
      this.#arrange(0);
    }
  }

  /** What an item shows depends on the one before it: its day, and whether the same person goes on speaking. */
  #arrange(index) {
    const [before, item] = [this.#items[index - 1], this.#items[index]];
    if (!item?.date) return;
    const label = item.element.querySelector(".day");
    const sameDay = before?.date?.toDateString() === item.date.toDateString();
    label.hidden = sameDay || (before !== undefined && !before.date);
    label.textContent = label.hidden ? "" : day(item.date);
    const goesOn = sameDay && before.user === item.user && item.date - before.date < SAME_BREATH;
    item.element.classList.toggle("continued", goesOn);
  }
}
