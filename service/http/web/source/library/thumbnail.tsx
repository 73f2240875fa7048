// The thumbnail of a film; a plain box if the service has none.

import { useState } from "preact/hooks";
import { assetAddress } from "../api";
import { useStay } from "../waveform";

export function Thumbnail({ assetId, alt = "" }: { assetId: string; alt?: string }) {
  const [isGone, setGone] = useState(false);
  const stays = useStay();
  if (isGone) return <span class="no-picture">film</span>;
  return <img src={stays ? assetAddress(assetId, "/thumbnail") : undefined} alt={alt} decoding="async" onError={() => setGone(true)} />;
}
