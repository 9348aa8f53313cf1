// The list of channels and the form that makes one. It knows the channels the server lists and those that are joined.

import { complain, isName } from "./door.js";
import { number, say } from "./words.js";

const LISTED = 200; // channels shown; others are joined by name
const ALREADY_EXISTS = 105;

const $ = (id) => document.getElementById(id);

/** The id of the channel of that name, as the server folds it. */
export const folded = (name) =>
  name.normalize().toLowerCase().normalize().replaceAll("ي", "ی").replaceAll("ك", "ک").replaceAll("\u200c", "");

export const hashOf = (id) => `#${encodeURIComponent(id)}`;

export class Sidebar {
  channels = []; // as the server lists them: {id, name, description}
  client = null;
  #links = new Map();

  /** `joined` maps ids to Channels; `onList` is told that the list was read anew. */
  constructor(joined, onList) {
    Object.assign(this, { joined, onList });
    $("new-channel").addEventListener("click", () => this.#toggleForm($("create").hidden));
    $("cancel").addEventListener("click", () => this.#toggleForm(false));
    $("create").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
  }

  async refresh() {
    if (this.client?.state !== "connected") return;
    try {
      this.channels = (await this.client.rpc("channels.list")).channels;
    } catch {
      return; // the connection went away, or the server is busy: the next look shows them
    }
    this.onList();
  }

  find(id) {
    return this.channels.find((channel) => channel.id === id);
  }

  /** The channel to open for somebody who asked for none. */
  first(preferred) {
    return this.channels.length && !this.find(preferred) ? this.channels[0].id : preferred;
  }

  draw(current) {
    const { joined } = this;
    const unlisted = [...joined.keys()].filter((id) => !this.find(id)).map((id) => ({ id, name: id }));
    const all = [...unlisted, ...this.channels];
    all.sort((a, b) => joined.has(b.id) - joined.has(a.id) || a.name.localeCompare(b.name));
    const focused = document.activeElement?.dataset.channel;
    this.#links.clear();
    $("channels").replaceChildren(...all.slice(0, LISTED).map((channel) => this.#row(channel, current)));
    this.#links.get(focused)?.focus();
    const more = all.length - LISTED;
    $("channels-note").textContent = more > 0 ? say("more", more) : say("noChannels");
    $("channels-note").hidden = more <= 0 && all.length > 0;
  }

  drawUnread(id) {
    const link = this.#links.get(id);
    if (!link) return;
    const unread = this.joined.get(id)?.unread ?? 0;
    const badge = link.querySelector(".unread");
    badge.textContent = number(Math.min(unread, 999));
    badge.hidden = unread === 0;
  }

  #row({ id, name }, current) {
    const row = $("channel-template").content.firstElementChild.cloneNode(true);
    const link = row.firstElementChild;
    link.href = hashOf(id);
    link.dataset.channel = id;
    link.classList.toggle("joined", this.joined.has(id));
    if (id === current) link.setAttribute("aria-current", "page");
    row.querySelector(".channel-name").textContent = name;
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
      if (error.code !== ALREADY_EXISTS) return complain("create-error", error.message);
    }
    this.#toggleForm(false);
    location.hash = hashOf(id);
    await this.refresh();
  }

  #toggleForm(visible) {
    $("create").hidden = !visible;
    $("new-channel").setAttribute("aria-expanded", visible);
    $("create").reset();
    complain("create-error", "");
    if (visible) $("channel-name").focus();
  }
}
