// The library: every file as a card or a row, only those in sight in the page; folders, faults, and one file in detail.

import { batch, computed, signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { early, foley, isPassing, lineOf, read } from "../api";
import { FilterChips, NO_FILTERS, type Filters } from "../filters";
import { count, nameOf } from "../format";
import { isEmpty, libraryLine, LOADING, numAssets, place, RETRY_MILLISECONDS } from "../state";
import type { Asset, AssetPage } from "../types";
import { Detail } from "./detail";
import { AddFolders, Quarantine } from "./folders";
import { Grid } from "./grid";

type Order = "stored" | "name" | "folder" | "longest" | "shortest" | "newest";

const ORDERS: [Order, string][] = [
  ["stored", "as stored"], ["name", "by name"], ["folder", "by folder"], ["longest", "longest first"],
  ["shortest", "shortest first"], ["newest", "changed last first"],
];
const PAGE = 1000;
const NUM_NEAR = 2000; // files before and behind those in sight that stay in memory
const MAX_SORTED = 100_000; // all must be here to be sorted

/** A file, or null if it was let go: it is asked for again when it comes near. */
type Row = Asset | null;

const filters = signal<Filters>(NO_FILTERS);
const rows = signal<Row[]>([]);
const cursor = signal<string | null | undefined>(undefined); // undefined before the first page, null after the last
const numFound = signal<number | null>(null);
const order = signal<Order>("stored");
const isList = signal(false);
const fault = signal("");
let pages: { start: number; cursor: string | undefined }[] = []; // those that were read, and how
const asked = new Set<number>(); // starts of pages that are under way again
let turn = 0;
let isLoading = false;
let isStarted = false;

/** Ask for the first page before the room is drawn. */
export function startLibrary(): void {
  isStarted = true;
  void load(true);
}

function readPage(from: string | undefined, more: { limit?: number; with_count?: boolean } = {}): Promise<AssetPage> {
  const { min_probability: _, metadata, ...given } = filters.value;
  const query = {
    ...given, limit: from === undefined ? early.numAssets : PAGE, ...(from ? { cursor: from } : {}), ...(metadata ? { metadata: JSON.stringify(metadata) } : {}), ...more,
  };
  return read(foley.GET("/v1/assets", { params: { query } }));
}

async function load(isNew: boolean): Promise<void> {
  if (isNew) {
    turn++;
    cursor.value = undefined;
    pages = [];
    asked.clear();
    numFound.value = null;
  } else if (isLoading || cursor.value === null) return;
  const mine = turn;
  isLoading = true;
  try {
    const from = cursor.value;
    const page = await readPage(from ?? undefined);
    if (mine !== turn) return;
    pages.push({ start: from === undefined ? 0 : rows.value.length, cursor: from ?? undefined });
    batch(() => {
      rows.value = from === undefined ? page.assets : [...rows.value, ...page.assets];
      cursor.value = page.next_cursor;
      fault.value = "";
    });
    if (from === undefined && page.next_cursor !== null && Object.keys(filters.value).length) void countAll();
  } catch (error) {
    if (mine !== turn) return;
    fault.value = lineOf(error);
    if (isPassing(error)) setTimeout(() => mine === turn && void load(false), RETRY_MILLISECONDS);
  } finally {
    if (mine === turn) isLoading = false;
  }
}

async function countAll(): Promise<void> {
  const mine = turn;
  const counted = await readPage(undefined, { limit: 1, with_count: true }).catch(() => null);
  if (mine === turn) numFound.value = counted?.num_assets ?? null;
}

/** Keep the files around those in sight, let go of others, and read again what was let go: memory stays flat. */
function keepNear(first: number, last: number): void {
  if (order.value !== "stored") return;
  const isNear = (start: number, end: number) => start < last + NUM_NEAR && end > first - NUM_NEAR;
  pages.forEach(({ start, cursor: from }, at) => {
    const end = pages[at + 1]?.start ?? rows.value.length;
    if (start < last + PAGE / 2 && end > first - PAGE / 2) {
      if (rows.value[start] === null && !asked.has(start)) void readAgain(start, end, from);
    } else if (!isNear(start, end) && rows.value[start]) put(start, Array<Row>(end - start).fill(null));
  });
}

async function readAgain(start: number, end: number, from: string | undefined): Promise<void> {
  const mine = turn;
  asked.add(start);
  const page = await readPage(from).catch(() => null);
  if (mine !== turn) return;
  asked.delete(start);
  if (page) put(start, page.assets.slice(0, end - start));
}

function put(start: number, some: Row[]): void {
  rows.value = rows.value.toSpliced(start, some.length, ...some);
}

/** Sorting needs the whole list. */
async function loadAll(): Promise<void> {
  const mine = turn;
  if (rows.value.includes(null)) await load(true);
  while (cursor.value !== null && !fault.value && order.value !== "stored" && rows.value.length < MAX_SORTED) {
    await load(false);
    if (mine !== turn && !rows.value.length) return;
  }
}

const { compare: compareText } = new Intl.Collator(undefined, { numeric: true });
const COMPARE: Record<Exclude<Order, "stored">, (one: Asset, other: Asset) => number> = {
  name: (one, other) => compareText(nameOf(one.path), nameOf(other.path)),
  folder: (one, other) => compareText(one.path, other.path),
  longest: (one, other) => (other.media.duration_seconds ?? 0) - (one.media.duration_seconds ?? 0),
  shortest: (one, other) => (one.media.duration_seconds ?? 0) - (other.media.duration_seconds ?? 0),
  newest: (one, other) => (other.media.modified_ns ?? 0) - (one.media.modified_ns ?? 0),
};

/** Sorted once all are here, and not after each page. */
const shown = computed<Row[]>(() => {
  if (order.value === "stored" || isWaiting.value) return rows.value;
  return rows.value.filter((row) => row !== null).sort(COMPARE[order.value]);
});
const isWaiting = computed(() => order.value !== "stored" && cursor.value !== null && rows.value.length < MAX_SORTED);

function describe(): string {
  if (fault.value) return fault.value;
  const all = Object.keys(filters.value).length ? numFound.value : numAssets.value;
  if (isWaiting.value) return `Sorting: ${rows.value.length} of ${count(all ?? rows.value.length, "file")} read…`;
  if (cursor.value && all === null) return `${rows.value.length}+ files`;
  return count(cursor.value && all !== null ? all : rows.value.length, "file");
}

export function Library() {
  const [opened, setOpened] = useState<"" | "folders" | "quarantine">("");
  const line = useRef("");
  useEffect(() => {
    const isRead = isStarted || (line.current === LOADING && !fault.value); // or on its way
    isStarted = false;
    line.current = libraryLine.value;
    if (!isRead) void load(true).then(() => (order.value === "stored" ? undefined : loadAll()));
  }, [libraryLine.value]);
  const choose = (next: Order) => {
    order.value = next;
    if (next !== "stored") void loadAll();
  };
  const toggle = (name: "folders" | "quarantine") => setOpened(opened === name ? "" : name);
  return (
    <div class="room library">
      <section class="panel" aria-labelledby="library-title">
        <div class="bar">
          <h2 id="library-title">Library</h2>
          <span class="quiet" role="status">{describe()}</span>
          <label class="quiet">Order <select value={order.value} onChange={(event) => choose(event.currentTarget.value as Order)}>
            {ORDERS.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
          </select></label>
          <button type="button" aria-pressed={isList.value} onClick={() => (isList.value = !isList.value)}>List</button>
          <button type="button" aria-expanded={opened === "folders"} onClick={() => toggle("folders")}>Add folders…</button>
          <button type="button" aria-expanded={opened === "quarantine"} onClick={() => toggle("quarantine")}>What failed…</button>
        </div>
        {opened === "folders" && <AddFolders />}
        {opened === "quarantine" && <Quarantine />}
        <FilterChips filters={filters} onChange={() => void load(true)} />
        {isEmpty.value && <p class="hint">The library is empty: add a folder of media.</p>}
        <Grid assets={shown.value} isList={isList.value} onEnd={() => void load(false)} onView={keepNear} />
      </section>
      {place.value && <Detail key={place.value} assetId={place.value} onChange={replace} />}
    </div>
  );
}

function replace(changed: Asset): void {
  rows.value = rows.value.map((row) => (row?.asset_id === changed.asset_id ? changed : row));
}
