// The thumbnail of a film; a plain box if the service has none.

import { useState } from "preact/hooks";
import { assetAddress } from "../api";

export function Thumbnail({ assetId, alt = "" }: { assetId: string; alt?: string }) {
  const [isGone, setGone] = useState(false);
  if (isGone) return <span class="no-picture">film</span>;
  return <img src={assetAddress(assetId, "/thumbnail")} alt={alt} loading="lazy" decoding="async" onError={() => setGone(true)} />;
}
