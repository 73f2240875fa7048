// A waveform and the frames of a film, to play from and to cut: a click plays, dragging marks a part, its edges move.

import { useEffect, useRef } from "preact/hooks";
import WaveSurfer from "wavesurfer.js/dist/wavesurfer.js";
import Regions from "wavesurfer.js/dist/plugins/regions.js";
import type { Frames } from "./frames";
import { clamp, formatTime } from "./format";

export const MIN_SECONDS = 0.2;
const [SOUND_PIXELS, FRAME_PIXELS] = [56, 48];
const MARK = "rgba(80, 170, 170, 0.35)";

export type Span = [start: number, end: number];

interface Props {
  label: string;
  player: { current: HTMLMediaElement | null };
  from: number; // of the player, in seconds: where the strip begins
  length: number; // in seconds
  peaks: number[][] | null; // highest and lowest of each pixel, from −1 to 1
  frames: Frames | null;
  cut: Span | null; // of the player, in seconds
  onCut: (cut: Span | null) => void;
  onSeek: (seconds: number) => void;
}

const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function colours() {
  return { waveColor: colour("--bar"), progressColor: colour("--accent"), cursorColor: colour("--text") };
}

export function Strip({ label, player: given, from, length, peaks, frames, cut, onCut, onSeek }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const regions = useRef<ReturnType<typeof Regions.create> | null>(null);
  const told = useRef({ onCut, onSeek });
  told.current = { onCut, onSeek };
  useEffect(() => {
    const stop = new AbortController();
    const { signal } = stop;
    const player = given.current;
    const made = WaveSurfer.create({
      container: box.current!, media: new Audio(), // its clock only: the player may begin elsewhere
      height: peaks ? SOUND_PIXELS : 0, peaks: peaks ?? [[0, 0]], duration: length, ...colours(),
    });
    if (frames) {
      const film = document.createElement("canvas");
      Object.assign(film.style, { position: "relative", width: "100%", height: `${FRAME_PIXELS}px`, pointerEvents: "none" });
      film.setAttribute("part", "frames");
      made.getWrapper().append(film);
      [film.width, film.height] = [box.current!.clientWidth * 2, FRAME_PIXELS * 2];
      frames(film, signal).catch(() => {}); // it stays empty
    }
    const plugin = made.registerPlugin(Regions.create());
    plugin.enableDragSelection({ color: MARK, minLength: MIN_SECONDS });
    const take = (region: { start: number; end: number }) => {
      plugin.getRegions().filter((other) => other !== region).forEach((other) => other.remove());
      told.current.onCut([from + region.start, from + region.end]);
    };
    plugin.on("region-created", take);
    plugin.on("region-updated", take);
    regions.current = plugin;
    made.on("interaction", (seconds) => told.current.onSeek(from + seconds));
    const show = () => player && made.setTime(clamp(player.currentTime - from, 0, length));
    const run = () => {
      show();
      if (player && !player.paused && !signal.aborted) requestAnimationFrame(run);
    };
    for (const name of ["play", "pause", "seeked", "timeupdate"]) player?.addEventListener(name, name === "play" ? run : show, { signal });
    run();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => made.setOptions(colours()), { signal });
    return () => {
      stop.abort();
      regions.current = null;
      made.destroy();
    };
  }, [from, length, peaks, frames]);
  useEffect(() => {
    const plugin = regions.current;
    const shown = plugin?.getRegions()[0];
    if (!cut) return shown?.remove();
    const [start, end] = [cut[0] - from, cut[1] - from];
    if (!shown) plugin?.addRegion({ start, end, color: MARK, minLength: MIN_SECONDS });
    else if (shown.start !== start || shown.end !== end) shown.setOptions({ start, end });
  }, [cut?.[0], cut?.[1], from, length, peaks, frames]);
  return (
    <div class="cutter">
      <div ref={box} class="wave" role="img" aria-label={`${label}; drag over it to mark a part`} />
      <CutFields from={from} length={length} cut={cut} onCut={onCut} />
    </div>
  );
}

/** The same by keyboard. */
function CutFields({ from, length, cut, onCut }: Pick<Props, "from" | "length" | "cut" | "onCut">) {
  const last = from + length;
  const [start, end] = cut ?? [from, last];
  const set = (first: number, second: number) => {
    if (!Number.isFinite(first) || !Number.isFinite(second)) return;
    const low = clamp(first, from, last - MIN_SECONDS);
    onCut([low, clamp(second, low + MIN_SECONDS, last)]);
  };
  const field = (name: string, value: number, change: (given: number) => void) => (
    <label>{name} <input type="number" aria-label={`Part ${name} second`} min={from} max={Math.ceil(last * 10) / 10} step={0.1}
      value={value.toFixed(1)} title={formatTime(value)} onChange={(event) => change(event.currentTarget.valueAsNumber)} /></label>
  );
  return (
    <div class="row quiet">
      {field("from", start, (given) => set(given, end))}
      {field("to", end, (given) => set(start, given))} s
    </div>
  );
}
