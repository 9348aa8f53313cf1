// A message's words as DOM nodes: links, code, names (text.js finds them) and light Markdown. Only text nodes and elements
// named here come out, and every pattern looks at a character a bounded number of times, so nobody's message can hurt or
// stall the page.

import { folded } from "./names.js";
import { tokens } from "./text.js";

const LONGEST = 20_000; // characters that are formatted; the rest of a message is plain text
const DEEPEST = 3; // bold within italic
const TOKEN = "\ufdd0"; // stands for one of them, while the text around it is looked at
const WORD = String.raw`[\p{L}\p{M}\p{N}_]`;
const INLINE = new RegExp(
  [
    String.raw`\*\*(?=\S)(?<strong>[^*\n]+)(?<=\S)\*\*`,
    String.raw`(?<![*\p{L}\p{N}])\*(?=\S)(?<em>[^*\n]+)(?<=\S)\*(?![*\p{L}\p{N}])`,
    String.raw`(?<!${WORD})_(?=\S)(?<em2>[^_\n]+)(?<=\S)_(?!${WORD})`,
    String.raw`~~(?=\S)(?<del>[^~\n]+)(?<=\S)~~`,
  ].join("|"),
  "gu",
);

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

/** `text` as nodes; a mention of `me` (a folded name) stands out. */
export function format(text, me) {
  const nodes = [];
  let words = ""; // with TOKEN where the tokens are
  let atoms = []; // and those, as nodes
  let end = 0;
  const take = (until) => {
    const [first, ...rest] = text.slice(end, until).split(TOKEN); // who writes it gets it back
    words += first + rest.map((part) => TOKEN + part).join("");
    for (const _ of rest) atoms.push([TOKEN]);
    end = until;
  };
  const put = () => {
    nodes.push(...paragraphs(words, atoms));
    [words, atoms] = ["", []];
  };
  for (const token of tokens(text)) {
    if (token.end > LONGEST) break;
    take(token.start);
    end = token.end;
    if (token.kind === "fence") {
      words = words.replace(/\n$/, "");
      put();
      nodes.push(element("pre", element("code", token.shown)));
      if (text[end] === "\n") end++;
    } else {
      words += TOKEN;
      atoms.push(node(token, me));
    }
  }
  take(Math.max(end, Math.min(text.length, LONGEST)));
  put();
  nodes.push(text.slice(end));
  return nodes;
}

/** Lines that begin with > are a quotation. */
function paragraphs(text, atoms) {
  const nodes = [];
  for (const part of text.split(/((?:^>.*(?:\n|$))+)/m)) {
    if (!/^>/.test(part)) nodes.push(...inline(part, atoms, 0));
    else nodes.push(element("blockquote", ...inline(part.replace(/^> ?/gm, "").replace(/\n$/, ""), atoms, 0)));
  }
  return nodes;
}

/** `atoms` are taken in the order in which they stand in the text. */
function inline(text, atoms, depth) {
  const nodes = [];
  const plain = (part) => {
    for (const [i, words] of part.split(TOKEN).entries()) nodes.push(...(i ? atoms.shift() : []), words);
  };
  let end = 0;
  for (const match of depth < DEEPEST ? text.matchAll(INLINE) : []) {
    const { strong, em, em2, del } = match.groups;
    plain(text.slice(end, match.index));
    const name = strong ? "strong" : del ? "del" : "em";
    nodes.push(element(name, ...inline(strong ?? del ?? em ?? em2, atoms, depth + 1)));
    end = match.index + match[0].length;
  }
  plain(text.slice(end));
  return nodes;
}

function node({ kind, shown, target, host }, me) {
  if (kind === "code") return [Object.assign(element("code", shown), { dir: "ltr" })];
  if (kind === "link") return anchor(target, shown, host);
  const mark = element("bdi", `@${shown}`); // apart: a name must not turn the sentence around
  mark.className = folded(shown) === me ? "mention" : "name";
  return [mark];
}

/** A link that tells the place it leads to nothing of us; beside it that place, where the text names another. */
function anchor(href, shown, host) {
  if (!URL.canParse(href)) return [shown];
  const made = element("a", shown);
  made.href = href;
  made.title = made.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  made.dir = "auto";
  if (!host) return [made];
  return [made, " ", Object.assign(element("bdi", `(${host})`), { className: "quiet", dir: "ltr" })];
}
