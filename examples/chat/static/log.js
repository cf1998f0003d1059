// What is said, as it is drawn. Text is always text: nothing here writes HTML.

const KEEP = 1000; // lines; older ones leave the page
const TOGETHER = 5 * 60_000; // ms within which messages of one author share a heading
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat([], { weekday: "long", day: "numeric", month: "long" });

const log = document.getElementById("log");
const empty = document.getElementById("empty"); // the lines are behind it
const newer = document.getElementById("newer");
const newest = {}; // what the next message follows: { user, when, acts, day }
let pinned = true; // the reader is at the bottom, and wants to stay there

export function addMessage(message, name) {
  for (const line of draw(message, name, newest)) append(line, message.user === name);
}

// What was said earlier, above everything else; the reader stays where they are.
export function addOlder(page, name) {
  const place = { day: "" };
  const lines = page.flatMap((message) => draw(message, name, place));
  const heading = empty.nextElementSibling;
  const below = log.scrollHeight - log.scrollTop;
  if (heading?.dataset.day === place.day) heading.remove();
  empty.after(...lines);
  log.scrollTop = log.scrollHeight - below;
}

export function messages() {
  return log.querySelectorAll(".message");
}

// The lines of a message, behind what stands at `place` and becomes this message.
function draw({ id, user, text, at }, name, place) {
  const when = new Date(at);
  const line = copy("message");
  const acts = text.startsWith("/me ");
  const day = date.format(when);
  const heading = day === place.day ? [] : [dayNote(day)];
  const follows =
    !heading.length && place.user === user && !place.acts && !acts && when - place.when < TOGETHER;
  line.dataset.id = id;
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
  Object.assign(place, { user, when, acts, day });
  return [...heading, line];
}

export function addNote(text, kind) {
  newest.user = null;
  append(note(text, kind), false);
}

function note(text, kind) {
  const line = copy("note");
  line.classList.add(kind);
  line.querySelector("span").textContent = text;
  return line;
}

// Mark what the reader has said; again after a change of name.
export function markOwn(name) {
  for (const line of messages()) mark(line, name);
}

export function hue(user) {
  let sum = 0;
  for (const char of user) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return (sum * 137.5) % 360;
}

function mark(line, name) {
  line.classList.toggle("own", line.dataset.user === name);
}

function dayNote(day) {
  const line = note(day === date.format(new Date()) ? "Today" : day, "day");
  line.dataset.day = day;
  return line;
}

function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

function append(line, own) {
  empty.hidden = true;
  log.append(line);
  while (log.childElementCount > KEEP) empty.nextElementSibling.remove();
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
