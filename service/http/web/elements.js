// Shared by all parts of the page: elements, numbers as text, error answers.

export const NAMES = { audio: "sound", video: "picture" };

export const find = (id) => document.getElementById(id);

const KEY = "foley-key";
const COOKIE_SECONDS = 300; // the page and docs/operations.md say five minutes

/** Headers that carry the API key, if the user gave one. */
export function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Keep a key until this tab is closed. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
  writeCookie("", 0);
}

/**
 * Give the key to players, which send no headers, as a cookie that only allows reading. A cookie belongs to the
 * browser and not to a tab, so it lasts some minutes and is renewed while a tab with the key is open.
 */
export function lendKey() {
  const key = sessionStorage.getItem(KEY);
  if (key) writeCookie(encodeURIComponent(key), COOKIE_SECONDS);
}

function writeCookie(value, seconds) {
  const secure = location.protocol.startsWith("https") ? "; secure" : "";
  document.cookie = `foley_key=${value}; path=/v1/assets; max-age=${seconds}; samesite=strict${secure}`;
}

/** Make an element: properties by name (`text`, `className`, `title`, ...), then its children. */
export function make(tag, { text, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function formatTime(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  return `${hours ? `${hours}:` : ""}${two(minutes)}:${two(whole % 60)}`;
}

export function formatSpan(start, end) {
  return `${formatTime(start)}–${formatTime(end)}`;
}

export function formatBytes(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Set the length of a bar, from 0 to 1; similarities below zero have no bar. */
export function setPart(element, part) {
  element.style.setProperty("--part", `${(100 * Math.min(Math.max(part, 0), 1)).toFixed(1)}%`);
}

/** An error answer as `{title, detail, errors}`, even if a proxy wrote it. */
export function readProblem(status, text, retryAfter = null) {
  let problem = {};
  try {
    problem = Object(JSON.parse(text));
  } catch {
    // not JSON: only the status is known
  }
  const detail = [problem.detail || "", retryAfter ? `Try again in ${retryAfter} s.` : ""];
  return { ...problem, status, title: problem.title || `The service answered with status ${status}`, detail: detail.join(" ") };
}

/** Scroll to what has just appeared if it is out of sight, as on a phone. */
export function showIfBelow(element) {
  if (element.getBoundingClientRect().top > 0.8 * window.innerHeight) element.scrollIntoView({ block: "start" });
}
