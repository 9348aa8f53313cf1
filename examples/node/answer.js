// node answer.js    answer `sum` and `hello` until Ctrl-C, and print what other services publish unasked
import { connect } from "./rpc.js";

const rpc = await connect();
await rpc.action("sum", (numbers) => ({ total: numbers.reduce((a, b) => a + b, 0) }));
await rpc.action("hello", async (name) => `سلام ${name ?? "دنیا"}`);
rpc.onEvent((message) => console.log(JSON.stringify(message)));
console.log("answering sum and hello");
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => rpc.close().then(() => process.exit(0)));
