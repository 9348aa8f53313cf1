// The screen: who we are, the channels, the one that is open. The open channel is the location's hash, so that two tabs
// may follow two channels and the browser's own Back goes back.

import { Channel } from "./channel.js";
import { Client } from "./client.js";
import { Door, isName, signOut } from "./door.js";
import { KEEP } from "./log.js";
import { Sidebar, folded, hashOf } from "./sidebar.js";
import { language, number, otherLanguage, say, translate } from "./words.js";

const FIRST_CHANNEL = "general";
const REFRESH = 30_000; // ms between looks at the channel list
const DELETED = 2000;
const NEAR = 60; // px from the end that still count as reading the newest message

const $ = (id) => document.getElementById(id);
const show = (element, visible) => (element.hidden = !visible);

let client = null;
let current = null; // the Channel on the screen
let arrived = false; // the page opens the first channel by itself once; afterwards no hash means the list
const joined = new Map(); // id -> Channel
const stale = new Set(); // Channels to be drawn anew
const sidebar = new Sidebar(joined, () => {
  sidebar.draw(current?.id);
  if (current) drawCurrent();
});

// ---- who we are

/** localStorage, which a browser may refuse. */
const memory = {
  get name() {
    try {
      return localStorage.getItem("peyk.name") ?? "";
    } catch {
      return "";
    }
  },
  set name(name) {
    try {
      localStorage.setItem("peyk.name", name);
    } catch {
      // asked again next time
    }
  },
};

const socketUrl = new URL("connection/websocket", document.baseURI);
socketUrl.protocol = socketUrl.protocol.replace("http", "ws");
const door = new Door(socketUrl.href, enter);

/** Come in as `name`; what was open for the same person stays as it was. */
function enter(name) {
  if (client?.user !== name) {
    forget();
    client = new Client(socketUrl.href, name, connectionChanged);
    sidebar.client = client;
  }
  client.open();
  drawMe();
  openFromHash();
}

/** Leave nothing of who was here; what they belong to is theirs. */
function forget() {
  joined.clear();
  client?.close();
  client = null;
  open(null);
}

async function goOut() {
  const { guest, user } = client;
  forget();
  if (!guest) await signOut();
  door.open(guest ? user : "");
}

function drawMe() {
  $("me").textContent = client.user;
  $("go-out").textContent = say(client.guest ? "changeName" : "signOut");
}

// ---- the connection

async function connectionChanged() {
  drawBanner();
  if (client.state === "refused" && client.unauthorized) {
    return door.refused(client.user, client.ids.length ? "signedOut" : "");
  }
  if (client.state !== "connected") return;
  memory.name = client.user;
  drawMe();
  await sidebar.refresh();
  if (!arrived && !location.hash) location.replace(hashOf(sidebar.first(FIRST_CHANNEL)));
  arrived = true;
}

function drawBanner() {
  const state = client?.state;
  const subscription = current?.subscription;
  let [text, action, label] = ["", null, ""];
  if (state === "connecting" || state === "waiting") text = say(lostBefore() ? "waiting" : "connecting");
  else if (state === "refused") {
    text = `${say("refused")}: ${client.reason}`;
    [action, label] = [() => client.open(), "retry"];
  } else if (subscription?.state === "joining") text = say("joining");
  else if (subscription?.state === "ended") {
    const { code, message } = subscription.error;
    text = code === DELETED ? say("deleted") : `${say("ended")}: ${message}`;
    [action, label] = [() => current.join(), "rejoin"];
  }
  $("banner-text").textContent = text;
  $("banner-action").onclick = action;
  $("banner-action").textContent = label && say(label);
  show($("banner-action"), action !== null);
  show($("banner"), text !== "");
}

const lostBefore = () => client.ids.length > 0 || client.state === "waiting";

// ---- the open channel

function openFromHash() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    // not something we wrote: show the list
  }
  if (client) open(name ? folded(name) : null);
}

