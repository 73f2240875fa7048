// Sending a search, and fetching its next page.

import { askForKey, showLibrary } from "../state";
import { foley, keyHeaders, ofAsset, Problem, readProblem } from "../api";
import { formatBytes } from "../format";
import type { Answer, Result } from "../types";
import { cutSound } from "./sound";
import {
  answer, asked, clearAnswer, clip, cut, filters, problem, progress, results, source, status, target, text, type Clip,
} from "./state";

const PAGE_SIZE = 50;
let running: XMLHttpRequest | null = null;
let preparing: AbortController | null = null;
let isPaging = false;

export function cancel(): void {
  preparing?.abort();
  running?.abort();
}

/** A search as it is sent, and what its times in the clip begin at if only a part of the clip is sent. */
interface Question {
  body: FormData | string;
  shift: number;
}

/** What was asked last: its further pages are asked for with the same, whatever was written into the fields since. */
let question: Question = { body: "{}", shift: 0 };

function from({ body }: Question, offset: number): FormData | string {
  if (typeof body === "string") return JSON.stringify({ ...JSON.parse(body), offset });
  body.set("offset", String(offset));
  return body;
}

/** The search as it stands: a form with a file, or JSON. */
async function prepare(signal: AbortSignal): Promise<Question> {
  const given = clip.value;
  const words = text.value.trim();
  const fields = { target: target.value, limit: PAGE_SIZE, ...(source.value ? { from: source.value } : {}), ...filters.value };
  if (!given?.file && !(given && cut.value)) {
    const start = given?.start === undefined ? {} : { start_seconds: given.start };
    if (!given) return { body: JSON.stringify({ text: words, ...fields }), shift: 0 };
    if (!words) return { body: JSON.stringify({ asset_id: given.assetId, ...start, ...fields }), shift: 0 };
    return { body: JSON.stringify({ queries: [{ asset_id: given.assetId, ...start }, { text: words }], ...fields }), shift: 0 };
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  if (words) form.append("text", words);
  const { content, shift, span } = given.file ? await partOfFile(given.file, given.kind) : await partOfAsset(given.assetId!, given.kind, signal);
  if (span) {
    form.append("start_seconds", String(span[0]));
    form.append("end_seconds", String(span[1]));
  }
  form.append("file", content, "query"); // its own name stays private
  return { body: form, shift };
}

/** What is sent of a clip; `span` are the seconds of it to search with, if it is more than those. */
interface Part {
  content: Blob;
  shift: number;
  span: [number, number] | null;
}

async function partOfFile(file: File, kind: Clip["kind"]): Promise<Part> {
  const part = cut.value && kind === "audio" ? await cutSound(file, cut.value) : null;
  return part ? { content: part, shift: cut.value![0], span: null } : { content: file, shift: 0, span: cut.value };
}

/** A part of an asset comes from the service as a file; a film begins at the frame before that can be copied from. */
async function partOfAsset(assetId: string, kind: Clip["kind"], signal: AbortSignal): Promise<Part> {
  const [start, end] = cut.value!;
  const params = { ...ofAsset(assetId), query: { start, end, modality: kind === "audio" ? ("audio" as const) : ("video" as const) } };
  const { data, response } = await foley.GET("/v1/assets/{asset_id}/segment", { params, parseAs: "blob", signal });
  const shift = Number(response.headers.get("Foley-Start") ?? start);
  return { content: data!, shift, span: [Math.max(start - shift, 0), end - shift] };
}

/** Times in the clip are of all of it, whatever was sent. */
const moved = (results: Result[], shift: number): Result[] => (!shift ? results : results.map((one) => (
  { ...one, query_start_seconds: one.query_start_seconds + shift, query_end_seconds: one.query_end_seconds + shift }
)));

export async function search(): Promise<void> {
  if (running || preparing) return;
  if (!clip.value && !text.value.trim()) {
    status.value = "Choose a clip or write some words first.";
    document.getElementById("text")?.focus();
    return;
  }
  clearAnswer();
  asked.value = { name: clip.value?.name ?? "", text: text.value.trim() };
  showProgress(clip.value?.file ? "Uploading…" : "Searching…", clip.value?.file ? 0 : null);
  const { signal } = (preparing = new AbortController());
  try {
    question = await prepare(signal);
    signal.throwIfAborted();
  } catch (error) {
    finish(signal.aborted ? "Cancelled." : "");
    if (!signal.aborted) refuse(error instanceof Problem ? error : new Problem(0, "The clip cannot be read", "It may have changed on disk, or be gone."));
    return;
  } finally {
    preparing = null;
  }
  request(question.body, {
    onAnswer: (found) => {
      answer.value = found;
      results.value = moved(found.results, question.shift);
      void showLibrary();
    },
    onProblem: (found) => refuse(found),
    onEnd: finish,
  });
}

/** Add the next page of the results that are shown, if there is one. */
export function more(): void {
  const shown = answer.value;
  if (!shown?.next_offset || isPaging || running) return;
  isPaging = true;
  request(from(question, shown.next_offset), {
    onAnswer: (found) => {
      if (answer.value !== shown) return; // another search was made
      const known = new Set(results.value.map((one) => one.asset_id));
      results.value = [...results.value, ...moved(found.results.filter((one) => !known.has(one.asset_id)), question.shift)];
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
