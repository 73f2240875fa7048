// The basket: collections kept by the service; one of them is the one that takes what is found.

import { signal } from "@preact/signals";
import { foley, lineOf, Problem, read } from "../api";
import { count } from "../format";
import { say } from "../state";
import type { Collection, CollectionRow, Item } from "../types";

export const collections = signal<CollectionRow[]>([]);
/** The collection that takes what is found; it is shown in the basket. */
export const current = signal<Collection | null>(null);
export const basketSize = signal(0);

current.subscribe((chosen) => (basketSize.value = chosen?.num_items ?? 0));

const COLLECTION = "/v1/collections/{collection_id}";
const at = (collectionId: string) => ({ path: { collection_id: collectionId } });
/** A collection that may be changed only if it is still as this tab knows it. */
const asKnown = (collectionId: string) => ({ ...at(collectionId), header: { "If-Match": etags.get(collectionId)! } });
const etags = new Map<string, string>();

let writing: Promise<unknown> = Promise.resolve();
let numUnsaved = 0;
let turn = 0; // goes up when somebody else changed what is shown: changes that wait were made to what is no more

addEventListener("beforeunload", (event) => numUnsaved && event.preventDefault()); // the browser asks before a change is lost

/** One change after the other; refused if another tab changed the collection meanwhile. */
function change(collectionId: string, send: () => Promise<Collection>): Promise<void> {
  const mine = turn;
  const done = writing.catch(() => {}).then(async () => {
    try {
      if (mine !== turn) throw new Problem(412, "", "", "collection_changed");
      const changed = await send();
      etags.set(collectionId, changed.etag);
      if (numUnsaved === 1) show(changed); // else what waits is shown already
    } catch (error) {
      if (!(error instanceof Problem && error.code === "collection_changed")) throw error;
      turn++;
      show(await readCollection(collectionId));
      throw new Problem(412, "It was changed elsewhere meanwhile", "This is how it is now: make your change again.");
    }
  });
  writing = done;
  numUnsaved++;
  return done.finally(() => numUnsaved--);
}

function show(changed: Collection): void {
  if (current.value?.collection_id === changed.collection_id) current.value = changed;
}

async function readCollection(collectionId: string): Promise<Collection> {
  const found = await read(foley.GET(COLLECTION, { params: at(collectionId) }));
  etags.set(collectionId, found.etag);
  return found;
}

export async function loadCollections(chosen?: string): Promise<void> {
  collections.value = (await read(foley.GET("/v1/collections"))).collections;
  const wanted = chosen ?? current.value?.collection_id;
  const found = collections.value.find((one) => one.collection_id === wanted) ?? collections.value[0];
  current.value = found ? await readCollection(found.collection_id) : null;
}

export async function makeCollection(name: string): Promise<void> {
  const made = await read(foley.POST("/v1/collections", { body: { name } }));
  await loadCollections(made.collection_id);
}

export async function renameCollection(collectionId: string, name: string): Promise<void> {
  await change(collectionId, () => read(foley.PATCH(COLLECTION, { params: asKnown(collectionId), body: { name } })));
  await loadCollections(collectionId);
}

export async function removeCollection(collectionId: string): Promise<void> {
  await writing.catch(() => {});
  await foley.DELETE(COLLECTION, { params: asKnown(collectionId) });
  current.value = null;
  await loadCollections();
}

/** Replace the items of the current collection. */
export function setItems(items: Collection["items"]): Promise<void> {
  const { collection_id: collectionId } = current.value!;
  current.value = { ...current.value!, items, num_items: items.length }; // at once; the service's word follows
  const kept = items.map(({ path: _, modalities: __, ...item }) => item);
  return change(collectionId, () => read(foley.PATCH(COLLECTION, { params: asKnown(collectionId), body: { items: kept } })));
}

/** Add a hit to the current collection; the first one makes a collection. */
export async function addToBasket(item: Item, name: string): Promise<void> {
  try {
    if (!current.value) await loadCollections();
    if (!current.value) await makeCollection("Basket");
    const chosen = current.value!;
    await change(chosen.collection_id, () => read(foley.POST(`${COLLECTION}/items`, { params: at(chosen.collection_id), body: item })));
    say(`${name} is in “${chosen.name}”: ${count(current.value?.num_items ?? 0, "file")}.`);
  } catch (error) {
    say(lineOf(error));
  }
}
