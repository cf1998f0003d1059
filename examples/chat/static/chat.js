// The page of one room: EventSource to listen, fetch to say.

import { addMessage, addNote, addOlder, hue, markOwn, messages } from "./log.js";

const $ = (id) => document.getElementById(id);
const room = decodeURIComponent(location.pathname.split("/").pop());
const here = encodeURIComponent(room); // relative: the app may live below a prefix
const HISTORY = 50; // messages that a stream begins with, if there are so many
const NOT_IN_NAMES = /[\s.:/*?[\]\p{Cc}]+/gu;

// -- listen ------------------------------------------------------------------------------------

const GAPS = {
  slow: "This page was too slow and missed messages here",
  reconnected: "The connection was interrupted. Messages may be missing here",
  expired: "Some messages here are no longer kept",
  reset: "The chat was restarted. Messages may be missing here",
};
let resume = null; // the id of the last event; null before the first connection
let steady; // timer: a stream that ends at once is not live
let unread = 0;

function listen() {
  const query = resume ? `?last_event_id=${encodeURIComponent(resume)}` : "";
  const source = new EventSource(`${here}/events${query}`);
  source.onopen = () => {
    resume ??= "";
    clearTimeout(steady);
    steady = setTimeout(show, 200, "live", "Live");
  };
  source.onmessage = (event) => {
    resume = event.lastEventId;
    addMessage({ id: event.lastEventId, ...JSON.parse(event.data) }, name);
    if (document.hidden) setTitle(unread + 1);
  };
  source.addEventListener("gap", (event) => {
    resume = event.lastEventId;
    const { reason, missed } = JSON.parse(event.data);
    addNote(GAPS[reason] + (missed ? ` (${missed})` : ""), "gap");
  });
  source.onerror = () => {
    clearTimeout(steady);
    show("waiting", resume === null ? "Connecting" : "Reconnecting");
    // It comes back by itself, but for an answer that is no stream: that of a proxy, say.
    if (source.readyState === EventSource.CLOSED) setTimeout(listenAgain, 2000);
  };
}

function listenAgain() {
  if (resume === "") addNote(GAPS.reconnected, "gap");
  listen();
}

// What was said before the newest ones, which a stream begins with.
async function lookBack() {
  $("older").disabled = true;
  const before = encodeURIComponent(messages()[0].dataset.id);
  const answer = await fetch(`${here}/history?before=${before}`).catch(() => null);
  $("older").disabled = false;
  if (!answer || answer.status === 503) return; // later, perhaps
  const page = answer.ok ? await answer.json() : { items: [], previous: null };
  addOlder(page.items.map(({ id, message }) => ({ id, ...message })), name);
  $("older").hidden = page.previous === null;
}

$("older").addEventListener("click", lookBack);

function show(state, text) {
  if ($("state").dataset.state === state && $("state").textContent === text) return;
  $("state").dataset.state = state;
  $("state").textContent = text;
}

function setTitle(count) {
  unread = count;
  document.title = (count ? `(${count}) ` : "") + `#${room}`;
}

// -- say ---------------------------------------------------------------------------------------

async function say(text) {
  let answer;
  try {
    answer = await fetch(here, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ user: name, text }),
      signal: AbortSignal.timeout(20_000),
    });
  } catch {
    return "the server does not answer";
  }
  if (!answer.ok) return whyNot(answer);
  $("worker").textContent = `worker ${answer.headers.get("X-Worker-Pid")}`;
}

async function whyNot(answer) {
  if (answer.status === 503) return "the server cannot reach its broker right now";
  if (answer.status === 413) return "the message is too large";
  const { detail } = await answer.json().catch(() => ({}));
  const told = Array.isArray(detail) ? detail[0].msg : detail;
  return told ?? `the server answered ${answer.status}`;
}

async function submit() {
  const text = $("text").value;
  if (!text.trim() || $("text").readOnly) return;
  sending(true);
  const problem = await say(text);
  sending(false);
  tell(problem && `Not sent: ${problem}. Your text is still here.`);
  if (!problem) {
    $("text").value = "";
    grow();
  }
}

function sending(yes) {
  $("text").readOnly = yes;
  $("say").ariaBusy = String(yes);
}

function tell(problem) {
  $("problem").textContent = problem ?? "";
  $("problem").hidden = !problem;
}

function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight}px`;
}

$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
$("text").addEventListener("input", grow);

// -- name --------------------------------------------------------------------------------------

// A tab keeps its own name, so that two of them can talk; the last one used is suggested.
let name = new URLSearchParams(location.search).get("name")?.trim() || read("session", "name");

function join(chosen) {
  name = chosen;
  write("session", "name", name);
  write("local", "name", name);
  $("rename").textContent = name;
  $("rename").ariaLabel = `${name}: change your name`;
  $("rename").style.setProperty("--hue", hue(name));
  $("join").hidden = true;
  $("say").hidden = false;
  markOwn(name);
  $("text").focus();
}

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("name").value.trim()) join($("name").value.trim());
});
$("rename").addEventListener("click", () => {
  $("join").hidden = false;
  $("say").hidden = true;
  $("name").select();
});

// -- rooms -------------------------------------------------------------------------------------

function listRooms() {
  const known = JSON.parse(read("local", "rooms") ?? "[]").filter((one) => one !== room);
  const visited = [room, ...known].slice(0, 12);
  write("local", "rooms", JSON.stringify(visited));
  for (const one of new Set(["lobby", ...visited.sort()])) {
    const link = document.createElement("a");
    link.href = encodeURIComponent(one);
    link.textContent = one;
    if (one === room) link.ariaCurrent = "page";
    const item = document.createElement("li");
    item.append(link);
    $("rooms").append(item);
    if (one === room) link.scrollIntoView({ block: "nearest", inline: "center" });
  }
}

$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = $("room").value.trim().replace(NOT_IN_NAMES, "-");
  if (wanted) location.assign(encodeURIComponent(wanted));
});

// -- storage that may be forbidden -------------------------------------------------------------

function read(kind, key) {
  try {
    return window[`${kind}Storage`].getItem(`chat.${key}`);
  } catch {
    return null;
  }
}

function write(kind, key, value) {
  try {
    window[`${kind}Storage`].setItem(`chat.${key}`, value);
  } catch {
    // The page works without a memory.
  }
}

// -- begin -------------------------------------------------------------------------------------

$("title").textContent = room;
$("text").placeholder = `Message #${room}`;
setTitle(0);
document.addEventListener("visibilitychange", () => setTitle(0));
if (name) join(name);
else $("name").value = read("local", "name") ?? "";

if (room.search(NOT_IN_NAMES) === -1) {
  listRooms();
  listen();
  setTimeout(() => {
    $("log").ariaLive = "polite"; // the history is not read aloud
    $("older").hidden = messages().length < HISTORY;
  }, 1500);
} else {
  show("closed", "No such room");
  $("empty").textContent = "A room's name has no spaces and none of . : / * ? [ ]";
  $("write").hidden = true;
}
