// The library: every file as a card or a row, only those in sight in the page; folders, faults, and one file in detail.

import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { address, ask, lineOf } from "../api";
import { FilterChips, NO_FILTERS, type Filters } from "../filters";
import { nameOf } from "../format";
import { isEmpty, libraryLine, place } from "../state";
import type { Asset, AssetPage } from "../types";
import { Detail } from "./detail";
import { AddFolders, Quarantine } from "./folders";
import { Grid } from "./grid";

type Order = "stored" | "name" | "folder" | "longest" | "shortest" | "newest";

const ORDERS: [Order, string][] = [
  ["stored", "as stored"], ["name", "by name"], ["folder", "by folder"], ["longest", "longest first"],
  ["shortest", "shortest first"], ["newest", "changed last first"],
];
const FIRST_PAGE = 100;
const PAGE = 1000;
const MAX_SORTED = 100_000; // all must be here to be sorted

const filters = signal<Filters>(NO_FILTERS);
const assets = signal<Asset[]>([]);
const cursor = signal<string | null | undefined>(undefined); // undefined before the first page, null after the last
const order = signal<Order>("stored");
const isList = signal(false);
const fault = signal("");
let turn = 0;
let isLoading = false;

async function load(isNew: boolean): Promise<void> {
  if (isNew) {
    turn++;
    cursor.value = undefined;
  } else if (isLoading || cursor.value === null) return;
  const mine = turn;
  isLoading = true;
  try {
    const { min_probability: _, ...given } = filters.value;
    const limit = cursor.value === undefined ? FIRST_PAGE : PAGE;
    const page = await ask<AssetPage>(address("/v1/assets", { ...given, limit, cursor: cursor.value }));
    if (mine !== turn) return;
    assets.value = cursor.value === undefined ? page.assets : [...assets.value, ...page.assets];
    cursor.value = page.next_cursor;
    fault.value = "";
  } catch (error) {
    if (mine === turn) fault.value = lineOf(error);
  } finally {
    if (mine === turn) isLoading = false;
  }
}

/** Sorting needs the whole list. */
async function loadAll(): Promise<void> {
  const mine = turn;
  while (cursor.value !== null && !fault.value && mine === turn && assets.value.length < MAX_SORTED) await load(false);
}

const COMPARE: Record<Exclude<Order, "stored">, (one: Asset, other: Asset) => number> = {
  name: (one, other) => nameOf(one.path).localeCompare(nameOf(other.path), undefined, { numeric: true }),
  folder: (one, other) => one.path.localeCompare(other.path, undefined, { numeric: true }),
  longest: (one, other) => (other.media.duration_seconds ?? 0) - (one.media.duration_seconds ?? 0),
  shortest: (one, other) => (one.media.duration_seconds ?? 0) - (other.media.duration_seconds ?? 0),
  newest: (one, other) => (other.media.modified_ns ?? 0) - (one.media.modified_ns ?? 0),
};

function sorted(): Asset[] {
  return order.value === "stored" ? assets.value : assets.value.toSorted(COMPARE[order.value]);
}

export function Library() {
  const [opened, setOpened] = useState<"" | "folders" | "quarantine">("");
  useEffect(() => {
    void load(true).then(() => (order.value === "stored" ? undefined : loadAll()));
  }, [libraryLine.value]);
  const shown = sorted();
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
          <span class="quiet" role="status">{fault.value || `${shown.length}${cursor.value ? "+" : ""} files`}</span>
          <label class="quiet">Order <select value={order.value} onChange={(event) => choose(event.currentTarget.value as Order)}>
            {ORDERS.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
          </select></label>
          <button type="button" aria-pressed={isList.value} onClick={() => (isList.value = !isList.value)}>{isList.value ? "List" : "Grid"}</button>
          <button type="button" aria-expanded={opened === "folders"} onClick={() => toggle("folders")}>Add folders…</button>
          <button type="button" aria-expanded={opened === "quarantine"} onClick={() => toggle("quarantine")}>What failed…</button>
        </div>
        {opened === "folders" && <AddFolders />}
        {opened === "quarantine" && <Quarantine />}
        <FilterChips filters={filters} onChange={() => void load(true)} />
        {isEmpty.value && <p class="hint">The library is empty: add a folder of media.</p>}
        <Grid assets={shown} isList={isList.value} onEnd={() => void load(false)} />
      </section>
      {place.value && <Detail key={place.value} assetId={place.value} onChange={replace} />}
    </div>
  );
}

function replace(changed: Asset): void {
  assets.value = assets.value.map((asset) => (asset.asset_id === changed.asset_id ? changed : asset));
}
