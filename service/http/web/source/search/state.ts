// What is searched with, what for, and what came back; it outlives visits to other rooms.

import { signal } from "@preact/signals";

import { assetAddress, type Problem } from "../api";
import { nameOf } from "../format";
import { stopPair } from "../players";
import type { Filters } from "../filters";
import { NO_FILTERS } from "../filters";
import { bundle } from "../state";
import type { Answer, Modality, Result } from "../types";

/** A file of the user, or an asset of the library (one segment of it, if `start` is given). */
export interface Clip {
  kind: Modality | "image";
  name: string;
  url: string;
  file?: File;
  assetId?: string;
  start?: number;
}

export const clip = signal<Clip | null>(null);
export const clipFacts = signal("");
/** The part of the clip that is searched with, in seconds; null for all of it. */
export const cut = signal<[number, number] | null>(null);
/** The player of the clip, once it can play. */
export const clipPlayer = signal<HTMLMediaElement | null>(null);
export const text = signal("");
export const target = signal<Modality>("audio");
export const source = signal<"" | Modality>("");
export const filters = signal<Filters>(NO_FILTERS);

export const status = signal("");
/** Part that is uploaded, null while the service works, undefined if nothing runs. */
export const progress = signal<number | null | undefined>(undefined);
export const problem = signal<Problem | null>(null);
export const answer = signal<Answer | null>(null);
export const results = signal<Result[]>([]);
/** What the answer that is shown was asked with. */
export const asked = signal<{ name: string; text: string }>({ name: "", text: "" });

export const hasClip = (): boolean => clip.value !== null;

export function clearProblem(): void {
  problem.value = null;
}

export function clearAnswer(): void {
  stopPair();
  answer.value = null;
  results.value = [];
  problem.value = null;
}

export function setClip(next: Clip | null, facts = ""): void {
  stopPair();
  if (clip.value?.file) URL.revokeObjectURL(clip.value.url);
  clearAnswer(); // it belongs to the clip before
  clipPlayer.value = null;
  cut.value = null;
  clip.value = next;
  clipFacts.value = facts;
  suggestTarget();
}

/** The asset as what is searched with. */
export function assetClip(asset: { asset_id: string; path: string }, kind: Modality, start?: number): Clip {
  const url = `${assetAddress(asset.asset_id)}/media`;
  return { kind, name: nameOf(asset.path), url, assetId: asset.asset_id, ...(start === undefined ? {} : { start }) };
}

export function suggestTarget(): void {
  const { tracks, compares } = bundle.value ?? { tracks: { audio: [1, 1], video: [1, 1] }, compares: true };
  const other: Modality = (clip.value?.kind ?? "video") === "audio" ? "video" : "audio";
  const same: Modality = other === "audio" ? "video" : "audio";
  const wanted = compares || !(same in tracks) ? other : same;
  target.value = wanted in tracks ? wanted : same;
  source.value = "";
}

bundle.subscribe((known) => known && suggestTarget());
