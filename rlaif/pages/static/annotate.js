// The ranking page. What is shown comes from the server; an action is sent, and answered with what comes next.
// All texts are set as text, never as HTML. What is not yet saved is kept in the tab's session storage.

import { ask, Refusal, tell } from "/static/ask.js";
import { element, Ranking } from "/static/ranking.js";

const $ = (id) => document.getElementById(id);
const options = document.querySelector("main").dataset;
const kept = sessionStorage;
const ORDINAL = ["First", "Second"];
const LONGEST = 86_400; // seconds after which a page that was left open says nothing of the time taken

let state = null; // what the server said last
let ranking = null; // the ranking under construction, of more than two responses
let busy = false;
let looked = 0; // milliseconds that this task has been looked at
let since = null; // since when it is being looked at, null while the tab is hidden

// Sending and receiving

function problem(error, again) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
  if (error && again) {
    const button = element("button", "", "Try again");
    button.id = "again";
    button.addEventListener("click", again);
    $("problem").append(button);
  }
}

async function load() {
  try {
    const pending = kept.getItem("pending");
    if (pending && JSON.parse(pending).annotator === kept.getItem("annotator")) return await send(JSON.parse(pending));
    show(await ask("/api/state", { annotator: kept.getItem("annotator") }));
    problem(null);
  } catch (error) {
    const unnamed = error.status === 400 && !state; // the name is none: it is asked for again
    if (unnamed) start();
    problem(error, unnamed ? null : load);
  }
}

// The action stands in the session storage until the server has said that it is on disk; sent twice, it counts once.
async function send(action) {
  if (busy) return;
  busy = true;
  kept.setItem("pending", JSON.stringify(action));
  try {
    const next = await tell("/api/act", action);
    kept.removeItem("pending");
    busy = false;
    forget();
    show(next);
    problem(null);
  } catch (error) {
    busy = false;
    const refused = error instanceof Refusal && error.status >= 400 && error.status < 500 && error.status !== 401;
    if (!refused) return problem(new Error(`Not saved yet. ${error.message}`), () => send(action));
    kept.removeItem("pending");
    if (error.status === 409 || !state) await load();
    problem(error);
  }
}

function act(kind, ranks = null) {
  if (busy || !state || (kind !== "undo" && !state.task)) return;
  const note = $("note").value.trim();
  if (kind === "choice" && Number(options.reasons) && !note) return note_now("Write a reason first.");
  const task = state.task && kind !== "undo" ? state.task.id : "";
  const taken = Math.round(time_looked() / 10) / 100;
  const seconds = kind === "undo" || taken > LONGEST ? null : taken;
  send({ annotator: state.annotator, step: state.step, kind, task, ranks, seconds, note: note || null });
}

// Time and drafts, which a reload keeps

function time_looked() {
  return looked + (since === null ? 0 : performance.now() - since);
}

function watch_time() {
  looked = time_looked();
  since = document.hidden || !state?.task ? null : performance.now();
}

function remember() {
  if (!state?.task) return;
  const draft = { task: state.task.id, looked: time_looked(), note: $("note").value, groups: ranking?.groups };
  kept.setItem("draft", JSON.stringify(draft));
}

function forget() {
  kept.removeItem("draft");
  looked = 0;
  since = null;
}

function recall(task) {
  const draft = JSON.parse(kept.getItem("draft") || "{}");
  const own = draft.task === task.id ? draft : {};
  looked = own.looked || 0;
  since = null; // what was shown before is no part of it
  $("note").value = own.note || "";
  if (ranking) ranking.groups = own.groups || [];
}

// Showing

function show(next) {
  state = next;
  kept.setItem("annotator", state.annotator);
  const task = state.task;
  $("start").hidden = true;
  $("work").hidden = !task;
  $("end").hidden = Boolean(task);
  $("progress").max = Math.max(state.total, 1);
  $("progress").value = state.done;
  $("count").textContent = `${state.done} of ${state.total}${time_left(state.seconds_left)}`;
  $("who").textContent = state.annotator;
  document.body.dataset.task = task ? task.id : "";
  document.body.dataset.step = state.step;
  $("back").disabled = !state.can_undo;
  if (!task) {
    $("ended").textContent = `${state.done} items, all that there are for ${state.annotator}. You can close this page.`;
    return;
  }
  ranking = task.responses.length > 2 ? new Ranking(task.responses.length, $("places"), ranking_changed) : null;
  recall(task);
  $("prompt").replaceChildren(...task.messages.map(turn));
  show_rules(task);
  $("work").classList.toggle("blurred", task.blur);
  $("responses").classList.toggle("two", task.responses.length % 3 !== 0);
  $("responses").replaceChildren(...task.responses.map(response));
  $("places").hidden = !ranking;
  $("noting").hidden = !(Number(options.reasons) && task.phase === "choice") && !$("note").value;
  show_opinion(task);
  if (ranking) ranking.draw();
  show_keys();
  window.scrollTo(0, 0);
  $("prompt").scrollTop = $("prompt").scrollHeight; // the last turn is what is responded to
  watch_time();
  if (Number(options.reasons) && task.phase === "choice" && !$("note").value) $("note").focus();
  else document.activeElement?.blur();
}

function time_left(seconds) {
  if (!seconds) return "";
  return seconds < 90 ? " · about a minute left" : ` · about ${Math.round(seconds / 60)} minutes left`;
}

function turn(message) {
  const made = element("div", "turn");
  made.append(element("span", "role", message.role), element("div", "text", message.content));
  return made;
}

