// A channel we belong to: its subscription, a window on its log, what of it was read, who is there. It lives on while
// another one is on the screen; then it only counts.

import { ConnectionLost, randomKey } from "./client.js";
import { KEEP, Log } from "./log.js";
import { folded } from "./names.js";
import { typed } from "./slash.js";
import { Subscription } from "./subscription.js";
import { mentions } from "./text.js";

const PAGE = 50; // messages loaded at a time
const ABOVE = 20; // of them shown above the first new one
const REPORT = 400; // ms between words to the server on what was read
const TYPING_LASTS = 5000; // ms that somebody is shown to write
const FEW = 50; // unread messages that one who never read begins with, rather than at the end

export class Channel {
  log;
  subscription;
  read; // the highest offset that was on the screen, here or in another client of ours
  line = null; // the offset above which all was read when we came; null: no line is drawn
  following = true; // the newest message is on the screen, and is to stay there
  place = 0; // where the log was scrolled to otherwise
  shown = false;
  mentioned = false;
  draft = "";
  kept = ""; // of it, what outlives the page
  people = new Map(); // client -> user
  writers = new Map(); // user -> the timer that ends it
  since = performance.now();
  #top; // before the subscription knows better
  #loading = null;
  #visit = 0; // counts what was shown from its beginning
  #reported = 0;
  #left = false;
  #timer = 0;

  /**
   * `screen` hears: changed(channel) whenever something may have to be drawn anew, place(channel) to show it from where its
   * reader is, keep(channel, change) to change its log without moving what is read, arrived(channel, publication, ours),
   * edit(channel, text) to write a text anew; `outbox` keeps what is on its way; `seen` says whether somebody looks. `known` is {read, top} where the server told it; `name` how a link spelled it.
   */
  constructor(client, id, screen, known = null, name = id) {
    Object.assign(this, { client, id, screen, name });
    this.read = this.#reported = known?.read ?? null;
    this.#top = known?.top ?? 0;
    const discard = (message) => {
      this.subscription.discard(message);
      screen.outbox.drop(message);
      screen.changed(this);
    };
    const edit = (message) => {
      discard(message);
      screen.edit(this, typed(message.data));
    };
    this.log = new Log(client, (message) => this.#send(message), discard, edit);
    this.join();
  }

  join() {
    this.subscription = new Subscription(this.client, this.id, this, this.name);
    this.subscription.join();
  }

  leave() {
    clearTimeout(this.#timer);
    this.#left = true;
    for (const message of this.log.messages) this.screen.outbox.drop(message);
    return this.subscription.leave();
  }

  get top() {
    return this.subscription.epoch ? this.subscription.offset : this.#top;
  }

  get unread() {
    return Math.max(0, this.top - (this.read ?? this.top));
  }

  /** Somebody looks at the newest message. */
  get watched() {
    return this.shown && this.following && this.screen.seen;
  }

  /** How many missed messages are worth reading one by one. */
  get reach() {
    return this.shown && this.log.attached ? KEEP : 2 * PAGE;
  }

  // ---- what is shown

  /** It comes on the screen: show it from the first new message on, else as it was left. */
  show() {
    this.shown = true;
    this.meet();
    this.line = this.unread > 0 && (this.read > 0 || this.unread <= FEW) ? this.read : null;
    if (this.line !== null) this.following = false;
    return this.#once(async () => {
      if (!this.subscription.epoch) return; // began() shows it
      const { first, last } = this.log;
      const near = this.line === null ? last >= this.top - KEEP : last >= this.line && first <= this.line + 1;
      if (!near || !last) await this.#fill();
      else if (!this.log.attached) await this.#level();
      this.log.mark(this.line);
    });
  }

  hide() {
    this.shown = false;
    this.jumped();
  }

  /** Show the newest messages. */
  async toEnd() {
    this.following = true;
    await this.#once(() => (this.log.attached ? null : this.#level()));
  }

