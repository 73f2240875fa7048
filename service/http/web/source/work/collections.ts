// The basket: collections kept by the service; one of them is the one that takes what is found.

import { signal } from "@preact/signals";
import { ask, isMissing, lineOf, send } from "../api";
import { count } from "../format";
import { say } from "../state";
import type { Collection, Item } from "../types";

const PATH = "/v1/collections";

export const collections = signal<Collection[]>([]);
/** The collection that takes what is found; it is shown in the basket. */
export const current = signal<Collection | null>(null);
export const basketSize = signal(0);
export const isWithout = signal(false); // the service has no collections

current.subscribe((chosen) => (basketSize.value = chosen?.num_items ?? 0));

const at = (collectionId: string): string => `${PATH}/${encodeURIComponent(collectionId)}`;

export async function loadCollections(chosen?: string): Promise<void> {
  try {
    collections.value = (await ask<{ collections: Collection[] }>(PATH)).collections;
  } catch (error) {
    isWithout.value = isMissing(error);
    if (!isWithout.value) throw error;
    return;
  }
  const wanted = chosen ?? current.value?.collection_id;
  const found = collections.value.find((one) => one.collection_id === wanted) ?? collections.value[0];
  current.value = found ? await ask<Collection>(at(found.collection_id)) : null;
}

export async function makeCollection(name: string): Promise<void> {
  const made = await ask<Collection>(PATH, { method: "POST", json: { name } });
  await loadCollections(made.collection_id);
}

export async function renameCollection(collectionId: string, name: string): Promise<void> {
  await send(at(collectionId), { method: "PATCH", json: { name } });
  await loadCollections(collectionId);
}

export async function removeCollection(collectionId: string): Promise<void> {
  await send(at(collectionId), { method: "DELETE" });
  current.value = null;
  await loadCollections();
}

/** Replace the items of the current collection. */
export async function setItems(items: Item[]): Promise<void> {
  const chosen = current.value!;
  const kept = items.map(({ asset_id, start_seconds, end_seconds, modality, note, query }) => ({ asset_id, start_seconds, end_seconds, modality, note, query }));
  current.value = { ...chosen, items, num_items: items.length }; // at once; the service's word follows
  current.value = await ask<Collection>(at(chosen.collection_id), { method: "PATCH", json: { items: kept } });
}

/** Add a hit to the current collection; the first one makes a collection. */
export async function addToBasket(item: Item, name: string): Promise<void> {
  try {
    if (!current.value) await loadCollections();
    if (isWithout.value) return say("This service keeps no collections.");
    if (!current.value) await makeCollection("Basket");
    const chosen = current.value!;
    current.value = await ask<Collection>(`${at(chosen.collection_id)}/items`, { method: "POST", json: item });
    say(`${name} is in “${chosen.name}”: ${count(current.value?.num_items ?? 0, "file")}.`);
  } catch (error) {
    say(lineOf(error));
  }
}
