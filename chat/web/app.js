// The page as a whole: who we are, the connection, the channels we belong to, and which of them is open. The open channel
// is the location's hash, so that two tabs may follow two channels and the browser's own Back goes back.

import { Channel } from "./channel.js";
import { Client } from "./client.js";
import { Door, signOut } from "./door.js";
import { initial, wordsOf } from "./log.js";
import { folded, isName } from "./names.js";
import { Outbox } from "./outbox.js";
import { Pane } from "./pane.js";
import { People, Search } from "./panels.js";
import { Sidebar, hashOf } from "./sidebar.js";
import { help, parse } from "./slash.js";
import { language, memory, number, otherLanguage, say, sayError, translate } from "./words.js";

const FIRST_CHANNEL = "general";
const REFRESH = 30_000; // ms between looks at what was joined and read elsewhere
const SETTLED = 3000; // ms after which what we left is not listed as ours any more
const LONGEST_DRAFT = 10_000; // characters that outlive the page
const LONGEST_SAID = 200; // characters of a message that are read out
const BREATH = 1000; // ms between messages that are read out

const $ = (id) => document.getElementById(id);

let client = null;
let saidAt = 0; // when a message was read out
let arrived = false; // the page opens the first channel by itself once; afterwards no hash means the list
const joined = new Map(); // id -> Channel
const gone = new Map(); // id -> when we left it; Infinity: the server does not know
const stale = new Set(); // Channels to be drawn anew
const sidebar = new Sidebar(
  joined,
  () => {
    sidebar.draw();
    pane.draw();
  },
  (id) => gone.delete(id),
);
const pane = new Pane(sidebar, (channel) => changed(channel), enterLine);
const people = new People((name) => {
  people.uncover();
  pane.mention(name);
});
const search = new Search((offset) => {
  search.uncover();
  pane.goTo(offset);
});
const screen = {
  changed,
  keep: (channel, change) => pane.keep(channel, change),
  place: (channel) => channel === pane.channel && pane.place(channel),
  arrived: readOut,
  edit,
  outbox: new Outbox(takeUp),
  get seen() {
    return pane.seen;
  },
};

// ---- who we are

const socketUrl = new URL("connection/websocket", document.baseURI);
socketUrl.protocol = socketUrl.protocol.replace("http", "ws");
const door = new Door(socketUrl.href, enter);

/** Come in as `name`; what was open for the same person stays as it was. */
function enter(name) {
  if (client?.user !== name) {
    forget();
    client = sidebar.client = pane.client = new Client(socketUrl.href, name, connectionChanged);
    client.onNews = ({ channels }) => channels && sidebar.directory.heard(channels);
  }
  client.open();
  drawMe();
  openFromHash();
  takeUp();
}

/** Leave nothing of who was here; what they belong to is theirs. */
function forget() {
  keepDrafts();
  for (const channel of joined.values()) channel.report();
  joined.clear();
  gone.clear();
  client?.close();
  client = sidebar.client = pane.client = null;
  screen.outbox = new Outbox(takeUp);
  arrived = false;
  open(null);
}

async function goOut() {
  const { guest, user } = client;
  forget();
  if (!guest) {
    memory.set(`drafts.${folded(user)}`, "");
    screen.outbox.clear(user);
    await signOut();
  }
  memory.set("name", guest ? user : "");
  door.open(guest ? user : "");
}

function drawMe() {
  $("me").textContent = client.user;
  $("my-avatar").textContent = initial(client.user);
  $("go-out").textContent = say(client.guest ? "changeName" : "signOut");
}

// ---- the connection

async function connectionChanged() {
  pane.drawBanner();
  takeUp();
  if (client?.state === "refused" && client.unauthorized) {
    return door.refused(client.user, client.ids.length && !client.guest ? "signedOut" : "");
  }
  if (client?.state !== "connected") return;
  memory.set("name", client.user);
  drawMe();
  for (const [id, at] of gone) if (at === Infinity) leaveFor(id, client.call({ unsubscribe: { channel: id } }));
  await look();
  await sidebar.directory.refresh();
  if (!arrived && client && !location.hash) location.replace(hashOf(sidebar.first(FIRST_CHANNEL)));
  arrived = true;
}

