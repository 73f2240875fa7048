// The answer to a search: a list of results, the strip of moments of each, and the players.

import {
  NAMES, count, find, formatSpan, formatTime, keyHeaders, make, readProblem, setPart, showIfBelow,
} from "./elements.js";

let pair = null; // two players that play together, and which of them is muted for it

const WHY_NONE = {
  nothing_to_search: "the library has none",
  nothing_passes_filter: "nothing in the library passes the filter",
  below_min_score: "none reaches the minimum score",
  below_min_probability: "none reaches the minimum probability",
  no_further_results: "there are no more",
  no_word_found: "no name and no metadata has half of the words",
};

const CANNOT_TELL =
  "This release tells what belongs together no better than chance: scores and order mean nothing here.";

export function clearAnswer() {
  stopPair();
  arrivals.disconnect();
  find("results").querySelectorAll("audio, video").forEach(release);
  find("results").replaceChildren();
  find("problem").hidden = true;
  find("answer").textContent = "";
}

/** Show an answer to `query`: the clip that was sent (`file`) and its player, if it has one (`player`). */
export function showAnswer(answer, query) {
  const { results, target } = answer;
  const from = describeQuery(answer, query);
  const notes = [
    results.length
      ? `${count(results.length, NAMES[target])} found ${from}, best first. Bundle ${answer.bundle_id}.`
      : `No ${NAMES[target]} found ${from}: ${WHY_NONE[answer.reason] ?? "the service does not say why"}. Release ${answer.release_id}.`,
  ];
  if (answer.query.is_partial) notes.push("Less than 95 % of the clip could be decoded.");
  if (answer.probability_reason === "cannot_tell") notes.push(CANNOT_TELL);
  if (answer.bundle_id.startsWith("starter-")) notes.push("The starter bundle only knows synthetic clips.");
  find("answer").textContent = notes.join(" ");
  // One scale for all strips, so that they can be compared.
  const highest = answer.probability_reason === "cannot_tell" ? null
    : Math.max(...results.map((result) => result.best_moment?.similarity ?? 0), 0.01);
  results.forEach((result, index) => {
    find("results").append(describeResult(result, { rank: index + 1, answer, query, highest }));
  });
  showIfBelow(find("answer"));
}

function describeQuery(answer, { file, text }) {
  if (answer.from === "text") return `for “${text}”`;
  if (answer.from === "mixed") return `with ${file.name} and “${text}”`;
  return `with the ${NAMES[answer.from]} of ${file.name}`;
}

function describeResult(result, { rank, answer, query, highest }) {
  const name = result.path.slice(result.path.lastIndexOf("/") + 1);
  const player = makePlayer(result, { kind: answer.target, name });
  const times = make("div", { className: "times quiet" });
  if (result.found_by.includes("words")) times.append(make("span", { text: "named so" }));
  times.append(make("span", { text: formatSpan(result.start_seconds, result.end_seconds) }));
  if (highest !== null && result.moments.length > 1) times.append(make("span", { text: `best at ${formatTime(result.best_moment.time_seconds)}` }));
  if (answer.query.num_segments > 1 && result.best_moment) {
    const span = formatSpan(result.query_start_seconds, result.query_end_seconds);
    times.append(make("span", { text: `fits ${span} of your clip` }));
  }
  const play = make("div", { className: "play" }, player);
  if (answer.target !== answer.from && query.player) play.append(makePairButton(result, { player, query, target: answer.target }));
  return make(
    "li",
    {},
    make(
      "div",
      { className: "title" },
      make("span", { className: "rank", text: `${rank}.` }),
      make("span", { className: "name", text: name, title: result.path }),
    ),
    make("div", { className: "facts" }, ...makeFacts(result, { answer, player, highest }), times),
    play,
  );
}

/** Score and moments; nothing for what words alone found. */
function makeFacts(result, { answer, player, highest }) {
  if (!result.best_moment) return [];
  const isBounded = answer.similarity === "cosine";
  return [makeScore(result, { highest, isBounded }), makeMoments(result, { player, highest })];
}

/** The score, with a bar if it has bounds; `highest` is null if it means nothing. */
function makeScore({ score, moments, match_probability: probability }, { highest, isBounded }) {
  const title = `Mean similarity of ${count(moments.length, "moment")}${isBounded ? ", at most 1" : ""}`;
  const text = make("span", { text: score.toFixed(3), title });
  if (probability !== null) {
    text.append(make("span", {
      className: "quiet", text: ` · ${Math.round(100 * probability)} % likely`,
      title: "How often a result with this score is a match, learned from this library",
    }));
  }
  const line = make("div", { className: "score" }, make("span", { className: "quiet", text: "score" }), text);
  if (highest !== null && isBounded) {
    const bar = make("div");
    setPart(bar, score);
    line.append(make("div", { className: "track", "aria-hidden": "true" }, bar));
  }
  return line;
}