function show_rules(task) {
  const asked = task.principles.find((rule) => rule.id === task.asked);
  const parts = [];
  if (asked) parts.push(element("p", "asked", asked.text));
  else {
    const together = task.principles.length ? " by these principles together" : "";
    parts.push(element("p", "asked", ranking ? `Rank the responses${together}.` : `Which response is better${together}?`));
    const list = element("ul");
    list.append(...task.principles.map((rule) => element("li", "", rule.text)));
    if (task.principles.length) parts.push(list);
  }
  $("rules").replaceChildren(...parts);
}

function response(text, place) {
  const made = element("div", "card");
  const head = element("h3");
  head.append(element("kbd", "", String(place + 1)), element("span", "", ranking ? `Response ${place + 1}` : ORDINAL[place]));
  head.append(element("small", "", place_chosen(place)));
  head.addEventListener("click", () => pressed(String(place + 1)));
  made.append(head, element("div", "text", text));
  made.querySelector(".text").tabIndex = 0;
  const chosen = state.task.chosen;
  made.classList.toggle("chosen", Boolean(chosen) && chosen[place] === 1);
  return made;
}

function place_chosen(place) {
  const chosen = state.task.chosen;
  if (!chosen || chosen[place] !== 1) return "";
  return chosen.every((rank) => rank === 1) ? "your choice: a tie" : "your choice";
}

function show_opinion(task) {
  $("opinion").hidden = !task.opinion;
  if (!task.opinion) return;
  const { p_first, principles, said, critiques } = task.opinion;
  const parts = [element("h3", "", `An AI judge: ${in_words(p_first)}`)];
  if (principles.length) {
    const table = element("table");
    const rules = Object.fromEntries(task.principles.map((rule) => [rule.id, rule.text]));
    for (const { id, p_first: p } of principles) {
      const row = element("tr");
      row.append(element("td", "rule", rules[id] || id), element("td", "rule", in_words(p)));
      table.append(row);
    }
    parts.push(table);
  }
  for (const text of said) parts.push(element("div", "text", text));
  critiques.forEach((text, place) => {
    if (text) parts.push(element("h3", "", `A critique of the ${ORDINAL[place].toLowerCase()}`), element("div", "text", text));
  });
  $("opinion").replaceChildren(...parts);
}

function in_words(p) {
  const sure = `${Math.round(100 * Math.max(p, 1 - p))} %`;
  const side = p > 0.5 ? "first" : "second";
  if (Math.abs(p - 0.5) < 0.005) return "a tie";
  return Math.abs(p - 0.5) <= Number(options.tie) ? `a tie (${sure} for the ${side})` : `${side} is better (${sure})`;
}

// Keys, and buttons for them

function keys() {
  const task = state.task;
  const shared = [
    ["s", "Skip", () => act("skip"), task.phase === "choice", "apart"],
    ["u", "Undo", () => act("undo"), state.can_undo],
    ["n", Number(options.reasons) ? "Reason" : "Note", () => note_now(), true],
    ...(task.blur ? [["b", "Blur", () => $("work").classList.toggle("blurred"), true]] : []),
  ];
  if (ranking) {
    const next = task.responses.map((_, place) => [String(place + 1), "", () => ranking.press(place), ranking.left.includes(place)]);
    return [
      ...next,
      ["0", "Tie with the next", () => ranking.joinNext(), ranking.groups.length > 0 && ranking.left.length > 0],
      ["Backspace", "Take back", () => ranking.takeBack(), ranking.groups.length > 0],
      ["Enter", "Save", () => act("choice", ranking.ranks), ranking.ranks !== null, "strong"],
      ...shared,
    ];
  }
  const kind = task.phase;
  const choose = [
    ["1", "First", () => act(kind, [1, 2]), true, "strong"],
    ["0", "Tie", () => act(kind, [1, 1]), true],
    ["2", "Second", () => act(kind, [2, 1]), true, "strong"],
  ];
  return kind === "final" ? [["Enter", "Keep mine", () => act("final", task.chosen), true, "strong"], ...choose, ...shared] : [...choose, ...shared];
}

function show_keys() {
  const buttons = keys()
    .filter(([key, name]) => name || !ranking)
    .map(([key, name, does, enabled, classes = ""]) => {
      const made = element("button", classes);
      made.type = "button";
      made.disabled = !enabled;
      made.dataset.key = key;
      made.append(element("kbd", "", key), ` ${name}`);
      made.addEventListener("click", () => pressed(key));
      return made;
    });
  $("keys").replaceChildren(...buttons);
}

function pressed(key) {
  if (!state?.task) return key === "u" && state?.can_undo ? act("undo") : undefined;
  const found = keys().find(([name]) => name === key);
  if (found?.[3]) found[2]();
}

function ranking_changed() {
  show_keys();
  remember();
}

function note_now(said = "") {
  $("noting").hidden = false;
  $("note").focus();
  if (said) problem(new Error(said));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target === $("note")) {
    if (event.key === "Escape") $("note").blur();
    return;
  }
  if (event.target.tagName === "INPUT" || !state) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target.tagName === "BUTTON" && key === "Enter" && event.target.dataset.key !== "Enter") return;
  if (state.task ? keys().some(([name]) => name === key) : key === "u") {
    event.preventDefault(); // "n" is not to be typed into the note that it opens
    pressed(key);
  }
});

$("note").addEventListener("input", () => {
  problem(null);
  remember();
});
$("back").addEventListener("click", () => pressed("u"));
document.addEventListener("visibilitychange", () => (watch_time(), remember()));
window.addEventListener("pagehide", remember);
$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  kept.setItem("annotator", $("name").value);
  load();
});

function start() {
  kept.removeItem("annotator");
  $("start").hidden = false;
  $("name").value = options.name;
  $(options.name ? "begin" : "name").focus();
}

if (kept.getItem("annotator")) load();
else start();
