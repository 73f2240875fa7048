// Sending a search, and fetching its next page.

import { askForKey, showLibrary } from "../state";
import { keyHeaders, Problem, readProblem } from "../api";
import { formatBytes } from "../format";
import type { Answer } from "../types";
import { cutSound } from "./sound";
import {
  answer, asked, clearAnswer, clip, cut, filters, problem, progress, results, source, status, target, text,
} from "./state";

const PAGE_SIZE = 50;
let running: XMLHttpRequest | null = null;
let isPaging = false;

export function cancel(): void {
  running?.abort();
}

/** The search as it stands: a form with a file, or JSON. */
async function body(offset: number): Promise<FormData | string> {
  const given = clip.value;
  const words = text.value.trim();
  const fields = { target: target.value, limit: PAGE_SIZE, offset, ...(source.value ? { from: source.value } : {}), ...filters.value };
  if (!given?.file) {
    const start = given?.start === undefined ? {} : { start_seconds: given.start };
    if (!given) return JSON.stringify({ text: words, ...fields });
    if (!words) return JSON.stringify({ asset_id: given.assetId, ...start, ...fields });
    return JSON.stringify({ queries: [{ asset_id: given.assetId, ...start }, { text: words }], ...fields });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  if (words) form.append("text", words);
  const part = cut.value && given.kind === "audio" ? await cutSound(given.file, cut.value) : null;
  if (cut.value && !part) {
    form.append("start_seconds", String(cut.value[0]));
    form.append("end_seconds", String(cut.value[1]));
  }
  form.append("file", part ?? given.file, "query"); // its own name stays private
  return form;
}

export async function search(): Promise<void> {
  if (running) return;
  if (!clip.value && !text.value.trim()) {
    status.value = "Choose a clip or write some words first.";
    document.getElementById("text")?.focus();
    return;
  }
  clearAnswer();
  asked.value = { name: clip.value?.name ?? "", text: text.value.trim() };
  showProgress(clip.value?.file ? "Uploading…" : "Searching…", clip.value?.file ? 0 : null);
  request(await body(0), {
    onAnswer: (found) => {
      answer.value = found;
      results.value = found.results;
      void showLibrary(found.bundle_id);
    },
    onProblem: (found) => refuse(found),
    onEnd: finish,
  });
}

/** Add the next page of the results that are shown, if there is one. */
export async function more(): Promise<void> {
  const shown = answer.value;
  if (!shown?.next_offset || isPaging || running) return;
  isPaging = true;
  request(await body(shown.next_offset), {
    onAnswer: (found) => {
      if (answer.value !== shown) return; // another search was made
      const known = new Set(results.value.map((one) => one.asset_id));
      results.value = [...results.value, ...found.results.filter((one) => !known.has(one.asset_id))];
      answer.value = { ...shown, next_offset: found.next_offset ?? null };
    },
    onProblem: () => {},
    onEnd: () => {
      isPaging = false;
      running = null;
    },
  });
}

interface Handlers {
  onAnswer: (answer: Answer) => void;
  onProblem: (problem: Problem) => void;
  onEnd: (said: string) => void;
}

function request(content: FormData | string, { onAnswer, onProblem, onEnd }: Handlers): void {
  const sent = new XMLHttpRequest(); // fetch() reports no upload progress
  running = sent;
  if (typeof content !== "string" && !isPaging) {
    sent.upload.onprogress = ({ loaded, total }) => showProgress(`Uploading… ${Math.floor((100 * loaded) / total)} %`, loaded / total);
    sent.upload.onload = () => showProgress("Decoding and searching…", null);
  }
  sent.onload = () => {
    onEnd("");
    if (sent.status === 200) onAnswer(JSON.parse(sent.responseText) as Answer);
    else onProblem(readProblem(sent.status, sent.responseText, sent.getResponseHeader("Retry-After")));
  };
  sent.onabort = () => onEnd("Cancelled.");
  sent.onerror = () => {
    onEnd("");
    void explainSilence(onProblem);
  };
  sent.open("POST", "/v1/search");
  for (const [name, value] of Object.entries(keyHeaders())) sent.setRequestHeader(name, value);
  if (typeof content === "string") sent.setRequestHeader("Content-Type", "application/json");
  sent.send(content);
}

/** The browser does not say why a request failed: check whether the service answers at all. */
async function explainSilence(onProblem: (problem: Problem) => void): Promise<void> {
  const isThere = await fetch("/livez", { cache: "no-store" }).then(({ ok }) => ok, () => false);
  if (running) return; // searched again meanwhile
  const said = isThere
    ? new Problem(0, "The connection broke", "The file is larger than the service accepts, it changed on disk, or the network failed.")
    : new Problem(0, "The service does not answer", "It may have stopped, or the network is down. Search again later.");
  onProblem(said);
}

function refuse(found: Problem): void {
  if (found.status === 401) {
    // The service's own words are for programs: they name a header.
    problem.value = new Problem(401, "The search needs a key", "Enter an API key in the field above, then search again.");
    askForKey(found);
  } else if (found.status === 413) {
    const detail = found.detail.replace(/\b(\d+)( bytes)?\b/g, (_, bytes) => formatBytes(Number(bytes)));
    problem.value = new Problem(413, "The clip is larger than this service accepts", detail.replace("this route", "it"));
  } else {
    problem.value = found;
  }
}

function showProgress(said: string, part: number | null): void {
  status.value = said;
  progress.value = part;
}

function finish(said: string): void {
  const hadFocus = document.activeElement?.id === "cancel";
  running = null;
  status.value = said;
  progress.value = undefined;
  if (hadFocus) setTimeout(() => document.getElementById("search")?.focus());
}
