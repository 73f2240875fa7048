// Tags that the library's own tags suggest for a file: accepted or declined one by one. Shown only if the service has any.

import { useEffect, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { foley, lineOf, ofAsset, read } from "../api";
import { formatPercent } from "../format";
import { suggestsTags } from "../state";
import type { Asset } from "../types";

export function SuggestedTags({ assetId, onChange }: { assetId: string; onChange: (asset: Asset) => void }) {
  const [found, setFound] = useState<Schemas["SuggestedTagsBody"] | null>(null);
  const [said, setSaid] = useState("");
  const params = ofAsset(assetId);
  useEffect(() => {
    if (suggestsTags.value) read(foley.GET("/v1/assets/{asset_id}/suggested-tags", { params })).then(setFound, () => setFound(null)); // another release answers now
  }, [assetId, suggestsTags.value]);
  if (!found || (!found.suggestions.length && !said)) return null;
  const decide = async (what: "accept" | "decline", tag: string) => {
    try {
      setFound(await read(foley.POST("/v1/assets/{asset_id}/suggested-tags", { params, body: { [what]: [tag] } })));
      setSaid(`${what === "accept" ? "Accepted" : "Declined"}: ${tag}.`);
      onChange(await read(foley.GET("/v1/assets/{asset_id}", { params })));
    } catch (error) {
      setSaid(lineOf(error));
    }
  };
  return (
    <section aria-labelledby="tags-title">
      <h3 id="tags-title">Suggested tags</h3>
      <ul class="plain">
        {found.suggestions.map(({ tag, probability }) => (
          <li key={tag} class="pair-row">
            <span><span class="name">{tag}</span> <span class="quiet">{formatPercent(probability)} likely</span></span>
            <button type="button" class="small" aria-label={`Accept ${tag}`} onClick={() => void decide("accept", tag)}>Accept</button>
            <button type="button" class="small" aria-label={`Decline ${tag}`} onClick={() => void decide("decline", tag)}>Decline</button>
          </li>
        ))}
      </ul>
      <p class="quiet" role="status">{said}</p>
    </section>
  );
}
