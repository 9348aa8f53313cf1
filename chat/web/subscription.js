// One channel as this page follows it: a position (epoch, offset), and one repair for every way of falling behind.
//
// Everything up to the position was given to the view, in order, each message once, or the view was told of the jump.
// A push that is the next one moves the position; any other push, a reconnect or a `recovered: false` only says how far
// there is to go, and #catchUp reads that from history. Nothing is buffered meanwhile.

import { ConnectionLost, ReplyError, randomKey } from "./client.js";
import { say } from "./words.js";

const PAGE = 500; // messages read at a time when catching up
const UNRECOVERABLE = 112;
const RESUBSCRIBE = 2500; // unsubscribe codes from here on mean: come back
const BLAMES = 2; // connections that a message may end before it is given up
const KEY_LASTS = 240_000; // ms a key is sure to be remembered (IDEMPOTENCY_TTL is 300 s)
const SOUGHT = 20; // pages of history that are looked through for a message of ours

/**
 * `view` hears: began() when all before is void, message(publication, message) where `message` is the one of ours it
 * settles, event(publication) for what has no position, gap(first, last) of offsets that history no longer holds,
 * jumped() when more was missed than `view.reach`, moved(info, here) of who joins and leaves, typing(user),
 * trying(message) before one of ours is sent, and state(state, error): joining, live, ended.
 */
export class Subscription {
  state = "joining";
  epoch = "";
  offset = 0;
  #top = 0; // the highest offset heard of since the last subscribe
  #run = 0; // counts starts and stops: what belongs to an earlier one is dropped
  #stored = 0; // the highest offset of our own messages
  #outgoing = new Set();
  #queue = Promise.resolve();
  #waiting = []; // publishes waiting for the channel to be live again

  /** `name` is what the channel is called if it is not there yet. */
  constructor(client, channel, view, name = channel) {
    Object.assign(this, { client, channel, view, name });
  }

  /** Follow the channel, now and after every reconnect. */
  join() {
    this.client.subscriptions.set(this.channel, this);
    if (this.client.state === "connected") this.start();
  }

  /** Subscribe, at first or again, and come level with the channel. The client calls this on every connect. */
  start() {
    this.#become("joining");
    this.#work((run) => this.#subscribe(run));
  }

  /** The connection is gone; start() will follow. */
  stop() {
    this.#run++;
    if (this.state === "live") this.#become("joining");
  }

  /** Resolves with whether the server was told. */
  leave() {
    this.#run++;
    this.client.subscriptions.delete(this.channel);
    const told = this.client.call({ unsubscribe: { channel: this.channel } });
    this.#become("ended", new ReplyError({ code: 0, message: "left" }));
    return told.then(() => true, () => false);
  }

  receive(publication) {
    const { offset, data, info } = publication;
    if (!offset) return data?.typing === true ? this.view.typing(info?.user ?? "") : this.view.event(publication);
    this.#top = Math.max(this.#top, offset);
    if (this.state !== "live") return; // catching up: it will be read from history
    if (offset === this.offset + 1) this.#advance(publication);
    else if (offset > this.offset) this.#repair();
  }

  /** Somebody came (`here`) or went. */
  moved(info, here) {
    this.view.moved(info, here);
  }

  /** The server ended the subscription. */
  dropped(code, reason) {
    if (code >= RESUBSCRIBE) this.start();
    else this.#end(new ReplyError({ code, message: reason }));
  }

  /** A page of `limit` messages before `offset` (0: the latest), or behind it; oldest first. Rejects in another epoch. */
  async page(offset, limit, reverse = true) {
    const { channel, epoch } = this;
    const since = offset || !reverse ? { since: { epoch, offset } } : {};
    const { publications } = await this.client.repeat({ history: { channel, limit, reverse, ...since } }, Infinity);
    return reverse ? publications.reverse() : publications;
  }

  /**
   * Publish `message` ({data}), after those before it, each once: it is repeated with the same key until the server has
   * said yes or no. Resolves with {offset, epoch, time}; rejects with what the server has against it.
   *
   * Of a message that was tried it knows since when (`tried`), behind which position (`since`) and by which connections
   * (`clients`), so that another page can go on with it.
   */
  publish(message) {
    message.key ??= randomKey();
    this.#outgoing.add(message);
    const sent = this.#queue.then(() => this.#deliver(message));
    this.#queue = sent.then(() => this.#outgoing.delete(message)).catch(() => {}); // a failed one may still turn up
    return sent;
  }

  /** Think no more of a message that failed. */
  discard(message) {
    this.#outgoing.delete(message);
  }

