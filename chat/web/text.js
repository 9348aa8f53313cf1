// A message's text: the code, the links and the names in it, as the terminal finds them. This is chat/text.py in another
// language; tests/vectors/text.json holds both to it. Each looks at a character a bounded number of times.

import { HIDDEN, NAMED, WORD, folded, isName } from "./names.js";

const JOINERS = "\u200c\u200d";
const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)/;
const START = /`+|\[|@|https?:\/\/|www\./gi;
const TITLE = /\[([^[\]\n]+)\]\(/y;
const SCHEME = /https?:\/\//iy;
const PORT = /:[0-9]{1,5}(?![0-9])/y;
const ADDRESS6 = /\[[0-9a-f:.]+\]/iy;
const SPACE = String.raw`[<>"\x60\\\p{Z}\p{Cc}\p{Cs}]|${HIDDEN}`; // a browser takes a backslash for a slash
const ENDS = new RegExp(String.raw`${SPACE}|(?![\0-\x7f\p{Pd}\p{Pc}·・])\p{P}`, "gu");
const BRACKETS = new RegExp(String.raw`[()]|${SPACE}`, "gu");
const AUTHORITY = 512; // characters in which an address has named its host
const TRAILING = ".,;:!?'*_~";
const OPENED = { ")": "(", "]": "[", "}": "{" };
const NAME = new RegExp(`${NAMED}+`, "uy");
const HOST = new RegExp(`(?:[.\\-${JOINERS}]|${WORD})+`, "uy");
const BEFORE = new RegExp(`${WORD}$`, "u");
const FIRST = new RegExp(`^${WORD}`, "u");
const NO_HOST = new RegExp(`(?:(?![.\\-])(?!${WORD})[^])+`, "u");
const ODD = new RegExp(HIDDEN, "u");
const LATIN = /[a-zA-Z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]/;
const BESIDE_LATIN =
  /[\u2e80-\u30ff\u3100-\u318f\u31a0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\u{20000}-\u{323af}]/u;
const LIKE_LATIN = "асԁеҽһіꙇӏјорԛгѕѵѡԝхуүьαινορσυγϳքցհոռօգսա";

const ascii = (text) => /^[\0-\x7f]*$/.test(text);
const stripped = (text) => text.replace(/^[.\-]+|[.\-]+$/g, "");

/** What `pattern`, sticky, matches at a place of `text`. */
function matched(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** Whether `text` calls the person whose folded name is `me`. */
export function mentions(text, me) {
  return text.includes("@") && tokens(text).some(({ kind, shown }) => kind === "mention" && folded(shown) === me);
}

/** What is no plain text in `text`, in order: {kind, start, end, shown, target, host} (see Token in chat/text.py). */
export function tokens(text) {
  const found = [];
  let end = 0;
  const pass = (until) => {
    for (const token of passage(text.slice(end, until))) {
      found.push({ ...token, start: token.start + end, end: token.end + end });
    }
  };
  for (const fence of fences(text)) {
    pass(fence.start);
    found.push(fence);
    end = fence.end;
  }
  pass(text.length);
  return found;
}

/** Blocks between two lines of backticks or tildes, of which the second is no shorter and holds nothing else. */
function fences(text) {
  const [lines, found] = [[], []];
  let start = 0;
  for (const line of text.split("\n")) {
    const [fence, mark, more] = FENCE.exec(line) ?? [];
    if (fence) lines.push({ start, end: start + line.length, sign: mark[0], size: mark.length, info: more.trim() });
    start += line.length + 1;
  }
  const endless = {}; // so many and more close nothing in the rest of the text
  let end = 0;
  for (const [at, { start, end: after, sign, size, info }] of lines.entries()) {
    if (start < end || (sign === "`" && info.includes("`")) || size >= (endless[sign] ?? Infinity)) continue;
    let next = at + 1;
    while (next < lines.length && !(lines[next].sign === sign && lines[next].size >= size && !lines[next].info)) next++;
    if (next === lines.length) {
      endless[sign] = size;
      continue;
    }
    end = lines[next].end;
    const shown = text.slice(after + 1, lines[next].start).replace(/\n$/, "");
    found.push({ kind: "fence", start, end, shown });
  }
  return found;
}

/** The tokens of the text between two fences, which is looked at from left to right. */
function passage(text) {
  const found = [];
  let called = -1; // where the last name ended
  let until = 0; // where the word ends in which a link was found
  let runs = null; // of backticks: by line and length, where they are
  let closing = null; // of each bracket in a word, where it is closed

  const code = (start, length) => {
    runs ??= backticks(text);
    const same = runs.get(`${runs.get(start)} ${length}`);
    while (same.at(-1) <= start) same.pop();
    if (!same.length) return null;
    const behind = same.at(-1);
    let shown = text.slice(start + length, behind);
    if (/^ .*[^ ].* $/.test(shown)) shown = shown.slice(1, -1);
    return { kind: "code", start, end: behind + length, shown };
  };

  const titled = (start) => {
    const title = matched(TITLE, text, start);
    if (!title) return null;
    closing ??= pairs(text);
    const first = TITLE.lastIndex;
    const end = closing.get(first - 1);
    const scheme = end && matched(SCHEME, text, first)?.[0];
    const place = scheme && placeOf(text, first + scheme.length, end);
    if (!place || place.end !== end) return null;
    const target = text.slice(first, end);
    return { kind: "link", start, end: end + 1, shown: title[1], target, host: beside(place, title[1]) };
  };

  const link = (start, scheme) => {
    const before = text.slice(Math.max(0, start - 2), start);
    const bare = scheme === "www.";
    if (/[a-z0-9]$/i.test(before) || (bare && (/[.\-/@:]$/.test(before) || BEFORE.test(before)))) return null;
    if (start >= until) {
      ENDS.lastIndex = start;
      until = ENDS.exec(text)?.index ?? text.length;
    }
    const place = placeOf(text, start + (bare ? 0 : scheme.length), until);
    if (!place || (bare && place.host.replace(/\.+$/, "").split(".").length < 3)) return null;
    const shown = trimmed(text.slice(start, place.end));
    const target = bare ? `http://${shown}` : shown;
    return { kind: "link", start, end: start + shown.length, shown, target, host: beside(place) };
  };

  const mention = (start) => {
    const before = text.slice(Math.max(0, start - 3), start);
    if (/[\\.\-]$/.test(before) || BEFORE.test(before)) return null;
    if (before.endsWith("/") && start - 1 !== called && BEFORE.test(before.slice(0, -1))) return null;
    const run = matched(NAME, text, start + 1)?.[0] ?? "";
    const behind = start + 1 + run.length;
    if (text[behind] === "@" && FIRST.test(text.slice(behind + 1, behind + 3))) return null;
    let end = run.length;
    while (end && (JOINERS.includes(run[end - 1]) || /^[.\-]$/.test(folded(lastOf(run, end))))) {
      end -= lastOf(run, end).length;
    }
    const shown = run.slice(0, end);
    if (!FIRST.test(shown) || !isName(shown)) return null;
    called = start + 1 + end;
    return { kind: "mention", start, end: called, shown };
  };

  for (let at = 0; ; ) {
    START.lastIndex = at;
    const start = START.exec(text);
    if (!start) return found;
    const [{ index }, sign] = [start, start[0][0]];
    at = index + start[0].length;
    let token;
    if (sign === "`") token = code(index, start[0].length);
    else if (sign === "[") token = titled(index);
    else if (sign === "@") token = mention(index);
    else {
      token = link(index, start[0].toLowerCase());
      if (!token) at = Math.max(at, until);
    }
    if (!token) continue;
    at = token.end;
    found.push(token);
  }
}

/** The character that ends at a place. */
const lastOf = (text, end) => (/[\udc00-\udfff]/.test(text[end - 1]) ? text.slice(end - 2, end) : text[end - 1]);

/** Where runs of backticks are, by `line length` and the last first; and of each, its line. */
function backticks(text) {
  const runs = new Map();
  let line = 0;
  for (const { 0: run, index } of text.matchAll(/`+|\n/g)) {
    if (run === "\n") line++;
    else {
      const key = `${line} ${run.length}`;
      runs.set(index, line);
      if (!runs.has(key)) runs.set(key, []);
      runs.get(key).push(index);
    }
  }
  for (const places of runs.values()) if (Array.isArray(places)) places.reverse();
  return runs;
}

function pairs(text) {
  const [closing, opened] = [new Map(), []];
  for (const { 0: sign, index } of text.matchAll(BRACKETS)) {
    if (sign === "(") opened.push(index);
    else if (sign !== ")") opened.length = 0;
    else if (opened.length) closing.set(opened.pop(), index);
  }
  return closing;
}

/** Where an address leads whose scheme ends at `start`: its host, whether a name stands before it, and its end. */
function placeOf(text, start, until) {
  const head = text.slice(start, Math.min(until, start + AUTHORITY));
  const authority = head.split(/[/?#]/, 1)[0];
  const first = authority.lastIndexOf("@") + 1;
  const host = (matched(ADDRESS6, authority, first) ?? matched(HOST, authority, first))?.[0] ?? "";
  if ((host[0] !== "[" && !FIRST.test(host)) || host.includes("..")) return null;
  let end = first + host.length;
  end += matched(PORT, authority, end)?.[0].length ?? 0;
  const whole = end === authority.length && (end < head.length || start + end === until);
  return { host: host.toLowerCase(), named: first > 0, end: whole ? until : start + end };
}

/** What is shown beside a link with this title (none: its address), so that nobody is led elsewhere. */
function beside({ host, named }, title) {
  const plain = host.split(".").every(isPlain);
  const shown = plain ? stripDots(host) : encoded(stripDots(host));
  if (title === undefined) return named || !plain ? shown : "";
  const [said, odd] = [places(title), ODD.test(title)];
  if (!said.length) return odd ? shown : "";
  const same = [bare(host), bare(encoded(host))];
  return said.every((place) => same.includes(bare(place))) && !named && plain && !odd ? "" : shown;
}

/** The hosts that a link's text names. */
function places(title) {
  const found = [];
  for (const word of title.normalize("NFKC").replaceAll("。", ".").split(/[\p{Z}\p{Cc}]+/u)) {
    const scheme = word.includes("://");
    const [authority] = (scheme ? word.slice(word.indexOf("://") + 3) : word).split(/[/?#\\]/);
    for (const part of authority.split(NO_HOST)) {
      const host = stripped(part);
      if (host && (scheme || isHost(host.split(".")))) found.push(host);
    }
  }
  return found;
}

function isHost(labels) {
  if (labels.length === 4 && labels.every((label) => /^\p{Nd}+$/u.test(label))) return true;
  return labels.length > 1 && /^.{2,}$/u.test(labels.at(-1)) && /\p{L}/u.test(labels.at(-1));
}

const stripDots = (host) => host.replace(/^\.+|\.+$/g, "");
const bare = (host) => stripDots(folded(host)).replace(/^www\./, "");

/** Whether a part of a host looks like nothing else: of one script, and not of letters that look Latin. */
function isPlain(label) {
  if (ascii(label)) return true;
  if (/[\u200c\u200d]/.test(label)) return false;
  const letters = label.match(/\p{L}/gu) ?? [];
  const others = letters.filter((letter) => !LATIN.test(letter));
  if (others.length < letters.length && !others.every((letter) => BESIDE_LATIN.test(letter))) return false;
  return !letters.length || !letters.every((letter) => LIKE_LATIN.includes(letter));
}

/** A host as it is asked for on the network. */
function encoded(host) {
  if (ascii(host)) return host;
  const url = `http://${host}`;
  return URL.canParse(url) ? new URL(url).hostname : host;
}

/** Without what belongs to the sentence: a stop, or a bracket that was opened before the link. */
function trimmed(link) {
  const count = {};
  for (const [sign] of link.matchAll(/[()[\]{}]/g)) count[sign] = (count[sign] ?? 0) + 1;
  let end = link.length;
  while (end) {
    const sign = link[end - 1];
    if (sign in OPENED && count[sign] > (count[OPENED[sign]] ?? 0)) count[sign]--;
    else if (!TRAILING.includes(sign)) break;
    end--;
  }
  return link.slice(0, end);
}
