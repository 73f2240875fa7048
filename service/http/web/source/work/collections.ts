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

const at = (collectionId: string) => ({ path: { collection_id: collectionId } });

export async function loadCollections(chosen?: string): Promise<void> {
  collections.value = (await read(foley.GET("/v1/collections"))).collections;
  const wanted = chosen ?? current.value?.collection_id;
  const found = collections.value.find((one) => one.collection_id === wanted) ?? collections.value[0];
  current.value = found ? await read(foley.GET("/v1/collections/{collection_id}", { params: at(found.collection_id) })) : null;
}

export async function makeCollection(name: string): Promise<void> {
  const made = await read(foley.POST("/v1/collections", { body: { name } }));
  await loadCollections(made.collection_id);
}

export async function renameCollection(collectionId: string, name: string): Promise<void> {
  await foley.PATCH("/v1/collections/{collection_id}", { params: at(collectionId), body: { name } });
  await loadCollections(collectionId);
}

export async function removeCollection(collectionId: string): Promise<void> {
  await foley.DELETE("/v1/collections/{collection_id}", { params: at(collectionId) });
  current.value = null;
  await loadCollections();
}

let writing: Promise<unknown> = Promise.resolve();
let numUnsaved = 0;
let turn = 0; // goes up when somebody else changed what is shown: changes that wait were made to what is no more

/** Replace the items of the current collection, one change after the other; refused if another tab changed it meanwhile. */
export function setItems(items: Collection["items"]): Promise<void> {
  const mine = turn;
  current.value = { ...current.value!, items, num_items: items.length }; // at once; the service's word follows
  const done = writing.catch(() => {}).then(() => replaceItems(items, mine));
  writing = done;
  numUnsaved++;
  return done.finally(() => numUnsaved--);
}

addEventListener("beforeunload", (event) => numUnsaved && event.preventDefault()); // the browser asks before a change is lost

async function replaceItems(items: Collection["items"], mine: number): Promise<void> {
  const { collection_id, updated_at } = current.value!;
  const params = at(collection_id);
  const stored = await read(foley.GET("/v1/collections/{collection_id}", { params }));
  if (mine !== turn || stored.updated_at !== updated_at) {
    turn++;
    current.value = stored;
    throw new Problem(409, "It was changed elsewhere meanwhile", "This is how it is now: make your change again.");
  }
  const kept = items.map(({ path: _, ...item }) => item);
  current.value = await read(foley.PATCH("/v1/collections/{collection_id}", { params, body: { items: kept } }));
}

/** Add a hit to the current collection; the first one makes a collection. */
export async function addToBasket(item: Item, name: string): Promise<void> {
  try {
    if (!current.value) await loadCollections();
    if (!current.value) await makeCollection("Basket");
    const chosen = current.value!;
    current.value = await read(foley.POST("/v1/collections/{collection_id}/items", { params: at(chosen.collection_id), body: item }));
    say(`${name} is in “${chosen.name}”: ${count(current.value?.num_items ?? 0, "file")}.`);
  } catch (error) {
    say(lineOf(error));
  }
}