function open(id) {
  if (current) {
    current.draft = $("text").value;
    current.log.element.remove();
  }
  if (id && !joined.has(id)) joined.set(id, new Channel(client, id, changed));
  current = joined.get(id) ?? null;
  document.body.classList.toggle("open", current !== null);
  if (current) {
    $("log").append(current.log.element);
    $("text").value = current.draft;
    $("log").scrollTop = current.scroll ?? $("log").scrollHeight;
    if (matchMedia("(hover: hover)").matches) $("text").focus();
    drawCurrent();
  }
  sidebar.draw(current?.id);
  drawTitle();
  drawBanner();
}

function leave() {
  joined.delete(current.id);
  current.leave();
  location.hash = "";
}

/** Something of a joined channel changed. The many changes of one frame are drawn once. */
function changed(channel) {
  if (!stale.size) queueMicrotask(redraw);
  stale.add(channel);
}

function redraw() {
  if (stale.has(current)) drawCurrent();
  for (const channel of stale) sidebar.drawUnread(channel.id);
  stale.clear();
  drawTitle();
}

function drawCurrent() {
  const { log, subscription } = current;
  const listed = sidebar.find(current.id);
  $("channel-title").textContent = listed?.name ?? current.id;
  $("description").textContent = listed?.description ?? "";
  const started = subscription.epoch !== "";
  show($("earlier"), started && current.hasEarlier && subscription.state === "live");
  $("edge-text").textContent = started && !current.hasEarlier ? edge(log) : "";
  $("log").setAttribute("aria-busy", !started);
  if (current.scroll === null) $("log").scrollTop = $("log").scrollHeight;
  if (!document.hidden && current.scroll === null) current.read = subscription.offset;
  show($("latest"), current.scroll !== null && current.unread > 0);
  drawBanner();
}

function edge({ size, oldest }) {
  if (!size) return say("empty");
  if (size >= KEEP) return say("full", KEEP);
  return oldest > 1 ? say("forgotten") : say("beginning");
}

function drawTitle() {
  const unread = [...joined.values()].reduce((sum, channel) => sum + channel.unread, 0);
  const name = current ? `${$("channel-title").textContent} · ` : "";
  document.title = `${unread ? `(${number(unread)}) ` : ""}${name}Peyk`;
}

function scrolled() {
  if (!current) return;
  const { scrollTop, scrollHeight, clientHeight } = $("log");
  current.scroll = scrollHeight - scrollTop - clientHeight < NEAR ? null : scrollTop;
  if (current.scroll === null) changed(current);
}

async function showEarlier() {
  const channel = current;
  const { scrollHeight, scrollTop } = $("log");
  await channel.showEarlier();
  if (channel !== current) return;
  $("log").scrollTop = scrollTop + $("log").scrollHeight - scrollHeight; // what was being read stays where it was
}

function send(event) {
  event.preventDefault();
  const text = $("text").value.trimEnd().normalize(); // as the server stores it
  if (!current || !text) return;
  $("text").value = "";
  current.say(text);
}

function back() {
  if (document.hidden) return;
  client?.hurry();
  sidebar.refresh();
  if (current) changed(current);
}

function listen() {
  $("go-out").addEventListener("click", goOut);
  $("leave").addEventListener("click", leave);
  $("earlier").addEventListener("click", showEarlier);
  $("composer").addEventListener("submit", send);
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("log").addEventListener("scroll", scrolled, { passive: true });
  $("latest").addEventListener("click", () => ($("log").scrollTop = $("log").scrollHeight));
  new ResizeObserver(() => current?.scroll === null && ($("log").scrollTop = $("log").scrollHeight)).observe($("log"));
  addEventListener("hashchange", openFromHash);
  addEventListener("online", back);
  document.addEventListener("visibilitychange", back);
  setInterval(() => document.hidden || sidebar.refresh(), REFRESH);
  addEventListener("beforeunload", (event) => {
    if ([...joined.values()].some(({ subscription }) => subscription.unsent)) event.preventDefault();
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
  if (!isName(memory.name)) return door.open();
  show($("chat"), true);
  enter(memory.name);
}

start();
