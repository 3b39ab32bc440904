"use strict";
// The page of `ganaug study`. The server decides what is shown; an answer is kept here until the server has stored it.

const TOKEN = "ganaug-study-token";
const UNSAVED = "ganaug-study-unsaved";
// An answer before this is no answer to these pictures: the second half of a double click, or a key held down.
const LEAST_MS = 400;
const WAITS_MS = [300, 600, 1000, 2000, 3000]; // between attempts while the server is away; the last one is repeated
const TIMEOUT_MS = 10000;

const TEXTS = {
  "real-or-generated": {
    title: "Real or generated?",
    intro: "You see two faces side by side: one is a photo, the other was made by a computer. Which one was made by " +
      "the computer? If you are not sure, guess. A picture that is broken or scrambled was made by the computer.",
    question: "Which picture was made by a computer?",
    answers: [["left", "Left"], ["right", "Right"]],
    keys: "Keys: F or ← for the left picture, J or → for the right one.",
  },
  "same-person": {
    title: "Same person?",
    intro: "You see two faces side by side. Do both show the same person? Hair, light, age or expression may differ. " +
      "If you are not sure, guess. A picture in which nobody can be seen shows a different person.",
    question: "Do both pictures show the same person?",
    answers: [["same", "Same person"], ["different", "Different"]],
    keys: "Keys: F or ← for the same person, J or → for different persons.",
  },
};

const at = (id) => document.getElementById(id);
const token = takeToken();
let trial = null; // what is shown now
let exposureMs = 0;
let introduced = null; // the task whose instructions have been read since the page was loaded
let shownAt = null; // when both pictures were on the screen; null while no answer is expected
let cover = 0;
let blobs = [];
let load = 0; // number of the newest loading of pictures: older ones give up

// The token stands behind the #, which is sent to no server and so is in no server's log. It leaves the address bar and
// the history at once, and stays in this tab alone.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("t");
  if (given) {
    if (given !== sessionStorage.getItem(TOKEN)) sessionStorage.removeItem(UNSAVED);
    sessionStorage.setItem(TOKEN, given);
    history.replaceState(null, "", "/");
  }
  return sessionStorage.getItem(TOKEN);
}

function sleep(ms) {
  return new Promise((resolve) => {
    const done = () => { clearTimeout(timer); removeEventListener("online", done); resolve(); };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
  });
}

function say(text, waiting = false) {
  const status = at("status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("waiting", waiting);
}

// Asks the server until it answers; says so while it does not.
async function ask(path, body, waiting) {
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await fetch(path, {
        method: body === undefined ? "GET" : "POST",
        headers: { Authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (response.status < 500) {
        const isPicture = response.headers.get("Content-Type") === "image/png";
        const data = isPicture ? await response.blob() : await response.json();
        say("");
        return { status: response.status, data };
      }
    } catch { /* away: asked again below */ }
    say(waiting, true);
    await sleep(WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)]);
  }
}

const AWAY = "The server cannot be reached. Trying again…";
const NOT_SAVED = "Your last answer is not saved yet: the server cannot be reached. Trying again. Please leave this page open.";

function section(name) {
  for (const id of ["message", "consent", "intro", "trial"]) at(id).hidden = id !== name;
  at(name).querySelector("h1").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function message(title, text) {
  at("message-title").textContent = title;
  at("message-text").textContent = text;
  section("message");
}

function unknownLink() {
  at("header").hidden = at("footer").hidden = true;
  message("This link is not known", "Please open the link that you were given, as it is.");
}

async function refresh() {
  const { status, data } = await ask("/api/state", undefined, AWAY);
  if (status === 200) show(data);
  else unknownLink();
}

function show(state) {
  shownAt = null;
  clearTimeout(cover);
  trial = state.trial || null;
  exposureMs = state.exposure_ms || 0;
  const counted = state.total !== undefined;
  at("header").hidden = !counted;
  at("footer").hidden = state.state === "withdrawn" || state.state === "consent"; // nothing to erase
  if (counted) {
    at("count").textContent = trial ? `${state.done + 1} of ${state.total}` : `${state.total} of ${state.total}`;
    at("progress").max = state.total;
    at("progress").value = state.done;
  }
  if (state.state === "consent") showConsent(state.consent);
  else if (state.state === "done") {
    forgetPictures();
    message("Thank you!", "That was the last pair. All your answers are saved; you can close this page.");
  } else if (state.state === "withdrawn") {
    forgetPictures();
    message("You have withdrawn", "Your answers have been erased. Thank you for your time; you can close this page.");
  } else if (introduced !== trial.task) showIntro(state.done);
  else showTrial();
}

function showConsent(text) {
  at("consent-text").replaceChildren(...text.split(/\n\s*\n/).map((part) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = part;
    return paragraph;
  }));
  section("consent");
}

