// Asking the service: its client, problems (RFC 9457), and the API key of this tab.

import { signal } from "@preact/signals";
import { createFoley } from "foley-client";

const KEY = "foley-key";
const COOKIE_SECONDS = 300; // the page and docs/operations.md say five minutes
const LENDING_MILLISECONDS = 60_000; // well below the life of the cookie; a tab in the background may be late

/** Why the service refused, in words; `status` 0 if it did not answer at all. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly code = "",
    readonly errors: { parameter: string; message: string }[] = [],
  ) {
    super(title);
  }

  /** One line for people. */
  get line(): string {
    if (this.status === 401) return "An API key is needed."; // the service's own words name a header
    return this.detail ? `${this.title}: ${this.detail}` : this.title;
  }
}

/** Headers that carry the API key, if the user gave one. */
export function keyHeaders(): Record<string, string> {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Keep a key until this tab is closed. */
export function keepKey(key: string): void {
  sessionStorage.setItem(KEY, key);
}

export function forgetKey(): void {
  sessionStorage.removeItem(KEY);
  writeCookie("", 0);
}

/**
 * Give the key to players and pictures, which send no headers, as a cookie that only allows reading. A cookie belongs
 * to the browser and not to a tab, so it lasts some minutes and is renewed while a tab with the key is open.
 */
export function lendKey(): void {
  const key = sessionStorage.getItem(KEY);
  if (key) writeCookie(encodeURIComponent(key), COOKIE_SECONDS);
}

function writeCookie(value: string, seconds: number): void {
  const secure = location.protocol.startsWith("https") ? "; secure" : "";
  document.cookie = `foley_key=${value}; path=/v1/assets; max-age=${seconds}; samesite=strict${secure}`;
}

setInterval(lendKey, LENDING_MILLISECONDS);

/** An error answer, even if a proxy wrote it. */
export function readProblem(status: number, text: string, retryAfter: string | null = null): Problem {
  let found: Record<string, unknown> = {};
  try {
    found = Object(JSON.parse(text));
  } catch {
    // not JSON: only the status is known
  }
  const said = [String(found.detail ?? ""), retryAfter ? `Try again in ${retryAfter} s.` : ""].filter(Boolean).join(" ");
  const errors = Array.isArray(found.errors) ? found.errors : [];
  return new Problem(status, String(found.title ?? `The service answered with status ${status}`), said, String(found.code ?? ""), errors);
}

/** Whether the same may succeed soon: nothing answered, or the service is starting or has too much to do. */
export const isPassing = (error: unknown): boolean => error instanceof Problem && [0, 429, 502, 503, 504].includes(error.status);

/** What any thrown value says. */
export function lineOf(error: unknown): string {
  return error instanceof Problem ? error.line : String(error);
}

/** The last time that a key was needed, or that nothing answered. */
export const trouble = signal<Problem | null>(null);

interface Early {
  numAssets: number;
  answers: Map<string, Promise<Response | null>>;
}

/** What `early.ts` asked for, if it could be loaded. */
export const early: Early = (globalThis as { early?: Early }).early ?? { numAssets: 100, answers: new Map() };

/** Send a request with the key of this tab; throws a `Problem` unless it succeeds. */
export async function send(request: Request): Promise<Response> {
  for (const [name, value] of Object.entries(keyHeaders())) request.headers.set(name, value);
  let answer: Response;
  try {
    const address = request.url.slice(location.origin.length);
    const asked = early.answers.get(address);
    early.answers.delete(address);
    answer = (await asked) ?? (await fetch(request));
  } catch (error) {
    if (request.signal.aborted) throw error;
    throw (trouble.value = new Problem(0, "The service does not answer", ""));
  }
  if (answer.ok) return answer;
  const problem = readProblem(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  if (problem.status === 401) trouble.value = problem;
  throw problem;
}

/** Every route, typed by the API's description. */
export const foley = createFoley({ address: location.origin, attempts: 1, send: (request) => send(new Request(request, { cache: "no-store" })) });

/** What a route answers: whatever is no success was thrown. */
export const read = async <T>(asked: Promise<{ data?: T }>): Promise<T> => (await asked).data as T;

export const ofAsset = (assetId: string) => ({ path: { asset_id: assetId } });

/** Save what a route answers as a file, with the name that the service gives it. */
export async function save(asked: Promise<{ data?: unknown; response: Response }>, fallback: string): Promise<string> {
  const { data, response } = await asked;
  const said = response.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(said)?.[1];
  const name = encoded ? decodeURIComponent(encoded) : (/filename="([^"]+)"/i.exec(said)?.[1] ?? fallback);
  const url = URL.createObjectURL(data as Blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return name;
}

export const assetAddress = (assetId: string, rest = ""): string => `/v1/assets/${encodeURIComponent(assetId)}${rest}`;
