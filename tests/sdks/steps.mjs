// node steps.mjs VERSION URL: what an application does with centrifuge-js, as released. Prints one JSON object.
import WebSocket from "ws";

const [version, url] = process.argv.slice(2);
const { Centrifuge } = await import(`centrifuge-${version}`);
const ROUNDS = 20;
const PATIENCE = 30_000; // ms for anything to happen

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(holds) {
  const deadline = Date.now() + PATIENCE;
  while (!(await holds())) {
    if (Date.now() > deadline) return false;
    await pause(10);
  }
  return true;
}

function connected(user) {
  const client = new Centrifuge(url, { websocket: WebSocket, data: { user } });
  client.connect();
  return client.ready(PATIENCE).then(() => client);
}

function channel(name) {
  return `js-${version}-${name}`;
}

const client = await connected("sara");
const found = {};

found.early = await client.history(channel("early"), { limit: 10 });
found.earlyPresence = Object.keys((await client.presence(channel("early"))).clients).length;

found.comesAndGoesAndComes = 0;
for (let round = 0; round < ROUNDS; round++) {
  const sub = client.newSubscription(channel(`breath-${round}`));
  sub.subscribe();
  sub.unsubscribe();
  sub.subscribe();
  found.comesAndGoesAndComes += await until(() => sub.state === "subscribed");
}

found.presentAtOnce = 0;
for (let round = 0; round < ROUNDS; round++) {
  const sub = client.newSubscription(channel(`here-${round}`));
  sub.subscribe();
  await sub.ready(PATIENCE);
  found.presentAtOnce += Object.values((await sub.presence()).clients).some((info) => info.user === "sara");
}

for (const text of ["one", "دو", "three"]) await client.publish(channel("zero"), { text });
const texts = [];
const zero = client.newSubscription(channel("zero"), { since: { offset: 0, epoch: "" } });
zero.on("publication", (ctx) => texts.push(ctx.data.text));
zero.on("subscribed", (ctx) => (found.recovered = ctx.recovered));
zero.subscribe();
await until(() => texts.length === 3);
found.fromZero = texts;

found.left = 0;
for (let round = 0; round < ROUNDS; round++) {
  const name = channel(`left-${round}`);
  const passer = await connected(`passer-${round}`);
  const sub = passer.newSubscription(name);
  sub.subscribe();
  await sub.ready(PATIENCE);
  sub.unsubscribe();
  passer.disconnect();
  found.left += await until(async () => {
    const { data } = await client.rpc("channels.subscribers", { id: name });
    return !data.subscribers.includes(`passer-${round}`);
  });
}

client.disconnect();
console.log(JSON.stringify(found));
