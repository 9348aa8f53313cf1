// The list of channels and the form that makes one. It knows the channels the server lists and those that are joined.

import { Directory } from "./directory.js";
import { complain } from "./door.js";
import { folded, isName } from "./names.js";
import { number, say, sayError, translate } from "./words.js";

const LISTED = 200; // channels shown; others are joined by name
const ALREADY_EXISTS = 105;

const $ = (id) => document.getElementById(id);

export const hashOf = (id) => `#${encodeURIComponent(id)}`;

/** Whether a link is where one sees it, as the list is scrolled. */
function isSeen(link) {
  if (!link) return false;
  const [list, { top, bottom }] = [$("lists").getBoundingClientRect(), link.getBoundingClientRect()];
  return top >= list.top && bottom <= list.bottom;
}

export class Sidebar {
  #links = new Map();
  #current = "";
  #drawn = "";
  #asks = ""; // as they are shown
  #followed = ""; // the channel that was scrolled to
  #opener = null; // what had the focus before the form

  /** `joined` maps ids to Channels; `onList` is told that the list is another, `onChoose(id)` what to open. */
  constructor(joined, onList, onChoose) {
    const directory = new Directory(() => joined.keys(), onList, (channel) => this.#named(channel));
    Object.assign(this, { joined, onChoose, directory });
    $("new-channel").addEventListener("click", () => this.toggleForm($("create").hidden));
    $("cancel").addEventListener("click", () => this.toggleForm(false));
    $("channel-name").addEventListener("input", () => {
      this.directory.seek(this.#sought);
      this.draw();
    });
    $("create").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.toggleForm(false);
    });
    $("lists").addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      this.onChoose(link.dataset.channel);
      if (!$("create").hidden) this.toggleForm(false);
    });
    $("create").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
  }

  get client() {
    return this.directory.client;
  }

  set client(client) {
    this.directory.client = client;
  }

  get channels() {
    return this.directory.all;
  }

  get #sought() {
    return $("create").hidden ? "" : folded($("channel-name").value.trim().replace(/^#/, ""));
  }

  /** Look for what is ours and not known, and for who asks for us. */
  async refresh() {
    if (this.client?.state !== "connected") return;
    await this.directory.complete();
    try {
      this.#drawAsks((await this.client.rpc("channels.asks")).asks);
    } catch {
      // the connection went away, or the server is busy: the next look shows them
    }
  }

  /** A channel of two is named after the other one. */
  #named(channel) {
    if (channel.kind !== "pair") return channel;
    const other = channel.description.split(" ").find((name) => folded(name) !== folded(this.client.user));
    return { ...channel, name: `@${other}`, kind: "private", description: "" };
  }

  /** Who wants to talk to us alone, and our answer. */
  #drawAsks(asks) {
    const drawn = JSON.stringify(asks);
    if (drawn === this.#asks) return; // a button that is being pressed must not be replaced
    this.#asks = drawn;
    const rows = asks.map(({ user, channel }) => {
      const row = $("ask-template").content.firstElementChild.cloneNode(true);
      translate(row);
      row.firstElementChild.textContent = say("wantsToTalk", 0, user);
      const [accept, decline] = row.querySelectorAll("button");
      accept.addEventListener("click", () => this.#answer(row, "channels.private", user, channel));
      decline.addEventListener("click", () => this.#answer(row, "channels.decline", user));
      return row;
    });
    $("asks").replaceChildren(...rows);
  }

  async #answer(row, method, user, channel) {
    try {
      await this.client.rpc(method, { user });
    } catch (error) {
      row.firstElementChild.textContent = sayError(error);
      return;
    }
    this.#asks = "";
    await this.directory.refresh();
    await this.refresh();
    if (!channel) return;
    this.onChoose(channel);
    location.hash = hashOf(channel);
  }

  find(id) {
    return this.directory.find(id);
  }

  /** The channel to open for somebody who asked for none. */
  first(preferred) {
    const mine = [...this.joined.keys()];
    if (this.joined.has(preferred) || (!mine.length && !this.channels.length)) return preferred;
    return mine[0] ?? (this.find(preferred) ?? this.channels[0]).id;
  }

  /** The joined channel `step` places from the current one; of those with something `unread` only. */
  next(step, unread) {
    const ids = [...$("channels").querySelectorAll("a")].map((link) => link.dataset.channel);
    const from = ids.indexOf(this.#current);
    const around = ids.map((_, i) => ids[(from + step * (i + 1) + ids.length * 2) % ids.length]);
    return around.find((id) => !unread || this.joined.get(id)?.unread);
  }

  draw(current = this.#current) {
    this.#current = current;
    const { joined } = this;
    const sought = this.#sought;
    const unlisted = [...joined.values()].filter(({ id }) => !this.find(id));
    const all = [...unlisted, ...this.channels].filter(({ id }) => id.includes(sought));
    all.sort((a, b) => joined.has(b.id) - joined.has(a.id) || a.name.localeCompare(b.name));
    const looks = all.map(({ id, name, kind = "public" }) => [id, name, kind, joined.has(id)]);
    const drawn = JSON.stringify([current, sought, looks]);
    if (drawn === this.#drawn) {
      for (const id of this.#links.keys()) this.drawUnread(id);
      return; // a link that is being pressed must not be replaced: it would not hear the release
    }
    this.#drawn = drawn;
    const focused = document.activeElement?.dataset.channel;
    const follow = current !== this.#followed || isSeen(this.#links.get(current));
    this.#followed = current;
    this.#links.clear();
    const shown = all.slice(0, LISTED);
    const mine = shown.filter(({ id }) => joined.has(id));
    const others = shown.slice(mine.length);
    $("channels").replaceChildren(...mine.map((channel) => this.#row(channel)));
    $("others").replaceChildren(...others.map((channel) => this.#row(channel)));
    $("others-title").hidden = $("others").hidden = !others.length;
    this.#links.get(focused)?.focus({ preventScroll: true });
    if (follow) this.#links.get(current)?.scrollIntoView({ block: "nearest" });
    const more = all.length - LISTED;
    $("channels-note").textContent = more > 0 ? say("more", more) : say("noChannels");
    $("channels-note").hidden = more <= 0 && (all.length > 0 || sought !== "");
  }

  drawUnread(id) {
    const link = this.#links.get(id);
    if (!link) return;
    const { unread = 0, mentioned = false } = this.joined.get(id) ?? {};
    const name = link.firstElementChild.textContent;
    const badge = link.lastElementChild;
    badge.textContent = unread ? `${mentioned ? "@" : ""}${number(Math.min(unread, 999))}` : "";
    badge.hidden = unread === 0;
    badge.classList.toggle("mentioned", mentioned);
    link.classList.toggle("news", unread > 0);
    if (unread) link.setAttribute("aria-label", say(mentioned ? "mentions" : "unread", unread, name));
    else link.removeAttribute("aria-label");
  }

  #row({ id, name, kind = "public" }) {
    const row = $("channel-template").content.firstElementChild.cloneNode(true);
    const link = row.firstElementChild;
    link.href = hashOf(id);
    link.dataset.channel = id;
    link.dataset.kind = kind;
    if (id === this.#current) link.setAttribute("aria-current", "page");
    link.firstElementChild.textContent = name;
    this.#links.set(id, link);
    this.drawUnread(id);
    return row;
  }

  async #create() {
    const name = $("channel-name").value.trim().replace(/^#/, "");
    const description = $("channel-description").value.trim();
    if (!isName(name)) return complain("create-error", say("nameRule"));
    let id = folded(name);
    try {
      id = (await this.client.rpc("channels.create", { name, description })).id ?? id;
    } catch (error) {
      if (error.code !== ALREADY_EXISTS) return complain("create-error", sayError(error));
    }
    this.toggleForm(false);
    this.onChoose(id);
    location.hash = hashOf(id);
    await this.directory.refresh();
  }

  /** Closing it gives the focus back to where it was opened from. */
  toggleForm(visible) {
    const had = $("create").contains(document.activeElement);
    if (visible && !had) this.#opener = document.activeElement;
    $("create").hidden = !visible;
    $("new-channel").setAttribute("aria-expanded", visible);
    $("create").reset();
    complain("create-error", "");
    this.draw();
    if (visible) $("channel-name").focus();
    else if (had) (this.#opener.isConnected ? this.#opener : $("new-channel")).focus();
  }
}
