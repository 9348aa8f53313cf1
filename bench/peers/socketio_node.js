// Socket.IO with its Redis Streams adapter, as its documentation has it.
const { createClient } = require("redis");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-streams-adapter");

async function main() {
  const client = createClient({ socket: { path: process.env.REDIS_SOCKET } });
  await client.connect();
  const io = new Server({ adapter: createAdapter(client) });
  io.on("connection", (socket) => {
    socket.on("join", (channel, answer) => {
      socket.join(channel);
      answer();
    });
    socket.on("publish", (channel, text) => io.to(channel).emit("message", channel, text));
  });
  io.listen(Number(process.env.PORT));
}

main();