  /** Show the messages around `offset`. */
  goTo(offset) {
    this.following = false;
    return this.#once(async () => {
      if (!this.log.find(offset)) await this.#window(offset);
    });
  }

  /** Whether messages older than those shown can be read. */
  get hasEarlier() {
    return this.log.first > 1 && this.log.beginning !== this.log.first;
  }

  earlier() {
    return this.#once(async () => {
      if (!this.hasEarlier) return;
      const publications = await this.#page(this.log.first, PAGE);
      this.screen.keep(this, () => this.log.prepend(publications));
    });
  }

  later() {
    return this.#once(() => (this.log.attached ? null : this.#more()));
  }

  /** One load at a time; what fails because the connection went away is tried again when it is back. */
  async #once(load) {
    while (this.#loading) await this.#loading;
    this.#loading = Promise.resolve(load()).catch((error) => {
      if (!error.temporary) this.log.attached = this.shown; // history is not for us: then what comes
    });
    await this.#loading;
    this.#loading = null;
    this.screen.changed(this);
  }

  get loading() {
    return this.#loading !== null;
  }

  /** A page of history for what is shown now: if that is another when it comes, nothing more is done with it. */
  async #page(...asked) {
    const visit = this.#visit;
    const publications = await this.subscription.page(...asked);
    if (visit !== this.#visit) throw new ConnectionLost();
    return publications;
  }

  async #fill() {
    if (this.line !== null) return this.#window(this.line + 1);
    this.log.reset(await this.#page(0, PAGE));
    await this.#level();
  }

  #refill() {
    return this.#once(() => this.log.attached || (this.log.size ? this.#level() : this.#fill()));
  }

  async #window(offset) {
    const [above, below] = await Promise.all([
      this.#page(offset, ABOVE),
      this.#page(offset - 1, PAGE, false),
    ]);
    this.log.reset(above);
    this.log.append(below);
    this.log.mark(this.line);
    this.#attach();
  }

  /** Load until the log shows the channel's end, or while somebody reads further up, one page. */
  async #level() {
    while (!this.#attach()) {
      if (this.watched && this.top - this.log.last > KEEP) this.log.reset(await this.#page(0, PAGE));
      else if (!(await this.#more()) || !this.watched) return;
    }
  }

  async #more() {
    const { top } = this;
    const publications = await this.#page(this.log.last, PAGE, false);
    this.screen.keep(this, () => this.log.append(publications));
    return this.#attach(!publications.length && top === this.top) || publications.length > 0;
  }

  /** If it shows the end of what history has, it is the place for what comes. */
  #attach(ended = false) {
    return (this.log.attached ||= this.shown && (ended || this.log.last >= this.top));
  }

  // ---- what was read

  /** Everything up to `offset` was on the screen. */
  reading(offset) {
    if (this.read !== null && offset <= this.read) return;
    this.read = offset;
    if (!this.unread) this.mentioned = false;
    if (this.#timer) return;
    this.report();
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.report();
    }, REPORT);
  }

  /** Tell the server now. */
  report() {
    if (!this.read || this.read === this.#reported || this.client.state !== "connected") return;
    const offset = (this.#reported = this.read);
    this.client.call({ rpc: { method: "read", data: { channel: this.id, offset } } }).catch(() => {
      this.#reported = null; // with the next one
    });
  }

  /** What the server knows: another client of ours may have read further. */
  know({ read, top }) {
    this.#top = top;
    if (read <= top && read > (this.read ?? -1)) this.read = this.#reported = read;
    if (!this.unread) this.mentioned = false;
  }

  // ---- what is said

  /** Say `data`, {text}. */
  say(data) {
    this.line = null;
    this.log.mark(null);
    this.#send({ data });
    this.toEnd();
  }

  /** Go on with a message of ours that an earlier page left. */
  restore(message) {
    message.sought = Boolean(message.tried);
    this.#send(message, message.error);
  }

  async #send(message, refused = null) {
    message.key ??= randomKey();
    message.at ??= Date.now();
    message.error = refused;
    this.log.sending(message);
    this.screen.outbox.keep(message, this.client.user, this);
    this.screen.changed(this);
    try {
      if (refused) throw refused;
      this.log.settle(message, await this.subscription.publish(message));
      this.screen.outbox.drop(message);
    } catch ({ code, message: why }) {
      message.error = { code, message: why };
      if (!this.#left) this.trying(message);
      this.log.failed(message, message.error);
    }
    this.screen.changed(this);
  }

  /** It is about to be sent, or was refused: what is known of it is kept. */
  trying(message) {
    this.screen.outbox.keep(message, this.client.user, this);
  }

  // ---- what the subscription tells its view

  /** Its history is another from now on, or known for the first time. */
  began() {
    if (this.read === null) this.reading(this.top); // what was said before we came is not new to us
    if (this.read > this.top) this.read = 0;
    this.#visit++;
    this.log.reset([]);
    if (this.shown) this.screen.place(this);
    else if (this.unread) this.#lookForMentions();
  }

  jumped() {
    this.#visit++;
    this.log.detach(this.top);
  }

  message(publication, ours) {
    const { info, offset } = publication;
    const own = this.read === offset - 1 && folded(info?.user ?? "") === folded(this.client.user); // said elsewhere
    if (ours || own) this.reading(offset);
    else if (this.shown && this.read === offset - 1 && !this.watched) {
      this.log.mark((this.line = this.read));
    }
    this.#notice(publication);
    this.log.live(publication, ours, this.watched);
    if (info?.user) this.typing(info.user, true);
    this.screen.arrived(this, publication, ours);
    this.screen.changed(this);
  }

  event(publication) {
    if (this.shown) this.log.live(publication, undefined, this.watched);
    this.screen.changed(this);
  }

  gap(first, last) {
    if (this.log.attached) this.log.gap(first, last);
    this.screen.changed(this);
  }

  state(state) {
    if (state === "live") this.#meet();
    if (state === "live" && this.shown && !this.log.attached && (this.watched || !this.log.size)) this.#refill();
    this.screen.changed(this);
  }

  #notice({ data, info, offset }) {
    const me = folded(this.client.user);
    if (offset <= this.read || folded(info?.user ?? "") === me) return;
    if (typeof data?.text === "string" && mentions(data.text, me)) this.mentioned = true;
  }

  async #lookForMentions() {
    const unread = await this.subscription.page(this.read, 2 * PAGE, false).catch(() => []);
    for (const publication of unread) this.#notice(publication);
    this.screen.changed(this);
  }

  // ---- who is there

  moved({ user, client }, here) {
    if (here) this.people.set(client, user);
    else this.people.delete(client);
    this.screen.changed(this);
  }

  /** Read who is here, of whom we heard only some come and go. */
  async #meet() {
    if (!this.shown) return;
    const { presence } = await this.client.repeat({ presence: { channel: this.id } }).catch(() => ({}));
    if (!presence) return;
    this.people = new Map(Object.values(presence).map(({ client, user }) => [client, user]));
    this.screen.changed(this);
  }

  meet() {
    if (this.subscription.state === "live") this.#meet();
  }

  /** Who may be called: those who are here. */
  get names() {
    const me = folded(this.client.user);
    return [...new Set(this.people.values())].filter((name) => folded(name) !== me).sort();
  }

  /** Somebody writes; or does no longer. */
  typing(user, over = false) {
    clearTimeout(this.writers.get(user));
    if (over || folded(user) === folded(this.client.user)) this.writers.delete(user);
    else this.writers.set(user, setTimeout(() => this.typing(user, true), TYPING_LASTS));
    this.screen.changed(this);
  }
}
