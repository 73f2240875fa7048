// Saving a part of an asset.

import { foley, lineOf, ofAsset, save } from "./api";
import { say } from "./state";
import type { Modality } from "./types";

export async function saveSegment(assetId: string, query: { start: number; end: number; modality?: Modality }): Promise<void> {
  const asked = foley.GET("/v1/assets/{asset_id}/segment", { params: { ...ofAsset(assetId), query }, parseAs: "blob" });
  await save(asked, "segment").then((name) => say(`Saved ${name}.`), (error) => say(lineOf(error)));
}
