// The waveform of the clip: drag over it to search with a part. Two fields do the same by keyboard.

import { useEffect, useRef, useState } from "preact/hooks";
import WaveSurfer from "wavesurfer.js/dist/wavesurfer.js";
import Regions from "wavesurfer.js/dist/plugins/regions.js";
import { clamp } from "../format";
import { cut } from "./state";
import { readSound } from "./sound";

const MIN_SECONDS = 0.2;
const NUM_PEAKS = 1000;

function peaksOf(sound: AudioBuffer): number[] {
  const samples = sound.getChannelData(0);
  const step = Math.max(1, Math.floor(samples.length / NUM_PEAKS));
  const peaks: number[] = [];
  for (let at = 0; at < samples.length; at += step) {
    let highest = 0;
    for (let here = at; here < Math.min(at + step, samples.length); here++) {
      if (Math.abs(samples[here]!) > Math.abs(highest)) highest = samples[here]!;
    }
    peaks.push(highest);
  }
  return peaks;
}

const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function Cutter({ file, player, length }: { file: File; player: HTMLMediaElement; length: number }) {
  const box = useRef<HTMLDivElement>(null);
  const regions = useRef<ReturnType<typeof Regions.create> | null>(null);
  const [, setReady] = useState(false);
  useEffect(() => {
    let made: WaveSurfer | null = null;
    let isThere = true;
    void readSound(file).then((sound) => {
      if (!isThere || !box.current) return;
      made = WaveSurfer.create({
        container: box.current, media: player, height: 56, peaks: [sound ? peaksOf(sound) : [0, 0]], duration: length,
        waveColor: colour("--bar"), progressColor: colour("--accent"), cursorColor: colour("--text"),
      });
      const plugin = made.registerPlugin(Regions.create());
      regions.current = plugin;
      plugin.enableDragSelection({ color: "rgba(80, 170, 170, 0.3)", minLength: MIN_SECONDS });
      const take = (region: { start: number; end: number }) => {
        plugin.getRegions().filter((other) => other !== region).forEach((other) => other.remove());
        cut.value = [region.start, region.end];
      };
      plugin.on("region-created", take);
      plugin.on("region-updated", take);
      setReady(true);
    });
    return () => {
      isThere = false;
      regions.current = null;
      made?.destroy();
    };
  }, [file, player]);
  useEffect(() => cut.subscribe((span) => {
    const plugin = regions.current;
    const shown = plugin?.getRegions()[0];
    if (!span) shown?.remove();
    else if (shown && (shown.start !== span[0] || shown.end !== span[1])) shown.setOptions({ start: span[0], end: span[1] });
    else if (!shown) plugin?.addRegion({ start: span[0], end: span[1], color: "rgba(80, 170, 170, 0.3)" });
  }), []);
  const [start, end] = cut.value ?? [0, length];
  const set = (from: number, to: number) => {
    if (!Number.isFinite(from) || !Number.isFinite(to)) return;
    const low = clamp(from, 0, length - MIN_SECONDS);
    cut.value = [low, clamp(to, low + MIN_SECONDS, length)];
  };
  return (
    <div class="cutter">
      <div ref={box} class="wave" role="img" aria-label="Waveform of your clip; drag over it to search with a part" />
      <div class="row quiet">
        <label>from <input type="number" aria-label="Search from second" min={0} max={Math.ceil(length * 10) / 10} step={0.1} value={start.toFixed(1)}
          onChange={(event) => set(Number(event.currentTarget.value), end)} /></label>
        <label>to <input type="number" aria-label="Search to second" min={0} max={Math.ceil(length * 10) / 10} step={0.1} value={end.toFixed(1)}
          onChange={(event) => set(start, Number(event.currentTarget.value))} /> s</label>
      </div>
    </div>
  );
}
