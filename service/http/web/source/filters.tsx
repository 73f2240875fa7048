// Filters of searches and lists: fields to add one, and a chip for each that holds.

import type { Signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { formatDate, NAMES } from "./format";
import type { Value } from "./types";

/** As the service takes them; `min_probability` belongs to searches only. */
export interface Filters {
  folder?: string;
  modality?: "audio" | "video";
  min_duration_seconds?: number;
  max_duration_seconds?: number;
  modified_after?: number;
  modified_before?: number;
  is_silent?: boolean;
  is_static?: boolean;
  metadata?: Record<string, Value>;
  min_probability?: number;
}

export const NO_FILTERS: Filters = {};

type Name = keyof Filters;

const WORDS: Record<Exclude<Name, "metadata">, (value: never) => string> = {
  folder: (value: string) => `in ${value}`,
  modality: (value: "audio" | "video") => `has ${NAMES[value]}`,
  min_duration_seconds: (value: number) => `at least ${value} s`,
  max_duration_seconds: (value: number) => `at most ${value} s`,
  modified_after: (value: number) => `changed after ${formatDate(value)}`,
  modified_before: (value: number) => `changed before ${formatDate(value)}`,
  is_silent: (value: boolean) => (value ? "silent" : "not silent"),
  is_static: (value: boolean) => (value ? "still picture" : "moving picture"),
  min_probability: (value: number) => `at least ${Math.round(100 * value)} % likely`,
};

interface Kind {
  value: string;
  label: string;
  type: "text" | "number" | "date" | "select";
  step?: string;
  placeholder?: string;
  options?: [string, string][];
}

const KINDS: Kind[] = [
  { value: "folder", label: "Folder", type: "text", placeholder: "/media/rain" },
  { value: "modality", label: "Has", type: "select", options: [["audio", "sound"], ["video", "picture"]] },
  { value: "min_duration_seconds", label: "Length at least (s)", type: "number", step: "any" },
  { value: "max_duration_seconds", label: "Length at most (s)", type: "number", step: "any" },
  { value: "modified_after", label: "Changed after", type: "date" },
  { value: "modified_before", label: "Changed before", type: "date" },
  { value: "is_silent", label: "Sound", type: "select", options: [["false", "not silent"], ["true", "silent"]] },
  { value: "is_static", label: "Picture", type: "select", options: [["false", "moving"], ["true", "still"]] },
  { value: "metadata", label: "Metadata", type: "text", placeholder: "mood=calm" },
  { value: "min_probability", label: "Likely at least (%)", type: "number", step: "1" },
];

/** Text of people → a value of metadata: `3` a number, `true` a truth value, anything else text. */
export function readValue(given: string): Value {
  const words = given.trim();
  if (words === "true" || words === "false") return words === "true";
  return words !== "" && Number.isFinite(Number(words)) ? Number(words) : words;
}

function read(kind: string, given: string): Filters | null {
  if (given.trim() === "") return null;
  if (kind === "metadata") {
    const at = given.indexOf("=");
    return at < 1 ? null : { metadata: { [given.slice(0, at).trim()]: readValue(given.slice(at + 1)) } };
  }
  if (kind === "folder" && !given.startsWith("/")) return null;
  if (kind === "folder" || kind === "modality") return { [kind]: given.trim() };
  if (kind === "is_silent" || kind === "is_static") return { [kind]: given === "true" };
  if (kind.startsWith("modified")) return { [kind]: new Date(`${given}T00:00`).getTime() / 1000 };
  const number = Number(given);
  if (!Number.isFinite(number) || number < 0) return null;
  return { [kind]: kind === "min_probability" ? Math.min(number, 100) / 100 : number };
}

function chips(filters: Filters): { text: string; without: Filters }[] {
  const { metadata = {}, ...others } = filters;
  const plain = (Object.keys(others) as Exclude<Name, "metadata">[]).map((name) => {
    const { [name]: value, ...without } = filters;
    return { text: WORDS[name](value as never), without: without as Filters };
  });
  const said = Object.entries(metadata).map(([key, value]) => {
    const { [key]: _, ...left } = metadata;
    const { metadata: __, ...rest } = filters;
    return { text: `${key} = ${value}`, without: Object.keys(left).length ? { ...rest, metadata: left } : rest };
  });
  return [...plain, ...said];
}

export function FilterChips({ filters, isSearch = false, onChange }: { filters: Signal<Filters>; isSearch?: boolean; onChange?: () => void }) {
  const [kind, setKind] = useState("folder");
  const [given, setGiven] = useState("");
  const [isWrong, setWrong] = useState(false);
  const field = KINDS.find(({ value }) => value === kind) ?? KINDS[0]!;
  const change = (next: Filters) => {
    filters.value = next;
    onChange?.();
  };
  const add = () => {
    const found = read(kind, given || (field.options?.[0]?.[0] ?? ""));
    setWrong(found === null);
    if (!found) return;
    const metadata = { ...filters.value.metadata, ...found.metadata };
    change({ ...filters.value, ...found, ...(Object.keys(metadata).length ? { metadata } : {}) });
    setGiven("");
  };
  const enter = (event: KeyboardEvent) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    add();
  };
  const onInput = (event: Event) => setGiven((event.currentTarget as HTMLInputElement).value);
  return (
    <div class="filters">
      {chips(filters.value).length > 0 && (
        <ul class="chips" aria-label="Filters">
          {chips(filters.value).map(({ text, without }) => (
            <li key={text} class="chip">
              <span>{text}</span>
              <button type="button" aria-label={`Remove filter: ${text}`} onClick={() => change(without)}>×</button>
            </li>
          ))}
        </ul>
      )}
      <details>
        <summary>Add a filter</summary>
        <div class="filter-fields">
          <select aria-label="What to filter by" value={kind} onChange={(event) => { setKind(event.currentTarget.value); setGiven(""); setWrong(false); }}>
            {KINDS.filter(({ value }) => isSearch || value !== "min_probability").map(({ value, label }) => <option key={value} value={value}>{label}</option>)}
          </select>
          {field.options
            ? <select aria-label={field.label} value={given || field.options[0]![0]} onChange={onInput}>
                {field.options.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
              </select>
            : <input aria-label={field.label} type={field.type as "text"} step={field.step} min={field.type === "number" ? 0 : undefined}
                placeholder={field.placeholder} value={given} onInput={onInput} onKeyDown={enter} aria-invalid={isWrong} />}
          <button type="button" onClick={add}>Add</button>
        </div>
        {isWrong && <p class="quiet" role="alert">{kind === "metadata" ? "Write key=value." : kind === "folder" ? "A folder begins with /." : "Give a value."}</p>}
      </details>
    </div>
  );
}
