// The page at /: choose a clip, send it to POST /v1/search, show what came back and play it.
//
// File names come from strangers. Text enters the page through textContent or an attribute set by name,
// never as markup; the Content-Security-Policy of service/http/routes/pages.py is the second lock.

import { clearAnswer, release, showAnswer, stopPair } from "./answer.js";
import {
  count, find, forgetKey, formatBytes, formatTime, keepKey, keyHeaders, lendKey, make, readProblem, showIfBelow,
} from "./elements.js";
import { QUESTIONS, showQuestions } from "./questions.js";

// Only for files that the browser has no type for.
const SOUND_NAME = /\.(aac|aif|aiff|caf|flac|m4a|mka|mp3|oga|ogg|opus|w64|wav|wma)$/i;
const MAX_COUNTED = 1000; // assets in one page of GET /v1/assets
const READINESS_MILLISECONDS = 6000; // GET /readyz may repeat what it said five seconds ago
const LENDING_MILLISECONDS = 60_000; // well below the life of the cookie; a tab in the background may be late

const query = { file: null, kind: null, url: null, player: null, text: "" };
let running = null; // the XMLHttpRequest of the search under way

// The library

const library = { isEmpty: false, numAsked: 0, bundle: null };

/** Show what the library holds now: jobs and releases change it while the page is open. Returns false if refused. */
async function showLibrary({ bundleId = null } = {}) {
  const turn = ++library.numAsked;
  try {
    const [assets, ready] = await Promise.all([fetchJson(`/v1/assets?limit=${MAX_COUNTED}`), fetchJson("/readyz")]);
    if (turn !== library.numAsked) return true; // a later request answers
    const more = assets.next_cursor === null ? "" : "more than ";
    library.isEmpty = assets.assets.length === 0;
    if (ready.bundle) offer(ready.bundle); // a service of before does not say
    find("library").textContent =
      `Library: ${more}${count(assets.assets.length, "file")}, ${count(ready.num_segments, "segment")} · ` +
      `bundle ${bundleId ?? ready.bundle_id}`;
    lendKey();
    fetchJson(QUESTIONS).then(({ jobs }) => showQuestions(jobs), () => {}); // the library is shown without them too
    const isOld = (bundleId !== null && bundleId !== ready.bundle_id) || (ready.num_segments === 0) !== library.isEmpty;
    if (isOld) setTimeout(() => turn === library.numAsked && showLibrary(), READINESS_MILLISECONDS);
  } catch (problem) {
    if (turn !== library.numAsked) return false;
    if (problem.status === 401 || problem.status === 403) askForKey(problem);
    else find("library").textContent = `${problem.title || "The service does not answer"}.`;
    return false;
  }
  arrange();
  return true;
}

/** Offer what the active bundle embeds and compares, and nothing else. */
function offer(bundle) {
  const isNew = JSON.stringify(bundle) !== JSON.stringify(library.bundle);
  library.bundle = bundle;
  for (const option of document.querySelectorAll('input[name="target"], #source option[value]')) {
    if (option.value) option.disabled = !(option.value in bundle.tracks);
  }
  find("attribution").textContent = bundle.attribution.join(" ");
  if (isNew) suggestTarget();
}

/** Show the hints that apply: none beside results, a problem or a running search. */
function arrange() {
  const isBusy = running !== null || find("answer").textContent !== "" || !find("problem").hidden;
  find("empty").hidden = !library.isEmpty || find("results").childElementCount > 0;
  find("waiting").hidden = library.isEmpty || isBusy;
}

/** GET a JSON document; throws a problem (`title`, `detail`) for any other answer. */
async function fetchJson(address) {
  const response = await fetch(address, { cache: "no-store", headers: keyHeaders() });
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  throw readProblem(response.status, text);
}

// The key

function askForKey(problem) {
  const isRefused = keyHeaders().Authorization !== undefined;
  if (problem.status === 401) forgetKey();
  if (isRefused && problem.status === 401) find("key-note").textContent = "This key is not valid or was revoked. Try another.";
  else if (isRefused) find("key-note").textContent = `Refused: ${problem.detail.trim()}.`;
  find("library").textContent = "The library is locked: this service needs a key.";
  if (!find("key-form").hidden) return; // do not disturb typing
  find("key-form").hidden = false;
  find("key").focus();
}

async function useKey() {
  keepKey(find("key").value.trim());
  find("key").value = "";
  find("key-form").hidden = true;
  if (!(await showLibrary())) return;
  clearProblem();
  find("status").textContent = query.file ? "Key accepted. Search again." : "Key accepted.";
  find(query.file ? "search" : "file").focus();
}

// The clip

function chooseFile(file, { numFiles = 1 } = {}) {
  if (running) running.abort();
  forgetPreview();
  clearAnswer(); // it belongs to the previous clip
  query.file = file;
  query.kind = file.type.startsWith("audio/") || (!file.type && SOUND_NAME.test(file.name)) ? "audio" : "video";
  query.url = URL.createObjectURL(file);
  find("file-name").textContent = file.name;
  find("file-facts").textContent = formatBytes(file.size);
  find("status").textContent = numFiles > 1 ? `A search takes one file: the first of ${numFiles} is used.` : "";
  find("waiting").textContent = "Press Search. The best matches appear here.";
  showPreview();
  suggestTarget();
  arrange();
}

