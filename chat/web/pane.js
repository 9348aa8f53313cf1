// The open channel on the screen: its title and topic, the log and where it is scrolled to, who types, the composer.

import { folded, isName } from "./names.js";
import { COMMANDS } from "./slash.js";
import { cleaned, names, say, sayError } from "./words.js";

const DELETED = 2000; // an unsubscribe code
const NEAR = 40; // px from the end that still count as reading the newest message
const AHEAD = 900; // px from an end of what is loaded at which more is loaded
const ABOVE_LINE = 80; // px of what was read before that stay on the screen
const TYPING_EVERY = 3000; // ms between words that we write
const MANY = 3; // people whose names are said
const FLASH = 2000; // ms that a message somebody went to stands out

const $ = (id) => document.getElementById(id);
const show = (element, visible) => (element.hidden = !visible);

export class Pane {
  channel = null;
  client = null;
  #typed = 0; // when we last said that we write
  #placing = 0; // > 0: the log is being put in its place: what is seen on the way is not read

  /** `sidebar` knows the channels' names; `onRead()` is told that something was read, `onLine(text)` what was entered. */
  constructor(sidebar, onRead, onLine) {
    Object.assign(this, { sidebar, onRead, onLine });
    $("earlier").addEventListener("click", () => this.channel.earlier());
    $("latest").addEventListener("click", () => this.toEnd());
    $("log").addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.#stick()).observe($("log"));
    const opened = new MutationObserver(() => this.#scrolled()); // a card that opens may push the end away
    opened.observe($("log"), { subtree: true, attributeFilter: ["open"] });
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("text").addEventListener("input", () => this.#typing());
    $("text").addEventListener("keydown", (event) => this.#key(event));
    $("description").addEventListener("click", () => this.editTopic(true));
    $("topic").addEventListener("blur", () => this.editTopic(false));
    $("topic").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) this.#saveTopic();
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.editTopic(false);
    });
  }

  /** Somebody looks at the log. */
  get seen() {
    return !document.hidden && !$("chat").hidden;
  }

  /** Put `channel` on the screen, or none. */
  async show(channel) {
    if (this.channel) {
      this.channel.place = $("log").scrollTop;
      this.channel.draft = $("text").value;
      this.channel.hide();
      this.channel.log.element.remove();
    }
    this.channel = channel;
    document.body.classList.toggle("open", channel !== null);
    this.editTopic(false);
    this.note();
    if (!channel) return this.drawBanner();
    $("text").value = channel.draft;
    this.#size();
    $("log").append(channel.log.element);
    if (matchMedia("(hover: hover)").matches) $("text").focus();
    await this.place(channel);
  }

  /** Show where the history begins that is not read yet, the end, or the place it was left at. */
  async place(channel) {
    this.#placing++;
    this.draw();
    await channel.show();
    this.#placing--;
    if (channel !== this.channel || !channel.log.size) return;
    if (channel.log.marked) this.#toLine();
    else if (!channel.following) $("log").scrollTop = channel.place;
    this.draw();
    this.#scrolled();
  }

  /** Somebody looks again: what came meanwhile begins where they can see it. */
  returned() {
    const { channel } = this;
    if (!channel?.log.size) return;
    if (channel.unread && channel.log.marked && this.#lineTop() < 0) {
      channel.following = false;
      this.#toLine();
    }
    this.draw();
    this.#scrolled();
  }

