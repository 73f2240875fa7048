// Asking the service: JSON, problems (RFC 9457), and the API key of this tab.

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

/** What any thrown value says. */
export function lineOf(error: unknown): string {
  return error instanceof Problem ? error.line : String(error);
}

export interface Asked {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  json?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Send a request; throws a `Problem` unless it succeeds. */
export async function send(address: string, { method = "GET", json, headers = {}, signal }: Asked = {}): Promise<Response> {
  const all = { ...keyHeaders(), ...(json === undefined ? {} : { "Content-Type": "application/json" }), ...headers };
  let answer: Response;
  try {
    answer = await fetch(address, {
      method,
      cache: "no-store",
      headers: all,
      ...(json === undefined ? {} : { body: JSON.stringify(json) }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "The service does not answer", "");
  }
  if (!answer.ok) throw readProblem(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

/** Send a request and read the JSON of its answer. */
export async function ask<T>(address: string, asked: Asked = {}): Promise<T> {
  return (await (await send(address, asked)).json()) as T;
}

/** Whether the service knows a route: others build it, and an older service may lack it. */
export const isMissing = (error: unknown): boolean => error instanceof Problem && [404, 405].includes(error.status);

/** Save what a request answers as a file, with the name that the service gives it. */
export async function download(address: string, asked: Asked = {}, fallback = "download"): Promise<string> {
  const answer = await send(address, asked);
  const said = answer.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(said)?.[1];
  const name = encoded ? decodeURIComponent(encoded) : (/filename="([^"]+)"/i.exec(said)?.[1] ?? fallback);
  const url = URL.createObjectURL(await answer.blob());
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return name;
}

/** `/path?name=value` with what is given; lists and objects as JSON. */
export function address(path: string, query: Record<string, unknown>): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]));
  return given.length ? `${path}?${text}` : path;
}

export const assetAddress = (assetId: string, rest = ""): string => `/v1/assets/${encodeURIComponent(assetId)}${rest}`;
