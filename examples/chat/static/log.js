// What is said, as it is drawn. Text is always text: nothing here writes HTML.

const KEEP = 1000; // lines; older ones leave the page
const TOGETHER = 5 * 60_000; // ms within which messages of one author share a heading
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat([], { weekday: "long", day: "numeric", month: "long" });

const log = document.getElementById("log");
const newer = document.getElementById("newer");
let last = null; // the message drawn last: { user, at, line }
let day = "";
let pinned = true; // the reader is at the bottom, and wants to stay there

export function addMessage({ user, text, at }, name) {
  const when = new Date(at);
  addDay(when);
  const line = copy("message");
  const acts = text.startsWith("/me ");
  const follows = last?.user === user && !last.acts && !acts && when - last.when < TOGETHER;
  line.dataset.user = user;
  line.classList.toggle("acts", acts);
  line.classList.toggle("follows", follows);
  line.style.setProperty("--hue", hue(user));
  line.querySelector(".avatar").textContent = [...user][0].toUpperCase();
  line.querySelector(".author").textContent = user;
  line.querySelector(".text").textContent = acts ? text.slice(4) : text;
  const time = line.querySelector("time");
  time.dateTime = at;
  time.textContent = clock.format(when);
  time.title = when.toLocaleString();
  mark(line, name);
  last = { user, when, acts };
  append(line, user === name);
}

export function addNote(text, kind) {
  const line = copy("note");
  line.classList.add(kind);
  line.querySelector("span").textContent = text;
  last = null;
  append(line, false);
}

// Mark what the reader has said; again after a change of name.
export function markOwn(name) {
  for (const line of log.querySelectorAll(".message")) mark(line, name);
}

export function hue(user) {
  let sum = 0;
  for (const char of user) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return (sum * 137.5) % 360;
}

function mark(line, name) {
  line.classList.toggle("own", line.dataset.user === name);
}

function addDay(when) {
  const text = date.format(when);
  if (text === day) return;
  day = text;
  addNote(text === date.format(new Date()) ? "Today" : text, "day");
}

function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function append(line, own) {
  document.getElementById("empty").hidden = true;
  log.append(line);
  while (log.childElementCount > KEEP) log.firstElementChild.remove();
  if (pinned || own) toBottom();
  else if (line.classList.contains("message")) newer.hidden = false;
}

function toBottom() {
  log.scrollTop = log.scrollHeight;
}

log.addEventListener("scroll", () => {
  pinned = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  if (pinned) newer.hidden = true;
});
newer.addEventListener("click", () => {
  toBottom();
  log.focus();
});
new ResizeObserver(() => pinned && toBottom()).observe(log); // a phone's keyboard comes and goes
