// One connection to Peyk: the Centrifugal client protocol v2 in JSON, as much of it as a chat page needs.
// A frame holds newline-joined JSON objects. No screen in here: subscription.js and the page are told what happened.

import { parsed } from "./json.js";
import { wellFormed } from "./words.js";

const FRAME_LIMIT = 256 * 1024; // UTF-16 units, at most 768 KiB of UTF-8: the server closes at 1 MiB for good
const REPLY_TIMEOUT = 20_000; // ms; a server that is silent for longer is reconnected to
const PING_GRACE = 10_000; // ms a ping may be late
const REFUSED = 3500; // close codes from here on mean: do not come back
const BLAMED = [1002, 1003, 1007, 1008, 1009, 3501]; // close codes that complain of what was sent
const UNAUTHORIZED = [101, 109, 3500]; // sign in (again): errors of connect, and the close code of a revoked token
const TRIES = 6; // of a command that keeps failing temporarily: about ten seconds

/** What the server (or a lost connection) answered instead of a reply. Codes are the protocol's. */
export class ReplyError extends Error {
  constructor({ code, message, temporary = false }) {
    super(message);
    this.code = code;
    this.temporary = temporary;
  }
}

/** The connection went away before the reply came: the outcome is unknown. `blamed`: what was sent is to blame for it. */
export class ConnectionLost extends ReplyError {
  constructor(blamed = null) {
    super({ code: 0, message: "connection lost", temporary: true });
    this.blamed = blamed;
  }
}

/** Milliseconds to wait before try number `attempt`; random, so that a thousand pages do not return as one. */
const backoff = (attempt) => 150 + Math.random() * Math.min(8000, 350 * 2 ** attempt);
const formed = (_, value) => (typeof value === "string" ? wellFormed(value) : value);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A fresh idempotency key. (crypto.randomUUID is missing on plain http origins other than localhost.) */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The connection. `onState(state)` hears: connecting, connected, waiting (for the next try), refused (the
 * server said not to come back; `reason` says why), closed. Subscriptions register themselves in `subscriptions`;
 * each has start(), stop(), receive(pub), moved(info, here) and dropped(code, reason).
 */
export class Client {
  subscriptions = new Map();
  ids = []; // the server's names for this page's latest connections: who wrote "our" messages
  state = "closed";
  reason = "";
  guest = true; // whether `user` is a name that was only said
  onNews = () => {}; // hears what the server says that is of no channel
  unauthorized = false; // why it was refused: who we are must be shown first
  #socket = null;
  #calls = new Map();
  #lastId = 0;
  #attempt = 0;
  #ping = 0;
  #pong = false;
  #retry = 0;
  #watchdog = 0;

  constructor(url, user, onState) {
    Object.assign(this, { url, user, onState });
  }

  open() {
    clearTimeout(this.#retry);
    const socket = new WebSocket(this.url);
    const current = (handle) => (event) => socket === this.#socket && handle(event);
    this.#socket = socket;
    socket.onopen = current(() => this.#greet());
    socket.onmessage = current((event) => this.#receive(event.data));
    socket.onclose = current((event) => this.#lost(event.code, event.reason));
    this.#expectWithin(REPLY_TIMEOUT);
    this.#become("connecting");
  }

  close() {
    this.#hangUp();
    this.#become("closed");
  }

  /** The network may be back: do not wait for the next try. */
  hurry() {
    if (this.state === "waiting") this.open();
  }

  /** Send one command, such as {history: {…}}; the value is its reply's body. */
  call(command) {
    const [method] = Object.keys(command);
    if (!this.#socket || (this.state !== "connected" && method !== "connect")) {
      return Promise.reject(new ConnectionLost());
    }
    const id = ++this.#lastId;
    const frame = JSON.stringify({ id, ...command }, formed);
    if (frame.length > FRAME_LIMIT) {
      return Promise.reject(new ReplyError({ code: 107, message: "message too large" }));
    }
    this.#send(frame);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#lost(1006, "no reply"), REPLY_TIMEOUT);
      const publishes = command.rpc?.method === "publish";
      this.#calls.set(id, { method, publishes, resolve, reject, timer });
    });
  }

  /** What a closing socket takes no more is not sent: its close event follows, and ends the calls that are open. */
  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame);
  }

