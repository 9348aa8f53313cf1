// node call.js ACTION [JSON]    call another service and print its answer
import { connect } from "./rpc.js";

const [action = "configs", data = "null"] = process.argv.slice(2);
const rpc = await connect();
try {
  console.log(JSON.stringify(await rpc.call(action, JSON.parse(data))));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await rpc.close();
}
