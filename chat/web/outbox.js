// What was said and is not known to be stored outlives its page: one entry of localStorage for each message. A page holds a lock
// while it lives, so that others go on with what is nobody's any more, and only with that. (Where there are no locks, as
// on plain http, several may send one message: its key makes it one.)

import { randomKey } from "./client.js";
import { folded } from "./names.js";
import { memory } from "./words.js";

const MOST = 50; // messages kept of a person
const LONGEST = 70_000; // characters of an entry: more than a message may have
const LASTS = 7 * 24 * 3600_000; // ms

const page = randomKey();
const lockOf = (id) => `peyk.page.${id}`;
navigator.locks?.request(lockOf(page), () => new Promise(() => {})); // until the page is gone

const prefixOf = (user) => `unsent/${folded(user)}/`; // no name holds a slash

function read(slot) {
  try {
    return JSON.parse(memory.get(slot));
  } catch {
    return null; // not something we wrote
  }
}

export class Outbox {
  #mine = new Set(); // slots of what this page is sending
  #outlived = new Set(); // ids of pages that live and have unsent messages: when they are gone those are ours to send

  /** `onOrphans()` is called when there may be messages to take. */
  constructor(onOrphans) {
    this.onOrphans = onOrphans;
  }

  /** Keep a message of `user` as it is now. `message.kept`: whether that could be done. */
  keep(message, user, channel) {
    const slot = (message.slot ??= prefixOf(user) + message.key);
    const { kept, ...entry } = message;
    const text = JSON.stringify({ ...entry, channel: channel.id, name: channel.name, page });
    const room = kept || memory.names(prefixOf(user)).length < MOST;
    this.#mine.add(slot);
    message.kept = room && text.length <= LONGEST && memory.set(slot, text);
  }

  drop({ slot }) {
    this.#mine.delete(slot);
    memory.remove(slot);
  }

  /** Forget everything of `user`. */
  clear(user) {
    for (const slot of memory.names(prefixOf(user))) memory.remove(slot);
  }

  /** The messages of `user` that no living page is sending, oldest first; this one does from now on. */
  async take(user) {
    const { held = [] } = (await navigator.locks?.query()) ?? {};
    const living = new Set(held.filter(({ mode }) => mode === "exclusive").map(({ name }) => name));
    const taken = [];
    for (const slot of memory.names("unsent/")) {
      const entry = read(slot);
      if (!entry?.data || Date.now() - entry.at > LASTS) memory.remove(slot);
      else if (!slot.startsWith(prefixOf(user)) || this.#mine.has(slot)) continue;
      else if (entry.page === page || !living.has(lockOf(entry.page))) taken.push({ ...entry, slot, kept: true });
      else this.#outlive(entry.page);
    }
    for (const { slot } of taken) this.#mine.add(slot);
    return taken.sort((a, b) => a.at - b.at);
  }

  /** Hear when another page is gone: its lock is to be had, by all who ask together, who are not taken for that page. */
  async #outlive(id) {
    if (this.#outlived.has(id)) return;
    this.#outlived.add(id);
    await navigator.locks.request(lockOf(id), { mode: "shared" }, () => {});
    this.#outlived.delete(id);
    this.onOrphans();
  }
}
