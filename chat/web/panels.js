// What stands beside the open channel when asked for: who belongs to it, and a search through its history.

import { hue, initial, wordsOf } from "./log.js";
import { folded } from "./names.js";
import { day, number, say, sayError, time } from "./words.js";

const SHOWN = 200; // people in a list
const PAGE = 500; // messages searched at a time
const DEEPEST = 10_000; // messages searched
const MOST = 100; // results
const AROUND = 60; // characters of a result shown before what was found

const $ = (id) => document.getElementById(id);

function make(name, className, ...children) {
  const element = document.createElement(name);
  element.className = className;
  element.append(...children);
  return element;
}

/** One panel at a time; closing it gives the focus back to its button. */
class Panel {
  channel = null;

  constructor(panel, button) {
    [this.panel, this.button] = [$(panel), $(button)];
    this.button.addEventListener("click", () => this.toggle(this.panel.hidden));
    this.panel.querySelector(".close").addEventListener("click", () => this.toggle(false));
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.toggle(false);
    });
  }

  toggle(open) {
    if (open) for (const other of document.querySelectorAll(".panel")) other.hidden = true;
    const had = this.panel.contains(document.activeElement);
    this.panel.hidden = !open;
    for (const button of document.querySelectorAll("[aria-controls]")) {
      const controlled = $(button.getAttribute("aria-controls"));
      if (controlled.matches(".panel")) button.setAttribute("aria-expanded", !controlled.hidden);
    }
    if (open) this.opened();
    else if (had) this.button.focus();
  }

  /** Where it lies over the log, as on a phone, it makes room for what was chosen in it. */
  uncover() {
    if (getComputedStyle(this.panel).position === "fixed") this.toggle(false);
  }

  get isOpen() {
    return !this.panel.hidden;
  }
}

/** Who belongs to the channel: those who are here, and the others. */
export class People extends Panel {
  #members = {}; // user id -> the name they write
  #drawn = "";

  /** `onName(name)`: somebody was chosen. */
  constructor(onName) {
    super("people", "who");
    this.onName = onName;
  }

  show(channel) {
    this.channel = channel;
    this.#members = {};
    this.#drawn = "";
    if (this.isOpen) this.opened();
    this.draw();
  }

  async opened() {
    const { channel } = this;
    this.draw();
    if (!channel) return;
    channel.meet();
    const { names } = await channel.client.rpc("channels.subscribers", { id: channel.id }).catch(() => ({}));
    if (!names || channel !== this.channel) return;
    this.#members = names;
    this.draw();
  }

  draw() {
    const here = new Map([...(this.channel?.people.values() ?? [])].map((user) => [folded(user), user]));
    $("count").textContent = here.size ? number(here.size) : "";
    if (!this.isOpen) return;
    const absent = Object.keys(this.#members).filter((id) => !here.has(id)).map((id) => this.#members[id]);
    const [present, away] = [[...here.values()], absent].map((list) => list.sort((a, b) => a.localeCompare(b)));
    const drawn = JSON.stringify([present, away]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#list("here", say("here", present.length), present);
    this.#list("away", say("notHere", away.length), away);
  }

  #list(id, title, users) {
    $(`${id}-title`).textContent = title;
    $(`${id}-title`).hidden = $(id).hidden = !users.length;
    const rows = users.slice(0, SHOWN).map((user) => this.#row(user));
    if (users.length > SHOWN) rows.push(make("li", "quiet", say("andMore", users.length - SHOWN)));
    $(id).replaceChildren(...rows);
  }

  #row(user) {
    const me = folded(user) === folded(this.channel.client.user);
    const avatar = make("span", `avatar ${me ? "mine" : hue(user)}`, initial(user));
    avatar.setAttribute("aria-hidden", true);
    const button = make("button", "person", avatar, make("bdi", "", user));
    button.type = "button";
    if (me) button.append(make("span", "quiet", say("you")));
    button.title = say("mention", 0, user);
    button.addEventListener("click", () => this.onName(user));
    return make("li", "", button);
  }
}

/** Looks through the channel's history, the latest DEEPEST messages, for words. */
export class Search extends Panel {
  #run = 0; // counts searches: an older one stops

  /** `onChoose(offset)`: a result was chosen. */
  constructor(onChoose) {
    super("search", "find");
    this.onChoose = onChoose;
    $("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#search(folded($("query").value.trim()));
    });
  }

  show(channel) {
    if (channel === this.channel) return;
    this.channel = channel;
    this.#clear();
    $("query").value = "";
  }

  opened() {
    $("query").select();
    $("query").focus();
  }

  /** Look for a text. */
  seek(text) {
    this.toggle(true);
    $("query").value = text;
    this.#search(folded(text));
  }

  #clear() {
    this.#run++;
    $("results").replaceChildren();
    $("search-note").textContent = "";
  }

  async #search(words) {
    this.#clear();
    const [run, { subscription }] = [this.#run, this.channel];
    let [offset, searched, found] = [0, 0, 0];
    if (!words) return;
    try {
      while (searched < DEEPEST && found < MOST) {
        $("search-note").textContent = say("searching", searched);
        const page = (await subscription.page(offset, PAGE)).reverse();
        if (run !== this.#run) return;
        for (const publication of page) {
          if (found === MOST) break;
          searched++;
          const place = seek(wordsOf(publication.data), words);
          if (!place) continue;
          found++;
          $("results").append(this.#result(publication, ...place));
        }
        offset = page.at(-1)?.offset ?? 1;
        if (offset <= 1) break;
      }
      $("search-note").textContent = say(found === MOST ? "foundMany" : "found", found, searched);
    } catch (error) {
      if (run === this.#run) $("search-note").textContent = sayError(error);
    }
  }

  #result({ data, info, offset, time: ms }, from, to) {
    const words = wordsOf(data);
    const start = Math.max(0, from - AROUND);
    const [before, mark, after] = [words.slice(start, from), words.slice(from, to), words.slice(to)];
    const date = new Date(ms);
    const head = make("span", "quiet", make("bdi", "", info?.user ?? ""), ` · ${day(date)} ${time(date)}`);
    const text = make("span", "excerpt", start ? "…" : "", before, make("mark", "", mark), after.slice(0, 4 * AROUND));
    text.dir = "auto";
    const button = make("button", "result", head, text);
    button.type = "button";
    button.addEventListener("click", () => this.onChoose(offset));
    return make("li", "", button);
  }
}

/** Where in `text` something stands that folds to `sought`: its first character and the one behind it; null: nowhere. */
function seek(text, sought) {
  if (!folded(text).includes(sought)) return null;
  let all = "";
  const places = []; // of each folded character: where what it is folded from begins
  for (let place = 0, character; place < text.length; place += character.length) {
    character = String.fromCodePoint(text.codePointAt(place));
    const one = folded(character);
    for (let i = 0; i < one.length; i++) places.push(place);
    all += one;
  }
  const at = all.indexOf(sought);
  return at < 0 ? [0, 0] : [places[at], places[at + sought.length] ?? text.length];
}
