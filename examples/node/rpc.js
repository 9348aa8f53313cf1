// Calls to and from other services over Redis Pub/Sub, as Peyk and Laravel speak them.
//
//   const rpc = await connect();                       // REDIS_URL, LARAVEL_REDIS_CHANNEL
//   const configs = await rpc.call("configs");         // rejects with "Timeout exceeded" after 5 s
//   rpc.send("seen", { user: "sara" });                // waits for nothing
//   rpc.action("sum", ([a, b]) => ({ total: a + b }));
//   rpc.onEvent((message) => console.log(message.action));

import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";

const SENDER = "_sender";
const HEAD = ["source", "action", "requestId"];
const CLAIM_TTL = 60_000; // ms: longer than a request and what it asks for take

export async function connect({
  url = process.env.REDIS_URL ?? "redis://localhost:6379",
  channel = process.env.LARAVEL_REDIS_CHANNEL ?? "laravel_database_general",
  source = "nodejs",
} = {}) {
  const redis = new Redis(url);
  const rpc = new Rpc(redis, redis.duplicate(), channel, source);
  await rpc.listen();
  return rpc;
}

export class Rpc {
  #pending = new Map(); // requestId → what ends its call
  #actions = new Map();
  #onEvent = [];

  constructor(redis, listener, channel, source) {
    Object.assign(this, { redis, listener, channel, source });
    this.configuration = {}; // what another service last published as `configs`
  }

  async listen() {
    this.listener.on("message", (_, payload) => this.#onAnswer(parse(payload)));
    await this.listener.subscribe(this.channel); // ioredis subscribes again by itself after a loss
  }

  /** Ask the other services; the answer of the first, without its head. Rejects after `timeout` ms, or when it failed. */
  call(action = "subscribed", data = null, timeout = 5000) {
    const requestId = randomUUID();
    return new Promise((resolve, reject) => {
      const end = (settle, value) => {
        clearTimeout(timer);
        this.#pending.delete(requestId);
        settle(value);
      };
      const timer = setTimeout(() => end(reject, new Error("Timeout exceeded")), timeout);
      this.#pending.set(requestId, (message) => {
        const answer = withoutHead(message);
        if (typeof answer.error?.message === "string") end(reject, new Error(answer.error.message));
        else end(resolve, answer);
      });
      this.#publish(this.channel + SENDER, { action, data, requestId, source: this.source }).catch((error) =>
        end(reject, error),
      );
    });
  }

  /** Tell the other services, and wait for nothing. */
  send(action, data = null) {
    return this.#publish(this.channel + SENDER, { action, data, source: this.source });
  }

  /** Answer `name` with what `answer(data)` returns or resolves to. */
  async action(name, answer) {
    if (this.#actions.size === 0) {
      this.listener.on("pmessage", (_, from, payload) => this.#onRequest(from, parse(payload)));
      await this.listener.psubscribe(`*${SENDER}`);
    }
    this.#actions.set(name, answer);
  }

  /** Hear what other services publish unasked. */
  onEvent(listener) {
    this.#onEvent.push(listener);
  }

  async close() {
    await Promise.allSettled([this.listener.quit(), this.redis.quit()]);
  }

  #publish(channel, message) {
    return this.redis.publish(channel, JSON.stringify(message));
  }

  #onAnswer(message) {
    if (message === null) return;
    if (message.requestId == null) {
      if (message.source === this.source) return;
      if (message.action === "configs") this.configuration = withoutHead(message);
      for (const listener of this.#onEvent) listener(message);
    } else {
      this.#pending.get(message.requestId)?.(message); // late, doubled and others' answers are nobody's
    }
  }

  async #onRequest(from, message) {
    const { action = "subscribed", data = null, requestId = null } = message ?? {};
    const answer = this.#actions.get(action);
    if (answer === undefined) return; // another service knows it
    const head = { source: this.source, action, requestId };
    try {
      // Of several that hear a request, one answers.
      if (requestId !== null && !(await this.redis.set(`rpc:${requestId}`, this.source, "PX", CLAIM_TTL, "NX"))) return;
      const result = await answer(data);
      const fields = isObject(result) ? result : { result };
      if (requestId !== null) await this.#publish(from.slice(0, -SENDER.length), { ...fields, ...head });
    } catch (error) {
      console.error(`${action} failed:`, error);
      const text = `${action} failed; the log of its service says more`;
      const failure = { ...head, error: { code: 100, message: text } };
      if (requestId !== null) await this.#publish(from.slice(0, -SENDER.length), failure).catch(() => {});
    }
  }
}

function parse(payload) {
  try {
    const message = JSON.parse(payload);
    return isObject(message) ? message : null;
  } catch {
    return null;
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function withoutHead(message) {
  return Object.fromEntries(Object.entries(message).filter(([name]) => !HEAD.includes(name)));
}