  /** Whether something is unsent that would be gone with this page. */
  get unkept() {
    return [...this.#outgoing].some(({ kept }) => !kept);
  }

  async #deliver(message) {
    for (;;) {
      await this.#live(); // recovered first: what an earlier try stored is then known, and not sent again
      if (message.stored) return message.stored;
      try {
        if (message.sought && (await this.#seek(message))) return message.stored;
        const { channel, epoch } = this;
        const offset = Math.max(this.offset, this.#stored);
        if (!message.tried) Object.assign(message, { tried: Date.now(), since: { epoch, offset }, clients: [] });
        message.clients = [...new Set([...message.clients, this.client.ids.at(-1)])].slice(-20);
        this.view.trying(message);
        const stored = await this.client.rpc("publish", { channel, data: message.data, key: message.key });
        this.#stored = stored.offset;
        return stored;
      } catch (error) {
        if (!(error instanceof ConnectionLost)) throw error;
        if (!error.blamed) continue;
        message.blames = (message.blames ?? 0) + 1;
        if (message.blames >= BLAMES) throw new ReplyError(error.blamed);
      }
    }
  }

  /**
   * Whether a message that an earlier page tried to send is stored. While its key is remembered that need not be known; later
   * history tells, and where it does not reach, a person has to.
   */
  async #seek(message) {
    const { channel } = this;
    let { since } = message;
    const old = Date.now() - message.tried > KEY_LASTS;
    for (let page = 0; old && (since.epoch !== this.epoch || since.offset < this.offset); page++) {
      const found = await this.client.repeat({ history: { channel, limit: PAGE, since } }, Infinity).catch((error) => {
        if (error instanceof ConnectionLost) throw error;
        return { publications: [] };
      });
      for (const publication of found.publications) {
        if (this.#recognise(publication) === message) return true;
      }
      const { offset } = found.publications[0] ?? {};
      if (offset !== since.offset + 1 || page === SOUGHT) {
        message.sought = false; // asked to, it is sent
        throw new ReplyError({ code: -1, message: say("uncertain") });
      }
      since = { ...since, offset: found.publications.at(-1).offset };
    }
    message.sought = false;
    return false;
  }

  /** Resolves when what we know is level with the channel. */
  #live() {
    if (this.state === "live") return Promise.resolve();
    if (this.state === "ended") return Promise.reject(this.error);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #repair() {
    this.#become("joining");
    this.#work(() => {});
  }

  async #work(steps) {
    const run = ++this.#run;
    try {
      await steps(run);
      await this.#catchUp(run);
      this.#become("live");
    } catch (error) {
      if (run === this.#run && !(error instanceof ConnectionLost)) this.#end(error);
    }
  }

  async #ask(run, command) {
    const reply = await this.client.repeat(command, Infinity);
    if (run !== this.#run) throw new ConnectionLost(); // a later start has taken over
    return reply;
  }

  async #subscribe(run) {
    const { channel, epoch, offset } = this;
    this.#top = 0;
    if (!epoch && this.name !== channel) await this.#make(run);
    const position = epoch ? { recover: true, epoch, offset } : {};
    const reply = await this.#ask(run, { subscribe: { channel, join_leave: true, ...position } });
    if (reply.recovered) for (const publication of reply.publications ?? []) this.#advance(publication);
    else if (reply.epoch !== epoch) await this.#begin(run, reply);
    this.#top = Math.max(this.#top, reply.offset ?? 0);
  }

  /** Make the channel under its name; where that may not be, subscribing says why. */
  async #make(run) {
    await this.#ask(run, { rpc: { method: "channels.create", data: { name: this.name } } }).catch((error) => {
      if (error instanceof ConnectionLost) throw error;
    });
  }

  /** The one repair: read history from the position to the top. */
  async #catchUp(run) {
    const { channel } = this;
    while (this.offset < this.#top) {
      if (this.#top - this.offset > this.view.reach && !this.#outgoing.size) {
        this.view.jumped(); // it reads what it shows by itself
        this.offset = this.#top;
        continue;
      }
      const since = { epoch: this.epoch, offset: this.offset };
      const page = await this.#ask(run, { history: { channel, limit: PAGE, since } }).catch((error) => {
        if (error.code === UNRECOVERABLE) return this.#ask(run, { history: { channel, limit: 0 } });
        throw error;
      });
      if (page.epoch !== this.epoch) {
        this.#top = 0;
        await this.#begin(run, page);
        continue;
      }
      for (const publication of page.publications) this.#advance(publication);
      if (!page.publications.length) this.#skipTo(page.offset);
    }
  }

  /** Begin where the channel stands: on joining, and when its history itself began anew. */
  async #begin(run, { epoch, offset = 0 }) {
    const { channel } = this;
    const anew = this.epoch !== "" && this.#outgoing.size > 0;
    Object.assign(this, { epoch, offset });
    this.#stored = 0;
    if (anew) {
      const page = await this.#ask(run, { history: { channel, limit: PAGE, reverse: true } });
      for (const publication of page.publications.reverse()) this.#recognise(publication);
    }
    this.view.began();
  }

  #advance(publication) {
    if (publication.offset <= this.offset) return;
    if (publication.offset > this.offset + 1) this.view.gap(this.offset + 1, publication.offset - 1);
    this.offset = publication.offset;
    this.view.message(publication, this.#recognise(publication));
  }

  /** History ends before the top: the rest is not kept any more. */
  #skipTo(top) {
    if (top > this.offset) this.view.gap(this.offset + 1, top);
    this.offset = Math.max(this.offset, top);
    this.#top = this.offset;
  }

  /** The outgoing message this publication is, if it is one of ours; its reply may never have come. */
  #recognise({ data, info, offset, time }) {
    const text = JSON.stringify(data);
    for (const message of this.#outgoing) {
      const by = message.clients ?? [];
      if (message.stored || !by.includes(info?.client) || JSON.stringify(message.data) !== text) continue;
      message.stored = { offset, time, epoch: this.epoch };
      return message;
    }
    return undefined;
  }

  #end(error) {
    this.#run++;
    this.client.subscriptions.delete(this.channel); // a reconnect must not join, and so recreate, a deleted channel
    this.#become("ended", error);
  }

  #become(state, error = null) {
    this.state = state;
    this.error = error;
    if (state !== "joining") {
      for (const { resolve, reject } of this.#waiting.splice(0)) state === "live" ? resolve() : reject(error);
    }
    this.view.state(state, error);
  }
}