function showPreview() {
  if (query.file.type.startsWith("image/")) {
    find("preview").replaceChildren(make("img", { src: query.url, alt: "Your picture" }));
    find("preview").hidden = false;
    return;
  }
  const player = make(query.kind, { controls: true, preload: "metadata", playsInline: true });
  player.setAttribute("aria-label", "Your clip");
  player.addEventListener("loadedmetadata", () => {
    const length = Number.isFinite(player.duration) ? `${formatTime(player.duration)} · ` : ""; // a recording has none
    find("file-facts").textContent = length + formatBytes(query.file.size);
    if (query.kind === "video" && player.videoWidth === 0) {
      query.kind = "audio"; // a video file that has only sound
      find("preview").replaceChildren();
      showPreview();
      suggestTarget();
    }
  });
  player.addEventListener("error", () => {
    if (query.player !== player) return;
    const note = "This browser cannot play the file; the service may still read it.";
    query.player = null;
    find("preview").replaceChildren(make("p", { className: "quiet", text: note }));
  });
  player.src = query.url;
  query.player = player;
  find("preview").replaceChildren(player);
  find("preview").hidden = false;
}

function forgetPreview() {
  stopPair();
  if (query.player) release(query.player);
  if (query.url) URL.revokeObjectURL(query.url);
  query.player = query.url = null;
  find("preview").replaceChildren();
}

function suggestTarget() {
  const { tracks, compares } = library.bundle ?? { tracks: { audio: [], video: [] }, compares: true };
  const other = (query.kind ?? "video") === "video" ? "audio" : "video";
  const same = other === "audio" ? "video" : "audio";
  const target = compares || !(same in tracks) ? other : same;
  document.querySelector(`input[name="target"][value="${target in tracks ? target : same}"]`).checked = true;
  find("source").value = "";
}

// The search

function search() {
  if (running) return;
  query.text = find("text").value.trim();
  if (!query.file && !query.text) {
    find("status").textContent = "Choose a clip or write some words first.";
    find("text").focus();
    return;
  }
  const form = new FormData();
  form.append("target", document.querySelector('input[name="target"]:checked').value);
  form.append("limit", find("limit").value);
  if (find("source").value) form.append("from", find("source").value);
  if (query.text) form.append("text", query.text);
  if (query.file) form.append("file", query.file, "query"); // its own name stays private
  clearAnswer();
  send(form);
}

function send(form) {
  const request = new XMLHttpRequest(); // fetch() reports no upload progress
  running = request;
  showProgress("Uploading…", 0);
  request.upload.onprogress = ({ loaded, total }) => {
    showProgress(`Uploading… ${Math.floor((100 * loaded) / total)} %`, loaded / total);
  };
  request.upload.onload = () => showProgress(query.file ? "Decoding and searching…" : "Searching…", null);
  request.onload = () => {
    finish("");
    if (request.status === 200) takeAnswer(JSON.parse(request.responseText));
    else refuse(readProblem(request.status, request.responseText, request.getResponseHeader("Retry-After")));
  };
  request.onabort = () => finish("Cancelled.");
  request.onerror = () => {
    finish("");
    explainSilence();
  };
  request.open("POST", "/v1/search");
  for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
  request.send(form);
}

/** The browser does not say why a request failed: check whether the service answers at all. */
async function explainSilence() {
  const isThere = await fetch("/livez", { cache: "no-store" }).then(({ ok }) => ok, () => false);
  if (running) return; // searched again meanwhile
  if (isThere) {
    showProblem({
      title: "The connection broke",
      detail: "The file is larger than the service accepts, it changed on disk, or the network failed.",
    });
  } else {
    showProblem({
      title: "The service does not answer",
      detail: "It may have stopped, or the network is down. Search again later.",
    });
    find("library").textContent = "The service does not answer.";
  }
}

function refuse(problem) {
  if (problem.status === 401) {
    // The service's own words are for programs: they name a header.
    showProblem({ title: "The search needs a key", detail: "Enter an API key in the field above, then search again." });
    askForKey(problem);
  } else if (problem.status === 413) {
    const detail = problem.detail.replace(/\b(\d+)( bytes)?\b/g, (_, bytes) => formatBytes(Number(bytes)));
    showProblem({ title: "The clip is larger than this service accepts", detail: detail.replace("this route", "it") });
  } else {
    showProblem(problem);
  }
}

function takeAnswer(answer) {
  showAnswer(answer, query);
  arrange();
  showLibrary({ bundleId: answer.bundle_id });
}

function showProgress(text, part) {
  find("status").textContent = text;
  find("progress").hidden = false;
  if (part === null) find("progress").removeAttribute("value");
  else find("progress").value = part;
  find("search").setAttribute("aria-disabled", "true"); // `disabled` would take the focus away
  find("cancel").hidden = false;
  arrange();
}

function finish(text) {
  const hadFocus = document.activeElement === find("cancel");
  running = null;
  find("status").textContent = text;
  find("progress").hidden = true;
  find("search").removeAttribute("aria-disabled");
  find("cancel").hidden = true;
  if (hadFocus) find("search").focus();
  arrange();
}

// Problems

function showProblem({ title, detail, errors }) {
  const lines = (errors || []).map(({ parameter, message }) => make("li", { text: `${parameter}: ${message}` }));
  const box = find("problem");
  box.replaceChildren(make("strong", { text: title }), make("p", { text: detail || "" }));
  if (lines.length) box.append(make("ul", {}, ...lines));
  box.hidden = false;
  arrange();
  showIfBelow(box);
}

function clearProblem() {
  find("problem").hidden = true;
  arrange();
}

// Wiring

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey();
});
find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
find("cancel").addEventListener("click", () => running && running.abort());
find("file").addEventListener("change", ({ target }) => target.files.length && chooseFile(target.files[0]));

// The whole window takes a drop: a drop beside the box would otherwise leave the page.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("is-over", kind === "dragenter" || kind === "dragover");
    const { files } = event.dataTransfer;
    if (kind === "drop" && files.length) chooseFile(files[0], { numFiles: files.length });
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  lendKey(); // timers stop while a computer sleeps
  showLibrary();
});
setInterval(lendKey, LENDING_MILLISECONDS);
showLibrary();
