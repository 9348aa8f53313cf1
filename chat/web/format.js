// A message's words as DOM nodes: links, code and light Markdown. Only text nodes and elements named here come out, and
// every pattern looks at a character a bounded number of times, so nobody's message can hurt or stall the page.

import { folded } from "./names.js";

const LONGEST = 20_000; // characters that are looked at; the rest of a message is plain text
const DEEPEST = 3; // bold within italic within a link
const FENCE = /```[^\S\n]*[\w+-]*\n([^]*?)\n?```/g;
const LINK = String.raw`https?:\/\/[^\s<>"'\x60\u200e\u200f\u202a-\u202e\u2066-\u2069]+`;
const WORD = String.raw`[\p{L}\p{M}\p{N}_]`;
const NAMED = /(?<![\p{L}\p{N}_.\-])@(?<name>[\p{L}\p{M}\p{Nd}_\u200c][\p{L}\p{M}\p{Nd}_.\-\u200c]{0,63})/gu;
const INLINE = new RegExp(
  [
    "`(?<code>[^`\\n]+)`",
    String.raw`\[(?<title>[^\[\]\n]+)\]\((?<target>${LINK}?)\)`,
    `(?<link>${LINK})`,
    String.raw`\*\*(?=\S)(?<strong>[^*\n]+)(?<=\S)\*\*`,
    String.raw`(?<![*\p{L}\p{N}])\*(?=\S)(?<em>[^*\n]+)(?<=\S)\*(?![*\p{L}\p{N}])`,
    String.raw`(?<!${WORD})_(?=\S)(?<em2>[^_\n]+)(?<=\S)_(?!${WORD})`,
    String.raw`~~(?=\S)(?<del>[^~\n]+)(?<=\S)~~`,
    NAMED.source,
  ].join("|"),
  "gu",
);

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

/** Somebody's name at the end of a sentence is not the sentence's dot. */
const bare = (name) => name.replace(/[.\-]+$/, "");

/** Whether `text` calls the person whose folded name is `me`. */
export function mentions(text, me) {
  if (!text.includes("@")) return false;
  return [...text.slice(0, LONGEST).matchAll(NAMED)].some(({ groups }) => folded(bare(groups.name)) === me);
}

/** `text` as nodes; a mention of `me` (a folded name) stands out. */
export function format(text, me) {
  const [head, rest] = [text.slice(0, LONGEST), text.slice(LONGEST)];
  const nodes = [];
  let end = 0;
  for (const match of head.matchAll(FENCE)) {
    nodes.push(...paragraphs(head.slice(end, match.index).replace(/\n$/, ""), me));
    nodes.push(element("pre", element("code", match[1])));
    end = match.index + match[0].length;
  }
  const tail = head.slice(end);
  nodes.push(...paragraphs(end ? tail.replace(/^\n/, "") : tail, me), rest);
  return nodes;
}

/** Lines that begin with > are a quotation. */
function paragraphs(text, me) {
  const nodes = [];
  for (const part of text.split(/((?:^>.*(?:\n|$))+)/m)) {
    if (!/^>/.test(part)) nodes.push(...inline(part, me, 0));
    else nodes.push(element("blockquote", ...inline(part.replace(/^> ?/gm, "").replace(/\n$/, ""), me, 0)));
  }
  return nodes;
}

function inline(text, me, depth) {
  if (depth === DEEPEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const made = node(match, me, depth + 1);
    if (!made) continue;
    nodes.push(text.slice(end, match.index), ...made);
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function node({ groups }, me, depth) {
  const { code, title, target, link, strong, em, em2, del, name } = groups;
  if (code) return [Object.assign(element("code", code), { dir: "ltr" })];
  if (title) return anchor(target, inline(title, me, DEEPEST)) ?? null;
  if (link) {
    const shown = link.replace(/[.,;:!?،؛؟»)\]}*_~]+$/u, "");
    return anchor(shown, [shown]) && [...anchor(shown, [shown]), link.slice(shown.length)];
  }
  if (strong) return [element("strong", ...inline(strong, me, depth))];
  if (em ?? em2) return [element("em", ...inline(em ?? em2, me, depth))];
  if (del) return [element("del", ...inline(del, me, depth))];
  const mark = element("bdi", `@${bare(name)}`); // apart: a name must not turn the sentence around
  mark.className = folded(bare(name)) === me ? "mention" : "name";
  return [mark, name.slice(bare(name).length)];
}

/** A link that says where it leads, and tells that place nothing of us. */
function anchor(href, children) {
  if (!URL.canParse(href)) return null;
  const made = element("a", ...children);
  made.href = href;
  made.title = made.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  made.dir = "auto";
  return [made];
}
