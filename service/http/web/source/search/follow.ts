// Searching on from something in the library.

import type { Modality } from "../types";
import { goTo } from "../state";
import { cancel, search } from "./ask";
import { assetClip, setClip, source, target, text } from "./state";

/** Search with an asset (its segment at `start`) as what it is, `kind`, for `wanted`. */
export function follow(asset: { asset_id: string; path: string }, kind: Modality, wanted: Modality, start?: number): void {
  cancel();
  text.value = "";
  setClip(assetClip(asset, kind, start));
  target.value = wanted;
  source.value = kind;
  goTo("search");
  scrollTo({ top: 0 });
  setTimeout(() => void search()); // after a search under way has ended
}
