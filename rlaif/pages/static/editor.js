// The page of `rlaif constitution open`: an editor, and the probe pairs' verdicts as the server has them.

import { Refusal, ask, tell } from "./ask.js";
import { completions } from "./hints.js";

const EVERY = 300; // milliseconds between two questions to the server
const MOST = 20; // pairs with turned verdicts that are shown
const CHANGED = "The file has been changed elsewhere; your text is not saved.";
const $ = (id) => document.getElementById(id);
const page = { version: "", clean: "", seen: "", facts: null, verdicts: [], saved: null, problems: [], judging: false, lost: false };

// An element with a class and children; texts are texts, whatever they hold.
function el(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

const editor = CodeMirror.fromTextArea($("text"), {
  mode: "yaml",
  lineNumbers: true,
  lineWrapping: true,
  indentUnit: 2,
  tabSize: 2,
  matchBrackets: true,
  styleActiveLine: true,
  gutters: ["CodeMirror-lint-markers", "CodeMirror-linenumbers"],
  specialChars: /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/,
  lint: { async: true, getAnnotations: annotate, delay: 400 },
  hintOptions: { hint: hints, completeSingle: false },
  extraKeys: {
    "Ctrl-S": save,
    "Cmd-S": save,
    "Ctrl-Space": "autocomplete",
    Tab: (cm) => cm.execCommand(cm.somethingSelected() ? "indentMore" : "insertSoftTab"),
  },
});
editor.getInputField().setAttribute("aria-label", "The constitution file");

const dirty = () => editor.getValue() !== page.clean;

function hints(cm) {
  const cursor = cm.getCursor();
  if (!page.facts) return null;
  const { from, list } = completions(cm.getValue(), cursor, page.facts.schema, page.facts.tags);
  const shown = list.map(({ text, description }) => ({
    text,
    render: (line) => line.append(text.replace(/: $/, ""), el("small", "", description)),
  }));
  return { list: shown, from: { line: cursor.line, ch: from }, to: cursor };
}

async function annotate(text, found) {
  if (!page.version) return; // the file is not there yet
  let problems = [];
  try {
    ({ problems } = await tell("/api/check", { text }));
  } catch (error) {
    problems = [{ line: 1, level: "error", message: error.message }];
  }
  if (text !== editor.getValue()) return;
  page.problems = problems;
  found(
    problems.map(({ line, level, message, why }) => {
      const at = Math.min(line, editor.lineCount()) - 1;
      const end = editor.getLine(at).length;
      const start = Math.min(editor.getLine(at).search(/\S|$/), Math.max(0, end - 1));
      const severity = level === "error" ? "error" : "warning";
      return { message: level === "error" ? message : `${message}: ${why}`, severity, from: { line: at, ch: start }, to: { line: at, ch: end } };
    }),
  );
  showProblems();
  showState();
}

function showProblems() {
  $("problems").hidden = !page.problems.length;
  $("problems").replaceChildren(
    ...page.problems.map(({ line, level, message, why, silence }) => {
      const button = el("button", level, `line ${line}: ${message}`);
      button.title = [why, silence && `To silence it, ${silence}`].filter(Boolean).join("\n");
      button.type = "button";
      button.onclick = () => {
        editor.setCursor(line - 1, 0);
        editor.focus();
      };
      return el("li", "", button);
    }),
  );
}

function showState() {
  const first = page.problems.find(({ level }) => level === "error");
  const wrong = first ? `, line ${first.line} is wrong` : "";
  let [words, kind] = ["saved", "good"];
  if (page.lost) [words, kind] = ["the server does not answer", "bad"];
  else if (page.judging) [words, kind] = ["judging what the save changed …", "busy"];
  else if (dirty()) [words, kind] = [`not saved${wrong}`, wrong ? "bad" : ""];
  else if (wrong || page.saved?.error) [words, kind] = [`saved${wrong || ", and not judged"}`, "bad"];
  $("state").textContent = words;
  $("state").className = kind;
  $("save").disabled = !dirty();
}

function notice(words, load = false, over = false) {
  $("notice").hidden = !words;
  $("notice").firstElementChild.textContent = words;
  $("load").hidden = !load;
  $("over").hidden = !over;
}

async function learn() {
  page.facts = await ask("/api/facts");
  $("size").textContent = `${page.facts.pairs.length} pairs`;
}

async function load() {
  const { text, version } = await ask("/api/file");
  const cursor = editor.getCursor();
  Object.assign(page, { version, clean: text });
  editor.setValue(text);
  editor.setCursor(cursor);
  if (page.verdicts.length === 0) editor.clearHistory();
  notice("");
  showState();
}

async function save() {
  const text = editor.getValue();
  if (text === page.clean) return;
  try {
    const { version } = await tell("/api/save", { text, version: page.version });
    Object.assign(page, { version, clean: text });
    notice("");
  } catch (error) {
    const changed = error instanceof Refusal && error.status === 409;
    notice(changed ? CHANGED : error.message, changed, changed);
  }
  showState();
}

async function writeOver() {
  page.version = (await ask("/api/file")).version;
  await save();
}

// Verdicts

const LETTERS = { a: "a", b: "b", tie: "tie", invalid: "unread", abstain: "abstains" };
const fixed = (p) => (p === null ? "–" : p.toFixed(2));

function chip(name, cell, turned) {
  const made = el("span", `chip ${cell.verdict}`, `${name} ${LETTERS[cell.verdict]} ${fixed(cell.p_a)}`);
  const orders = ["ab", "ba"].filter((order) => order in cell.shown).map((order) => `${order[0]} first ${fixed(cell.shown[order])}`);
  made.title = [`P(a is better) under ${name}`, ...orders, cell.reason ? `unread: ${cell.reason}` : ""].filter(Boolean).join("\n");
  if (turned) made.classList.add("now");
  return made;
}

function texts(number) {
  const pair = page.facts.pairs[number];
  return [
    el("div", "ask", ...pair.before.map((turn) => `${turn}\n`), pair.prompt),
    ...["a", "b"].map((side) => el("div", "text", el("b", "", side), pair[side])),
  ];
}

function showPairs() {
  const [principle, verdict] = [$("principle").value, $("verdict").value];
  const saved = page.saved?.turned || [];
  const turned = new Set(saved.map((one) => `${one.pair} ${one.principle}`));
  const preferences = new Set((page.saved?.preferences || []).map((one) => one.pair));
  const rows = [];
  page.verdicts.forEach((row, number) => {
    const own = principle ? row.principles.find((cell) => cell.principle === principle) : row.all;
    if (!own || (verdict && own.verdict !== verdict)) return;
    const chips = row.principles.map((cell) => chip(cell.principle, cell, turned.has(`${number} ${cell.principle}`)));
    const all = chip("all", row.all, preferences.has(number));
    all.classList.add("all");
    if (row.deciding) all.title += `\ndecided by ${row.deciding}`;
    rows.push(el("article", "pair", el("span", "number", `#${number + 1}`), ...texts(number), el("div", "chips", all, ...chips)));
  });
  $("pairs").replaceChildren(...rows);
  $("count").textContent = `${rows.length} of ${page.verdicts.length}`;
}

function showPrinciples() {
  const ids = [...new Set(page.verdicts.flatMap((row) => row.principles.map((cell) => cell.principle)))];
  const chosen = $("principle").value;
  const option = (value, words) => Object.assign(el("option", "", words), { value });
  $("principle").replaceChildren(option("", "all together"), ...ids.map((id) => option(id, id)));
  $("principle").value = ids.includes(chosen) ? chosen : "";
}

function words(one) {
  const [before, after] = [one.before, one.after].map((cell) => `${LETTERS[cell.verdict]} ${fixed(cell.p_a)}`);
  return `${one.principle || "all together"}: ${before} → ${after}${one.deciding ? ` (decided by ${one.deciding})` : ""}`;
}

// The turned verdicts as a card a pair, in the order in which the server has them.
function cards(rows) {
  const pairs = new Map();
  for (const one of rows) pairs.set(one.pair, [...(pairs.get(one.pair) || []), one]);
  return [...pairs].map(([number, own]) =>
    el("article", "pair", el("span", "number", `#${number + 1}`), ...own.map((one) => el("div", "turn", words(one))), ...texts(number)),
  );
}

function showSaved() {
  const saved = page.saved;
  if (!saved) return;
  $("headline").textContent = saved.error || `${saved.headline}.`;
  $("headline").className = saved.error ? "turn bad" : "turn";
  const tag = { same: "span", gone: "del", new: "ins" };
  const edits = (saved.edits || []).map((edit) => {
    const marked = Object.values(edit.marked).map((words) => el("div", "", ...words.flatMap(([kind, text]) => [el(tag[kind], "", text), " "])));
    return el("div", "edit", el("b", "", edit.id), ` ${edit.kinds.join(", ")}`, ...marked);
  });
  $("edits").replaceChildren(...edits);
  const rows = cards([...(saved.preferences || []), ...(saved.turned || [])]);
  const more = rows.length > MOST ? [el("p", "soft", `and ${rows.length - MOST} more pairs; below, what turned is framed`)] : [];
  $("turned").replaceChildren(...rows.slice(0, MOST), ...more);
}

async function look() {
  try {
    const state = await ask("/api/state", { seen: page.seen });
    Object.assign(page, { judging: state.judging, lost: false });
    if (state.verdicts) {
      if (state.verdicts.length !== page.facts.pairs.length) await learn();
      Object.assign(page, { seen: state.number, verdicts: state.verdicts, saved: state.saved });
      showPrinciples();
      showSaved();
      showPairs();
    }
    if (state.version !== page.version) await changedElsewhere();
  } catch (error) {
    page.lost = !error.status; // a refusal is an answer, and has its words
    if (!page.lost) notice(error.message);
  }
  showState();
  setTimeout(look, EVERY);
}

async function changedElsewhere() {
  const { version } = await ask("/api/file");
  if (version === page.version) return; // the watch is behind
  if (dirty()) notice(CHANGED, true, true);
  else await load();
}

$("save").onclick = save;
$("load").onclick = load;
$("over").onclick = writeOver;
$("principle").onchange = showPairs;
$("verdict").onchange = showPairs;
editor.on("change", showState);
editor.on("inputRead", (cm, change) => {
  if (/^[\w-]$/.test(change.text[0]) && !cm.state.completionActive) cm.showHint();
});
window.addEventListener("beforeunload", (event) => dirty() && event.preventDefault());
await learn();
await load();
editor.clearHistory();
look();
