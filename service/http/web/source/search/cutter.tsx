// The waveform and the frames of the clip: drag over them to search with a part.

import { useEffect, useMemo, useState } from "preact/hooks";
import { framesOfAsset, framesOfFilm } from "../frames";
import { Strip } from "../strip";
import { lanes, readPeaks } from "../waveform";
import { peaksOf, readSound } from "./sound";
import { cut, type Clip } from "./state";

export function Cutter({ given, player, length }: { given: Clip; player: { current: HTMLMediaElement | null }; length: number }) {
  const [peaks, setPeaks] = useState<number[][] | null | undefined>(undefined);
  const { file, assetId, url, kind } = given;
  useEffect(() => {
    const read = file ? readSound(file).then((sound) => sound && peaksOf(sound)) : readPeaks(assetId!).then((found) => found && lanes(found));
    void read.then(setPeaks);
  }, [file, assetId]);
  const frames = useMemo(
    () => (kind !== "video" ? null : assetId ? framesOfAsset(assetId, 0, length) : framesOfFilm(url, length)), [kind, assetId, url, length],
  );
  if (peaks === undefined) return null;
  const what = [peaks || kind === "audio" ? "Waveform" : "", frames ? "frames" : ""].filter(Boolean).join(" and ");
  return (
    <Strip label={`${what[0]!.toUpperCase()}${what.slice(1)} of your clip`} player={player} from={0} length={length}
      peaks={peaks ?? (kind === "audio" ? [[0, 0]] : null)} frames={frames}
      cut={cut.value} onCut={(span) => (cut.value = span)} onSeek={(seconds) => player.current && (player.current.currentTime = seconds)} />
  );
}
