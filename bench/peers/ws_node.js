// ws and Redis Pub/Sub in Node: a set of sockets for each channel.
const { createClient } = require("redis");
const { WebSocketServer } = require("ws");

async function main() {
  const publisher = createClient({ socket: { path: process.env.REDIS_SOCKET } });
  const listener = publisher.duplicate();
  await Promise.all([publisher.connect(), listener.connect()]);
  const channels = new Map();
  await listener.pSubscribe("chat:*", (body, name) => {
    for (const socket of channels.get(name.slice(5)) ?? []) socket.send(body);
  });
  new WebSocketServer({ host: "127.0.0.1", port: Number(process.env.PORT) }).on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("close", () => channels.forEach((members) => members.delete(socket)));
    socket.on("message", (data) => {
      const { subscribe, publish, text } = JSON.parse(data);
      if (subscribe) {
        if (!channels.has(subscribe)) channels.set(subscribe, new Set());
        channels.get(subscribe).add(socket);
        socket.send(JSON.stringify({ subscribed: subscribe }));
      } else {
        publisher.publish("chat:" + publish, JSON.stringify({ channel: publish, text }));
      }
    });
  });
}

main();
