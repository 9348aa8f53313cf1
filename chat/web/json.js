// JSON whose numbers stay what they are. JavaScript keeps whole numbers only up to 2^53; messages hold 64 bits.
// A longer one becomes a string behind U+0000, which no message holds, and is written as the number it was.

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
const LONG = /\d{16}/;

const kept = (token) => (/^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"\\u0000${token}"` : token);

/** The value of a JSON text. */
export const parsed = (json) => JSON.parse(LONG.test(json) ? json.replace(TOKEN, kept) : json);

/** A value as JSON text, for people. */
export const written = (value, indent) => JSON.stringify(value, null, indent)?.replace(/"\\u0000(-?\d+)"/g, "$1");

/** Whether a value of a message is text, and not a long number. */
export const isText = (value) => typeof value === "string" && value[0] !== "\0";