  /** Send a command that may safely be repeated, up to `tries` times while the server calls its failure temporary. */
  async repeat(command, tries = TRIES) {
    const socket = this.#socket;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.call(command);
      } catch (error) {
        if (!error.temporary || error instanceof ConnectionLost || attempt === tries) throw error;
      }
      await pause(backoff(attempt));
      if (socket !== this.#socket) throw new ConnectionLost();
    }
  }

  /** One of Peyk's own methods, such as channels.list. */
  async rpc(method, data = {}) {
    return (await this.repeat({ rpc: { method, data } })).data;
  }

  async #greet() {
    const socket = this.#socket;
    try {
      const reply = await this.call({ connect: { data: { user: this.user } } });
      this.ids = [...this.ids.slice(-19), reply.client];
      this.user = reply.data?.user ?? this.user; // a cookie knows better
      this.guest = reply.data?.guest ?? true;
      this.#attempt = 0;
      this.#ping = (reply.ping ?? 0) * 1000;
      this.#pong = reply.pong ?? false;
      this.#expectPing();
      this.#become("connected");
      for (const subscription of this.subscriptions.values()) subscription.start();
    } catch (error) {
      if (socket !== this.#socket) return;
      this.#lost(error.temporary ? 1006 : REFUSED, error.message, error.code);
    }
  }

  #receive(frame) {
    this.#expectPing();
    for (const line of frame.split("\n")) {
      if (!line) continue;
      const message = parsed(line);
      if (message.id) this.#settle(message);
      else if (message.push) this.#pushed(message.push);
      else if (this.#pong) this.#send("{}");
    }
  }

  #settle({ id, error, ...reply }) {
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (error) call.reject(new ReplyError(error));
    else call.resolve(reply[call.method] ?? {});
  }

  #pushed(push) {
    const subscription = this.subscriptions.get(push.channel);
    if (push.pub) subscription?.receive(push.pub);
    else if (push.join ?? push.leave) subscription?.moved((push.join ?? push.leave).info, "join" in push);
    else if (push.unsubscribe) subscription?.dropped(push.unsubscribe.code, push.unsubscribe.reason);
    else if (push.message) this.onNews(push.message.data);
    else if (push.disconnect) this.#lost(push.disconnect.code, push.disconnect.reason);
  }

  /**
   * The connection is gone: 3500–3999 for good, anything else for a moment. So is a complaint of what was sent, if that may
   * be a message: who sent it gives it up in time.
   */
  #lost(code, reason, cause = code) {
    const said = BLAMED.includes(code) && [...this.#calls.values()].some(({ publishes }) => publishes);
    this.#hangUp(said ? { code, message: reason || String(code) } : null);
    this.cause = cause;
    this.unauthorized = UNAUTHORIZED.includes(cause);
    if (code >= REFUSED && code < 4000 && !said) return this.#become("refused", reason);
    this.#retry = setTimeout(() => this.open(), backoff(this.#attempt++));
    this.#become("waiting", reason);
  }

  #hangUp(blamed = null) {
    clearTimeout(this.#retry);
    clearTimeout(this.#watchdog);
    const socket = this.#socket;
    this.#socket = null; // first: its late events are not ours any more
    socket?.close();
    for (const subscription of this.subscriptions.values()) subscription.stop();
    for (const { reject, timer } of this.#calls.values()) {
      clearTimeout(timer);
      reject(new ConnectionLost(blamed));
    }
    this.#calls.clear();
  }

  #expectPing() {
    if (this.#ping) this.#expectWithin(this.#ping + PING_GRACE);
  }

  #expectWithin(ms) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#lost(1006, "silence"), ms);
  }

  #become(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.onState(state);
  }
}