  #lineTop() {
    return this.channel.log.marked.getBoundingClientRect().top - $("log").getBoundingClientRect().top;
  }

  #toLine() {
    $("log").scrollTop += this.#lineTop() - ABOVE_LINE;
  }

  async toEnd() {
    this.note();
    await this.channel.toEnd();
    this.draw();
  }

  /** Show the message at `offset`, and let it stand out for a moment. */
  async goTo(offset) {
    const { channel } = this;
    await channel.goTo(offset);
    const element = channel.log.find(offset);
    if (channel !== this.channel || !element) return;
    element.scrollIntoView({ block: "center" });
    element.classList.add("flash");
    setTimeout(() => element.classList.remove("flash"), FLASH);
  }

  /** Do `change` to the log; what is being read stays where it is on the screen. */
  keep(channel, change) {
    if (channel !== this.channel) return change();
    const log = $("log");
    const anchor = channel.log.at(log.getBoundingClientRect().top)?.element;
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (anchor?.isConnected) log.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  // ---- scrolling

  #scrolled() {
    const { channel } = this;
    if (!channel || this.#placing) return;
    const { scrollTop, scrollHeight, clientHeight } = $("log");
    const below = scrollHeight - scrollTop - clientHeight;
    if (!channel.loading && channel.log.size) channel.following = channel.log.attached && below < NEAR;
    if (!channel.loading && channel.subscription.state === "live") {
      if (scrollTop < AHEAD && channel.hasEarlier) channel.earlier();
      else if (below < AHEAD && !channel.log.attached) channel.later();
    }
    this.#read();
    this.#drawPill();
  }

  #stick() {
    if (this.channel?.following) $("log").scrollTop = $("log").scrollHeight;
  }

  #read() {
    const { channel } = this;
    if (!this.seen || this.#placing || !channel.log.size) return;
    const before = channel.read;
    if (channel.following) channel.reading(channel.top);
    else channel.reading(channel.log.readTo($("log").getBoundingClientRect().bottom));
    if (channel.read !== before) this.onRead(channel);
  }

  // ---- drawing

  draw() {
    const { channel } = this;
    if (!channel) return this.drawBanner();
    const { log, subscription } = channel;
    const listed = this.sidebar.find(channel.id);
    $("channel-title").textContent = listed?.name ?? channel.name;
    $("title").dataset.kind = listed?.kind ?? "public";
    $("description").textContent = listed?.description || say("addTopic");
    const started = subscription.epoch !== "" && (log.size > 0 || log.attached);
    show($("earlier"), started && channel.hasEarlier);
    $("edge-text").textContent = started && !channel.hasEarlier ? edge(log) : "";
    $("log").setAttribute("aria-busy", !started);
    this.#stick();
    this.#read();
    this.#drawPill();
    this.#drawTyping();
    this.drawBanner();
  }

  #drawPill() {
    const { following, unread, log } = this.channel;
    const far = !log.attached || $("log").scrollHeight - $("log").scrollTop > 2.5 * $("log").clientHeight;
    show($("latest"), !following && log.size > 0 && (unread > 0 || far));
    $("latest").textContent = unread ? say("newMessages", unread) : say("newest");
    $("latest").classList.toggle("news", unread > 0);
  }

  #drawTyping() {
    const users = [...this.channel.writers.keys()];
    const words = users.length > MANY ? say("manyTyping") : say("typing", users.length, names(users));
    $("typing").textContent = users.length ? words : "";
  }

  drawBanner() {
    const { channel, client } = this;
    const { state, reason, cause } = client ?? {};
    const subscription = channel?.subscription;
    let [text, action, label] = ["", null, ""];
    if (state === "connecting" || state === "waiting") {
      text = say(client.ids.length > 0 || state === "waiting" ? "waiting" : "connecting");
    } else if (state === "refused") {
      text = `${say("refused")}: ${sayError({ code: cause, message: reason })}`;
      [action, label] = [() => client.open(), "retry"];
    } else if (subscription?.state === "joining") text = say("joining");
    else if (subscription?.state === "ended") {
      const why = isName(channel.id) ? sayError(subscription.error) : say("nameRule");
      text = subscription.error.code === DELETED ? say("deleted") : `${say("ended")}: ${why}`;
      [action, label] = [() => channel.join(), "rejoin"];
    }
    $("banner-text").textContent = text;
    $("banner-action").onclick = action;
    $("banner-action").textContent = label && say(label);
    show($("banner-action"), action !== null);
    show($("banner"), text !== "");
  }

  // ---- the topic

  editTopic(editing) {
    const listed = this.channel && this.sidebar.find(this.channel.id);
    const had = document.activeElement === $("topic");
    show($("topic"), editing);
    show($("description"), !editing);
    if (had && !editing) $("description").focus();
    if (!editing) return;
    $("topic").value = listed?.description ?? "";
    $("topic").setCustomValidity("");
    $("topic").focus();
  }

  /** Say what the channel is about. Rejects with what the server has against it. */
  async describe(description) {
    await this.client.rpc("channels.update", { id: this.channel.id, description });
    this.sidebar.directory.refresh();
  }

  async #saveTopic() {
    try {
      await this.describe($("topic").value.trim());
    } catch (error) {
      $("topic").setCustomValidity(sayError(error));
      return $("topic").reportValidity();
    }
    this.editTopic(false);
  }

  // ---- the composer

  /** Say something to the writer alone, above what they write; nothing: no more. */
  note(...words) {
    $("note").replaceChildren(...words);
    show($("note"), words.length > 0);
  }

  /** Put a text back into what is being written. */
  edit(text) {
    $("text").value = [$("text").value, text].filter(Boolean).join("\n");
    this.#size();
    $("text").focus();
  }

  /** Put somebody's name into what is being written. */
  mention(name) {
    const { value } = $("text");
    $("text").value = `${value}${value && !/\s$/.test(value) ? " " : ""}@${name} `;
    this.#size();
    $("text").focus();
  }

  /** Complete the command or name being written before the caret; whether there was one to complete. */
  #complete() {
    const input = $("text");
    const begins = /^\/\S*$/.exec(input.value.slice(0, input.selectionEnd))?.[0];
    const command = begins && Object.keys(COMMANDS).find((command) => command.startsWith(begins));
    if (command) {
      input.setRangeText(`${command} `, 0, input.selectionEnd, "end");
      return true;
    }
    const [, before, begun] = /^([^]*@)([^\s@]*)$/.exec(input.value.slice(0, input.selectionEnd)) ?? [];
    if (begun === undefined) return false;
    const name = this.channel.names.find((name) => folded(name).startsWith(folded(begun)));
    if (!name) return false;
    input.setRangeText(`${name} `, before.length, input.selectionEnd, "end");
    return true;
  }

  #send() {
    const text = cleaned($("text").value).trimEnd().normalize(); // as the server stores it
    if (!this.channel || !text) return;
    this.note();
    $("text").value = "";
    this.#size();
    this.#typed = 0;
    this.onLine(text);
    this.draw();
  }

  /** A page of older messages. */
  older() {
    this.channel.earlier();
    $("log").scrollBy(0, -0.85 * $("log").clientHeight);
  }

  #typing() {
    this.#size();
    const now = performance.now();
    const { channel } = this;
    if (/^(\/.*)?$/.test($("text").value) || (this.#typed && now - this.#typed < TYPING_EVERY)) return;
    this.#typed = now;
    const live = channel?.subscription.state === "live";
    if (live) this.client.call({ rpc: { method: "typing", data: { channel: channel.id } } }).catch(() => {});
  }

  /** Where the browser does not size the input by what is in it. */
  #size() {
    if (CSS.supports("field-sizing", "content")) return;
    $("text").rows = Math.min(8, $("text").value.split("\n").length);
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("composer").requestSubmit();
    } else if (event.key === "Tab" && !event.shiftKey && this.#complete()) {
      event.preventDefault();
    } else if (event.key === "PageUp" || event.key === "PageDown") {
      event.preventDefault();
      $("log").scrollBy(0, (event.key === "PageUp" ? -0.85 : 0.85) * $("log").clientHeight);
    }
  }
}

function edge({ size, first }) {
  if (!size) return say("empty");
  return first > 1 ? say("forgotten") : say("beginning");
}
