// What all parts of the page share: where it is, what the library holds, and whether a key is needed.

import { computed, signal } from "@preact/signals";
import { foley, forgetKey, isPassing, keepKey, keyHeaders, lendKey, Problem, read, trouble } from "./api";
import { count } from "./format";
import type { BundleFacts, Job } from "./types";

export const PAGES = ["search", "library", "map", "basket", "jobs", "releases", "audit"] as const;
export type Page = (typeof PAGES)[number];

const MAX_JOBS = 100; // the newest; an older question was answered or given up
/** After which what failed for now is asked again: the service was away, starts, or has too much to do. */
export const RETRY_MILLISECONDS = 3000;
const QUESTIONS_MILLISECONDS = 300; // what the page shows first comes first

const hash = signal(location.hash);
addEventListener("hashchange", () => (hash.value = location.hash));

/** `#/library/ID` → page `library`, place `ID`. */
export const page = computed<Page>(() => PAGES.find((name) => name === hash.value.split("/")[1]) ?? "search");
export const place = computed(() => {
  const given = hash.value.split("/")[2] ?? "";
  try {
    return decodeURIComponent(given);
  } catch {
    return given; // written by hand
  }
});

export function goTo(name: Page, where = ""): void {
  location.hash = `#/${name}${where ? `/${encodeURIComponent(where)}` : ""}`;
}

export const LOADING = "Loading the library…";
export const libraryLine = signal(LOADING);
export const isEmpty = signal(false);
/** Of the whole library; null until the service has said it. */
export const numAssets = signal<number | null>(null);
/** Whether tags were learned that can be suggested. */
export const suggestsTags = signal(false);
export const bundle = signal<BundleFacts | null>(null);
export const wantsKey = signal(false);
export const keyNote = signal("");
/** How often a key was accepted or the service was found again: what failed before is asked for anew. */
export const numReturns = signal(0);
export const questions = signal<Job[]>([]);
/** Read out once by screen readers, and shown for some seconds. */
export const notice = signal("");

let numNotices = 0;
export function say(text: string): void {
  notice.value = text;
  const turn = ++numNotices;
  setTimeout(() => turn === numNotices && (notice.value = ""), 6000);
}

let numAsked = 0;
let isAway = false;

/** Show what the library holds now: jobs and releases change it while the page is open. Returns false if refused. */
export async function showLibrary(): Promise<boolean> {
  const turn = ++numAsked;
  try {
    const library = await read(foley.GET("/v1/library"));
    if (turn !== numAsked) return true; // a later request answers
    isEmpty.value = library.num_assets === 0;
    numAssets.value = library.num_assets;
    suggestsTags.value = library.suggests_tags;
    wantsKey.value = false;
    if (isAway) numReturns.value++;
    isAway = false;
    if (JSON.stringify(library.bundle) !== JSON.stringify(bundle.value)) bundle.value = library.bundle as BundleFacts;
    libraryLine.value = `Library: ${count(library.num_assets, "file")}, ${count(library.num_segments, "segment")} · bundle ${library.bundle_id}`;
    lendKey();
    setTimeout(() => turn === numAsked && void askQuestions(), QUESTIONS_MILLISECONDS);
    return true;
  } catch (error) {
    if (turn !== numAsked) return false;
    if (error instanceof Problem && error.status === 401) return false; // `trouble` asks for one
    if (error instanceof Problem && error.status === 403) askForKey(error);
    else libraryLine.value = `${error instanceof Problem ? error.title : "The service does not answer"}.`;
    if (isPassing(error)) setTimeout(() => turn === numAsked && showLibrary(), RETRY_MILLISECONDS);
    return false;
  }
}

/** The questions that are open: those of which no later sync of the same paths ended. */
async function askQuestions(): Promise<void> {
  const found = await read(foley.GET("/v1/jobs", { params: { query: { limit: MAX_JOBS } } })).catch(() => ({ jobs: [] }));
  const seen = new Set<string>();
  questions.value = found.jobs.filter((job) => {
    if (!("paths" in job.request)) return false;
    const paths = JSON.stringify(job.request.paths);
    if (job.kind !== "sync" || job.request.dry_run || seen.has(paths)) return false;
    seen.add(paths);
    return job.state === "failed" && job.error?.code === "too_many_gone";
  });
}

export function askForKey(problem: Problem): void {
  const isRefused = keyHeaders().Authorization !== undefined;
  if (problem.status === 401) forgetKey();
  if (isRefused && problem.status === 401) keyNote.value = "This key is not valid or was revoked. Try another.";
  else if (isRefused) keyNote.value = `Refused: ${problem.detail.trim()}.`;
  libraryLine.value = "The library is locked: this service needs a key.";
  wantsKey.value = true;
}

export async function useKey(key: string): Promise<boolean> {
  keepKey(key);
  wantsKey.value = false;
  const isAccepted = await showLibrary();
  if (isAccepted) numReturns.value++;
  return isAccepted;
}

trouble.subscribe((problem) => {
  if (problem?.status === 401) askForKey(problem);
  else if (problem && !isAway) {
    isAway = true;
    void showLibrary(); // says so, until it is there again
  }
});

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  lendKey(); // timers stop while a computer sleeps
  void showLibrary();
});
