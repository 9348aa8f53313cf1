// The channels there are: some pages of the server's list when we come, and then what it says has changed. Where there
// are more than that, those one belongs to are asked for by their ids, and those one looks for by how they begin.

const PAGE = 200; // channels asked for at once
const KNOWN = 1000; // channels after which no more are asked for unasked
const PAUSE = 200; // ms between the last key and the question
const SPREAD = 10_000; // ms over which pages ask anew when much has changed: they all hear of it together

export class Directory {
  client = null;
  #channels = new Map(); // id -> {id, name, description, kind}
  #whole = true; // whether these are all
  #timer = 0;

  /** `mine()` are the ids one belongs to; `onChange` is told when the channels are others; `named` says how one is shown. */
  constructor(mine, onChange, named) {
    Object.assign(this, { mine, onChange, named });
  }

  get all() {
    return [...this.#channels.values()];
  }

  find(id) {
    return this.#channels.get(id);
  }

  /** Ask anew, and hear of changes from now on. */
  async refresh() {
    const found = new Map();
    let after = "";
    try {
      do after = await this.#ask({ after, limit: PAGE, listen: true }, found);
      while (after && found.size < KNOWN);
    } catch {
      return; // the connection went away, or the server is busy: the next look shows them
    }
    this.#channels = found;
    this.#whole = !after;
    await this.complete();
    this.onChange();
  }

  /** Ask for those one belongs to that are not known. */
  async complete() {
    const ids = [...this.mine()].filter((id) => !this.#channels.has(id));
    if (!ids.length) return;
    const known = this.#channels.size;
    for (let i = 0; i < ids.length; i += PAGE) {
      await this.#ask({ ids: ids.slice(i, i + PAGE) }, this.#channels).catch(() => "");
    }
    if (this.#channels.size > known) this.onChange();
  }

  /** Somebody looks for a channel whose id begins so: it may not be among those that are known. */
  seek(prefix) {
    clearTimeout(this.#timer);
    if (this.#whole || !prefix) return;
    this.#timer = setTimeout(async () => {
      await this.#ask({ prefix, limit: PAGE }, this.#channels).catch(() => "");
      this.onChange();
    }, PAUSE);
  }

  /** What the server said has changed. */
  heard({ changed = [], gone = [], many = false }) {
    for (const channel of changed) this.#channels.set(channel.id, this.named(channel));
    for (const id of gone) this.#channels.delete(id);
    this.onChange();
    if (many) setTimeout(() => this.refresh(), Math.random() * SPREAD);
  }

  async #ask(asked, found) {
    if (this.client?.state !== "connected") throw new Error("not connected");
    const page = await this.client.rpc("channels.list", asked);
    for (const channel of page.channels) found.set(channel.id, this.named(channel));
    return page.next;
  }
}