function showIntro(done) {
  const texts = TEXTS[trial.task];
  at("intro-title").textContent = texts.title;
  at("intro-text").textContent = texts.intro;
  at("intro-keys").textContent = texts.keys;
  at("intro-timed").hidden = exposureMs === 0;
  at("intro-timed").textContent =
    `The pictures are shown for ${exposureMs / 1000} seconds only. You can answer while you see them or afterwards.`;
  at("start").textContent = done ? "Continue" : "Start";
  section("intro");
}

function forgetPictures() {
  load++;
  for (const blob of blobs) URL.revokeObjectURL(blob);
  blobs = [];
  for (const side of ["left", "right"]) at(side).removeAttribute("src");
}

async function showTrial() {
  forgetPictures();
  const mine = load;
  const texts = TEXTS[trial.task];
  at("question").textContent = texts.question;
  ["left", "right"].forEach((side, i) => { at(`answer-${side}`).querySelector("span").textContent = texts.answers[i][1]; });
  at("pair").classList.toggle("pick", trial.task === "real-or-generated");
  at("pair").classList.add("covered");
  setReady(false);
  section("trial");
  const sides = ["left", "right"];
  const answers = await Promise.all(sides.map((side) => ask(`/api/picture/${trial[side]}`, undefined, AWAY)));
  if (mine !== load) return;
  if (answers.some(({ status }) => status !== 200)) return refresh(); // answered in another tab, or withdrawn
  blobs = answers.map(({ data }) => URL.createObjectURL(data));
  sides.forEach((side, i) => { at(side).src = blobs[i]; });
  try {
    await Promise.all(sides.map((side) => at(side).decode()));
  } catch {
    if (mine === load) say("A picture cannot be shown. Please tell the person who sent you the link.", true);
    return;
  }
  if (mine !== load) return;
  at("pair").classList.remove("covered"); // both at once
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (mine !== load) return;
    shownAt = performance.now();
    setTimeout(() => { if (mine === load) setReady(true); }, LEAST_MS);
    if (exposureMs) cover = setTimeout(() => { if (mine === load) at("pair").classList.add("covered"); }, exposureMs);
  }));
}

function setReady(ready) {
  for (const side of ["left", "right"]) at(`answer-${side}`).setAttribute("aria-disabled", String(!ready));
}

function answer(place) {
  const now = performance.now();
  if (!trial || shownAt === null || now - shownAt < LEAST_MS) return;
  const ms = Math.round(now - shownAt);
  shownAt = null; // a second click finds nothing to answer
  setReady(false);
  const id = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  save({ place: trial.place, id, choice: TEXTS[trial.task].answers[place][0], ms });
}

// Sends an answer until the server has it. It waits in this tab meanwhile, so that a reload does not lose it.
async function save(given) {
  sessionStorage.setItem(UNSAVED, JSON.stringify(given));
  const { status, data } = await ask("/api/answer", given, NOT_SAVED);
  sessionStorage.removeItem(UNSAVED);
  if (status === 200) show(data);
  else await refresh(); // another tab was first
}

at("consent-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { status, data } = await ask("/api/consent", {}, AWAY);
  if (status === 200) show(data);
  else unknownLink();
});
at("start").addEventListener("click", () => { introduced = trial.task; showTrial(); });
["left", "right"].forEach((side, place) => {
  at(`answer-${side}`).addEventListener("click", () => answer(place));
  at(`frame-${side}`).addEventListener("click", () => { if (trial && trial.task === "real-or-generated") answer(place); });
});
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || at("dialog").open) return;
  if (event.key === "Enter" && !at("intro").hidden && document.activeElement === at("intro-title")) return at("start").click();
  if (at("trial").hidden) return;
  const place = { f: 0, arrowleft: 0, j: 1, arrowright: 1 }[event.key.toLowerCase()];
  if (place === undefined) return;
  event.preventDefault();
  answer(place);
});
at("withdraw").addEventListener("click", () => at("dialog").showModal());
at("stay").addEventListener("click", () => at("dialog").close());
at("leave").addEventListener("click", async () => {
  at("dialog").close();
  sessionStorage.removeItem(UNSAVED);
  const { status, data } = await ask("/api/withdraw", {}, AWAY);
  if (status === 200) show(data);
  else unknownLink();
});

// Another link, opened in this tab: behind the # alone it differs, so that the browser itself would load nothing.
addEventListener("hashchange", () => location.reload());

async function begin() {
  if (!token) return unknownLink();
  const unsaved = sessionStorage.getItem(UNSAVED);
  if (unsaved) await save(JSON.parse(unsaved));
  else await refresh();
}
begin();
