// What is typed behind a slash: the terminal's commands (chat/slash.py).

import { say } from "./words.js";

/** Each command as it is written; what a page does for it is in app.js. */
export const COMMANDS = {
  "/join": "/join <channel>",
  "/leave": "/leave",
  "/channels": "/channels",
  "/send": "/send <text>",
  "/quit": "/quit",
  "/help": "/help",
  "/who": "/who",
  "/history": "/history",
  "/topic": "/topic <text>",
  "/me": "/me <text>",
  "/search": "/search <text>",
  "/name": "/name <name>",
  "/msg": "/msg <name> <text>",
  "/decline": "/decline <name>",
};
const NEEDY = ["/join", "/send", "/me", "/search", "/name", "/msg", "/decline"]; // they mean nothing alone

/** What a line is: {text} to say, a {command} and the {rest} behind it, or what is {wrong} with it. */
export function parse(line) {
  const trimmed = line.trim();
  const [command] = trimmed.split(" ", 1);
  const rest = trimmed.slice(command.length).trim();
  if (Object.hasOwn(COMMANDS, command)) {
    const missing = !rest && NEEDY.includes(command);
    return missing ? { wrong: say("which", 0, COMMANDS[command]) } : { command, rest };
  }
  if (command.startsWith("//")) return { text: trimmed.slice(1) };
  if (!command.startsWith("/") || command.includes("\n")) return { text: line };
  return { wrong: say("noCommand", 0, command) };
}

/** How a text is typed that is to be said as it is. */
export const typed = ({ text, me }) => (me ? `/me ${text}` : text.startsWith("/") ? `/${text}` : text);

/** All commands, each with what it does. */
export function help() {
  const list = document.createElement("dl");
  for (const [name, usage] of Object.entries(COMMANDS)) {
    const term = Object.assign(document.createElement("dt"), { dir: "ltr", textContent: usage });
    list.append(term, Object.assign(document.createElement("dd"), { textContent: say(`help_${name.slice(1)}`) }));
  }
  return list;
}