/** Go on with what an earlier page could not send. */
async function takeUp() {
  if (!client) return;
  const asking = client;
  const messages = await screen.outbox.take(asking.user);
  if (client !== asking) return; // they are taken up with the next one
  for (const { channel, name, ...message } of messages) {
    if (!joined.has(channel)) joined.set(channel, withDraft(new Channel(client, channel, screen, null, name)));
    joined.get(channel).restore(message);
  }
  if (messages.length) sidebar.draw();
}

/** Look which channels are ours by now, and what we have read elsewhere. */
async function look() {
  if (client?.state !== "connected") return;
  takeUp();
  const [asked, asking] = [performance.now(), client];
  const { channels } = await client.rpc("unread").catch(() => ({}));
  if (!channels || client !== asking) return;
  for (const [id, known] of Object.entries(channels)) {
    if (joined.has(id)) joined.get(id).know(known);
    else if (gone.get(id) > asked - SETTLED) continue; // asked before the server took it in
    else joined.set(id, withDraft(new Channel(client, id, screen, known)));
    gone.delete(id);
  }
  for (const [id, channel] of joined) {
    const settled = channel.since < asked && channel.subscription.state !== "joining";
    const left = settled && !(id in channels) && channel !== pane.channel && !channel.log.unsent;
    if (!left) continue;
    joined.delete(id); // another client of ours did
    channel.leave();
  }
  await sidebar.refresh();
  sidebar.draw();
  pane.draw();
  drawTitle();
}

// ---- the open channel

function openFromHash() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    // not something we wrote: show the list
  }
  if (gone.has(folded(name))) return location.replace("#"); // Back leads to what was left: that joins nothing again
  if (client) open(name ? folded(name) : null, name);
}

/** Open a channel somebody asks for, though they left it before. */
function go(id, name = id) {
  gone.delete(id);
  location.hash = hashOf(name);
  open(id, name);
}

function open(id, name = id) {
  const spelled = sidebar.find(id) ? id : name;
  if (id && !joined.has(id)) joined.set(id, withDraft(new Channel(client, id, screen, null, spelled)));
  const channel = joined.get(id) ?? null;
  if (channel !== pane.channel || !channel) pane.show(channel);
  people.show(channel);
  search.show(channel);
  for (const panel of [people, search]) if (!channel && panel.isOpen) panel.toggle(false);
  sidebar.draw(channel?.id ?? "");
  drawTitle();
}

function leave() {
  const { channel } = pane;
  joined.delete(channel.id);
  gone.set(channel.id, Infinity);
  leaveFor(channel.id, channel.leave());
  location.replace("#"); // rather than a place behind it, from which Back would lead here
}

/** It is left once the server was told, if need be when the connection is back. */
async function leaveFor(id, telling) {
  const told = await Promise.resolve(telling).catch(() => false);
  if (told && gone.get(id) === Infinity) gone.set(id, performance.now());
}

/** Something of a channel changed. The many changes of one frame are drawn once. */
function changed(channel) {
  if (!stale.size) queueMicrotask(redraw);
  stale.add(channel);
}

function redraw() {
  if (stale.has(pane.channel)) {
    pane.draw();
    people.draw();
  }
  for (const channel of stale) sidebar.drawUnread(channel.id);
  stale.clear();
  drawTitle();
}

function drawTitle() {
  const unread = [...joined.values()].reduce((sum, channel) => sum + channel.unread, 0);
  const name = pane.channel ? `${sidebar.find(pane.channel.id)?.name ?? pane.channel.name} · ` : "";
  const title = `${unread ? `(${number(unread)}) ` : ""}${name}Peyk`;
  if (document.title !== title) document.title = title;
}

/** Who hears the page hears the open channel, as the live region is told it. */
function readOut(channel, { data, info }, ours) {
  if (channel !== pane.channel || ours || performance.now() - saidAt < BREATH) return;
  saidAt = performance.now();
  $("announcer").textContent = say("said", 0, info?.user ?? "") + wordsOf(data).slice(0, LONGEST_SAID);
}

// ---- what outlives the page

function withDraft(channel) {
  channel.draft = channel.kept = drafts()[channel.id] ?? "";
  return channel;
}

const drafts = () => {
  try {
    return JSON.parse(memory.get(`drafts.${folded(client.user)}`) || "{}");
  } catch {
    return {}; // not something we wrote
  }
};

function keepDrafts() {
  if (!client) return;
  if (pane.channel) pane.channel.draft = $("text").value;
  const all = drafts(); // also those of channels we did not come to yet, and what another tab wrote
  for (const channel of joined.values()) {
    const { id, draft, kept } = channel;
    if (draft === kept) continue;
    channel.kept = draft;
    if (draft && draft.length <= LONGEST_DRAFT) all[id] = draft;
    else delete all[id];
  }
  memory.set(`drafts.${folded(client.user)}`, JSON.stringify(all));
}