/** One bar for each moment, all alike if `highest` is null. The strip is one stop of the tab key; arrows move inside it. */
function makeMoments(result, { player, highest }) {
  const step = (result.end_seconds - result.start_seconds) / result.moments.length;
  const buttons = result.moments.map((similarity, index) => {
    const seconds = result.start_seconds + index * step;
    const isBest = highest !== null && index === result.best_moment.index;
    const label = `${isBest ? "Best moment, " : ""}${formatTime(seconds)}, similarity ${similarity.toFixed(3)}`;
    const button = make("button", { type: "button", title: label, "aria-label": `Play from ${label}` });
    button.tabIndex = index === result.best_moment.index ? 0 : -1;
    button.classList.toggle("is-best", isBest);
    setPart(button, highest === null ? 0.1 : similarity / highest);
    button.addEventListener("click", () => playFrom(player, seconds));
    return button;
  });
  const strip = make("div", { className: "moments", role: "group", "aria-label": "Similarity at each moment" });
  strip.append(...buttons);
  strip.addEventListener("keydown", (event) => walk(event, buttons));
  return strip;
}

function walk(event, buttons) {
  const here = buttons.indexOf(document.activeElement);
  const last = buttons.length - 1;
  const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last }[event.key];
  if (next === undefined || here < 0) return;
  event.preventDefault();
  buttons[here].tabIndex = -1;
  const button = buttons[Math.min(Math.max(next, 0), last)];
  button.tabIndex = 0;
  button.focus();
}

// Playing

/** A player of a result, positioned at the best moment; it loads when it comes into view. */
function makePlayer(result, { kind, name }) {
  const player = make(kind, { controls: true, preload: "metadata", playsInline: true });
  player.setAttribute("aria-label", `${NAMES[kind]} of ${name}`);
  const address = `/v1/assets/${encodeURIComponent(result.asset_id)}/media`;
  player.dataset.address = `${address}#t=${(result.best_moment ?? { time_seconds: result.start_seconds }).time_seconds}`;
  player.addEventListener("error", () => explainSilence(player, address));
  arrivals.observe(player);
  return player;
}

const arrivals = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      arrivals.unobserve(target);
      target.src = target.dataset.address;
    }
  },
  { rootMargin: "200px" },
);

/** Show why a result cannot be played: its file is gone, or the browser does not know the format. */
async function explainSilence(player, address) {
  if (!player.hasAttribute("src")) return; // released, not failed
  let text = "This browser cannot play the file's format.";
  const response = await fetch(address, { headers: { ...keyHeaders(), Range: "bytes=0-0" } }).catch(() => null);
  if (response && !response.ok) {
    const problem = readProblem(response.status, await response.text());
    text = `${problem.title}: ${problem.detail}`;
  }
  const item = player.closest("li");
  if (!item) return; // another search was made
  item.classList.add("has-no-player");
  item.querySelector(".play").replaceChildren(make("p", { className: "quiet", text }));
}

function playFrom(player, seconds) {
  const start = () => {
    player.currentTime = seconds;
    player.play().catch(() => {}); // stopped before it began, or not playable: `error` handles that
  };
  if (player.readyState >= HTMLMediaElement.HAVE_METADATA) start();
  else player.addEventListener("loadedmetadata", start, { once: true });
}

function makePairButton(result, { player, query, target }) {
  const other = target === "audio" ? "picture" : "sound";
  const button = make("button", { type: "button", text: `Play with your ${other}` });
  button.addEventListener("click", () => {
    if (!query.player || !player.isConnected) return;
    stopPair();
    const muted = target === "audio" ? query.player : player;
    pair = { players: [query.player, player], muted, wasMuted: muted.muted };
    muted.muted = true;
    if (target === "audio") query.player.scrollIntoView({ block: "nearest" });
    playFrom(query.player, result.query_start_seconds);
    playFrom(player, result.start_seconds);
  });
  return button;
}

export function stopPair() {
  if (!pair) return;
  const { players, muted, wasMuted } = pair;
  pair = null;
  players.forEach((player) => player.pause());
  muted.muted = wasMuted;
}

/** Release a player's connection and file. */
export function release(player) {
  player.pause();
  player.removeAttribute("src");
  player.load();
}

document.addEventListener("play", ({ target }) => {
  if (pair && !pair.players.includes(target)) stopPair();
  for (const player of document.querySelectorAll("audio, video")) {
    if (player !== target && !(pair && pair.players.includes(player))) player.pause();
  }
}, true);
document.addEventListener("pause", ({ target }) => {
  if (pair && pair.players.includes(target)) stopPair();
}, true);
