// Waveforms and filmstrips of assets, as the service draws them; nothing in their place if it has none.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { foley, isPassing, ofAsset, read } from "./api";
import { framesOfAsset } from "./frames";
import { formatSpan } from "./format";

export type Peaks = Schemas["WaveformBody"];

const PIXELS = 400;
const STAY_MILLISECONDS = 60; // what is scrolled past faster is not asked for
const MAX_KEPT = 400; // waveforms, about 4 kB each
const kept = new Map<string, Promise<Peaks | null>>();

/** The highest and the lowest sample of each pixel, from −1 to 1. */
export const lanes = ({ min, max }: Peaks): number[][] => [max, min].map((lane) => lane.map((value) => value / 127));

export function readPeaks(assetId: string, start?: number, end?: number): Promise<Peaks | null> {
  const name = `${assetId} ${start} ${end}`;
  const known = kept.get(name);
  if (known) return known;
  const query = { pixels: PIXELS, ...(start === undefined ? {} : { start }), ...(end === undefined ? {} : { end }) };
  const asked = read(foley.GET("/v1/assets/{asset_id}/waveform", { params: { ...ofAsset(assetId), query } })).then((found) => found as Peaks, (error) => {
    if (isPassing(error)) kept.delete(name);
    return null;
  });
  kept.set(name, asked);
  if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value!);
  return asked;
}

function draw(canvas: HTMLCanvasElement, { min, max }: Peaks, { width, height }: DOMRectReadOnly): void {
  const ratio = Math.min(devicePixelRatio, 2);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d")!;
  context.fillStyle = getComputedStyle(canvas).color;
  const middle = canvas.height / 2;
  const step = canvas.width / max.length;
  for (let at = 0; at < max.length; at++) {
    const [low, high] = [Math.min(min[at]!, 0) / 127, Math.max(max[at]!, 0) / 127];
    const height = Math.max((high - low) * middle, ratio);
    context.fillRect(at * step, middle - high * middle, Math.max(step * 0.8, 1), height);
  }
}

/** Whether the element has come near the view; then it stays so. */
export function useNear<T extends HTMLElement>(): [{ current: T | null }, boolean] {
  const element = useRef<T>(null);
  const [isNear, setNear] = useState(false);
  useEffect(() => {
    const watch = new IntersectionObserver(([entry]) => {
      if (!entry?.isIntersecting) return;
      watch.disconnect();
      setNear(true);
    }, { rootMargin: "200px" });
    if (element.current) watch.observe(element.current);
    return () => watch.disconnect();
  }, []);
  return [element, isNear];
}

/** Whether the element has been there for a moment. */
export function useStay(): boolean {
  const [stays, setStays] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setStays(true), STAY_MILLISECONDS);
    return () => clearTimeout(timer);
  }, []);
  return stays;
}

interface SpanProps {
  assetId: string;
  start?: number;
  end?: number;
}

export function Waveform({ assetId, start, end, onSeek }: SpanProps & { onSeek?: (seconds: number) => void }) {
  const [canvas, isNear] = useNear<HTMLCanvasElement>();
  const stays = useStay();
  const [peaks, setPeaks] = useState<Peaks | null | undefined>(undefined);
  useEffect(() => {
    let isThere = true;
    if (isNear && stays) void readPeaks(assetId, start, end).then((found) => isThere && setPeaks(found));
    return () => { isThere = false; };
  }, [isNear && stays, assetId, start, end]);
  useEffect(() => {
    const element = canvas.current;
    if (!element || !peaks) return;
    let size: DOMRectReadOnly | null = null; // told by the observer: to ask the element would lay out the page for each card
    const redraw = () => size && draw(element, peaks, size);
    const watch = new ResizeObserver(([entry]) => { size = entry!.contentRect; redraw(); });
    watch.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", redraw);
    return () => {
      watch.disconnect();
      scheme.removeEventListener("change", redraw);
    };
  }, [peaks]);
  if (peaks === null) return null;
  const seek = (event: MouseEvent) => {
    if (!peaks || !onSeek) return;
    const part = event.offsetX / (event.currentTarget as HTMLElement).clientWidth;
    onSeek(peaks.start + part * (peaks.end - peaks.start));
  };
  const said = start === undefined || end === undefined ? "Waveform" : `Waveform of ${formatSpan(start, end)}`;
  return <canvas ref={canvas} class="waveform" role="img" aria-label={said} onClick={onSeek ? seek : undefined} />;
}

/** Frames of an asset, in order. */
export function Filmstrip({ assetId, start, end }: SpanProps) {
  const [canvas, isNear] = useNear<HTMLCanvasElement>();
  const [isGone, setGone] = useState(false);
  useEffect(() => {
    const stop = new AbortController();
    const element = canvas.current;
    if (isNear && element) {
      Object.assign(element, { width: element.clientWidth * 2, height: element.clientHeight * 2 });
      framesOfAsset(assetId, start, end)(element, stop.signal).catch(() => setGone(!stop.signal.aborted));
    }
    return () => stop.abort();
  }, [isNear, assetId, start, end]);
  return isGone ? null : <canvas ref={canvas} class="filmstrip" role="img" aria-label="Frames of the film, in order" />;
}