// ---- what people do

/** A line was entered: a text to say, or a command. What goes wrong is said above it, and it is there to be mended. */
async function enterLine(line) {
  const { text, command, rest, wrong } = parse(line);
  const { channel } = pane;
  if (text) return channel.say({ text });
  try {
    if (wrong) throw new Error(wrong);
    await commands[command.slice(1)](rest, channel);
  } catch (error) {
    pane.note("code" in error ? sayError(error) : error.message);
    edit(channel, line);
  }
}

const commands = {
  async join(name) {
    if (name.startsWith("@")) return commands.msg(name);
    if (!isName(name)) throw new Error(say("nameRule"));
    go(folded(name), name);
  },
  leave,
  channels() {
    if ($("sidebar").checkVisibility()) sidebar.toggleForm(true);
    else location.hash = "";
  },
  send: (text, channel) => channel.say({ text }),
  quit: goOut,
  help: () => pane.note(help()),
  who: () => people.toggle(true),
  history: () => pane.older(),
  topic: (text) => (text ? pane.describe(text) : pane.editTopic(true)),
  me: (text, channel) => channel.say({ text, me: true }),
  search: (text) => search.seek(text),
  async name(name) {
    if (!client.guest) throw new Error(say("accountName"));
    if (!isName(name)) throw new Error(say("nameRule"));
    forget();
    enter(name.normalize());
  },
  async msg(rest) {
    const [name] = rest.split(" ", 1);
    const { id } = await client.rpc("channels.private", { user: name.replace(/^@/, "") });
    await sidebar.directory.refresh();
    go(id);
    const text = rest.slice(name.length).trim();
    if (text) joined.get(id).say({ text });
  },
  async decline(name) {
    await client.rpc("channels.decline", { user: name.replace(/^@/, "") });
    await sidebar.refresh();
  },
};

/** Put a text back where it was written. */
function edit(channel, text) {
  if (channel === pane.channel) pane.edit(text);
  else channel.draft = [channel.draft, text].filter(Boolean).join("\n");
}

function back() {
  if (document.hidden) {
    keepDrafts();
    for (const channel of joined.values()) channel.report();
    return;
  }
  client?.hurry();
  pane.returned();
  look();
}

/** The Latin letter of a key: what it writes, or where that is another script, what an English layout has there. */
const letter = ({ key, code }) => (/^[a-z]$/i.test(key) ? key.toLowerCase() : code.replace("Key", "").toLowerCase());

/** Alt with the arrows goes through the channels, with Shift through those with something new. */
function key(event) {
  if ($("chat").hidden || event.isComposing) return;
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const command = (event.ctrlKey || event.metaKey) && !event.altKey && letter(event);
  if (event.altKey && step) {
    const id = sidebar.next(step, event.shiftKey);
    if (id) location.hash = hashOf(id);
  } else if (command === "k") sidebar.toggleForm(true);
  else if (command === "f" && event.shiftKey && pane.channel) search.toggle(true);
  else if (event.key === "Escape" && pane.channel) pane.toEnd();
  else return;
  event.preventDefault();
}

function listen() {
  $("go-out").addEventListener("click", goOut);
  $("leave").addEventListener("click", leave);
  addEventListener("hashchange", openFromHash);
  addEventListener("online", back);
  addEventListener("focus", back);
  addEventListener("keydown", key);
  addEventListener("pagehide", keepDrafts);
  document.addEventListener("visibilitychange", back);
  setInterval(() => document.hidden || look(), REFRESH);
  addEventListener("beforeunload", (event) => {
    for (const channel of joined.values()) channel.report();
    if ([...joined.values()].some(({ subscription }) => subscription.unkept)) event.preventDefault();
  });
}

function start() {
  document.documentElement.lang = language;
  document.documentElement.dir = language === "fa" ? "rtl" : "ltr";
  translate(document);
  for (const link of document.querySelectorAll("a.language")) {
    link.textContent = say("language");
    link.lang = otherLanguage;
    link.addEventListener("click", () => (link.href = `?lang=${otherLanguage}${location.hash}`));
  }
  listen();
  if (!isName(memory.get("name"))) return door.open();
  $("chat").hidden = false;
  enter(memory.get("name"));
}

start();
