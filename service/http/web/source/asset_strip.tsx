// The waveform or the frames of an asset that somebody plays or cuts, drawn from what the service keeps of it.

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { framesOfAsset } from "./frames";
import type { Modality } from "./types";
import { Strip, type Span } from "./strip";
import { lanes, readPeaks } from "./waveform";

interface Props {
  assetId: string;
  shows: Modality[];
  span: Span;
  player: { current: HTMLMediaElement | null };
  cut: Span | null;
  onCut: (cut: Span | null) => void;
  onSeek: (seconds: number) => void;
  placeholder: ComponentChildren;
}

export function AssetStrip({ assetId, shows, span: [start, end], placeholder, ...others }: Props) {
  const [hasSound, hasFilm] = [shows.includes("audio"), shows.includes("video")];
  const [peaks, setPeaks] = useState<number[][] | null | undefined>(hasSound ? undefined : null);
  useEffect(() => {
    if (hasSound) void readPeaks(assetId, start, end).then((found) => setPeaks(found && lanes(found)));
  }, [assetId, start, end]);
  const frames = useMemo(() => (hasFilm ? framesOfAsset(assetId, start, end) : null), [assetId, start, end]);
  if (peaks === undefined) return <>{placeholder}</>;
  if (!peaks && !frames) return null;
  return <Strip {...others} label={hasSound ? "Waveform" : "Frames"} from={start} length={end - start} peaks={peaks} frames={frames} />;
}
