// A joined channel: its subscription, its log, and what of it was read. It lives on while another one is on the screen.

import { KEEP, Log } from "./log.js";
import { Subscription } from "./subscription.js";

export class Channel {
  log;
  subscription;
  read = 0; // the highest offset that was on the screen
  draft = "";
  scroll = null; // where the log was scrolled to; null follows the newest message
  complete = false; // nothing older is in history

  /** `onChange(channel)` is told whenever something of it may have to be shown anew. */
  constructor(client, id, onChange) {
    Object.assign(this, { client, id, onChange });
    const discard = (message) => {
      this.subscription.discard(message);
      onChange(this);
    };
    this.log = new Log(client, (message) => this.#send(message), discard);
    this.join();
  }

  join() {
    this.subscription = new Subscription(this.client, this.id, this, KEEP);
    this.subscription.join();
  }

  leave() {
    this.subscription.leave();
  }

  get unread() {
    return Math.max(0, this.subscription.offset - this.read);
  }

  say(text) {
    this.scroll = null;
    this.#send({ data: { text } });
  }

  async #send(message) {
    this.log.sending(message);
    this.onChange(this);
    try {
      this.log.settle(message, await this.subscription.publish(message));
    } catch (error) {
      this.log.failed(message, error.message);
    }
    this.onChange(this);
  }

  /** Whether messages older than those shown can be read. */
  get hasEarlier() {
    return !this.complete && this.log.size < KEEP && this.log.oldest > 1;
  }

  async showEarlier() {
    const publications = await this.subscription.earlier(this.log.oldest).catch(() => null);
    if (!publications) return; // the connection went away: the button is still there
    const room = KEEP - this.log.size;
    for (const publication of publications.slice(-room)) this.log.add(publication);
    this.complete = publications.length === 0;
    this.onChange(this);
  }

  // What the subscription tells its view.

  reset(publications) {
    this.complete = false;
    this.log.reset(publications);
    if (!this.read) this.read = publications.at(-1)?.offset ?? 0;
    this.onChange(this);
  }

  message(publication, ours) {
    this.log.add(publication, ours);
    this.onChange(this);
  }

  event(publication) {
    this.log.add(publication);
    this.onChange(this);
  }

  gap(first, last) {
    this.log.gap(first, last);
    this.onChange(this);
  }

  state() {
    this.onChange(this);
  }
}
