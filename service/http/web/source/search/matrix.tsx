// Every moment of the query against every moment of a result, as a picture with a description in words.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { foley, lineOf, read } from "../api";
import { clamp, formatTime } from "../format";
import type { Answer, Result } from "../types";
import { clip } from "./state";

type Found = Schemas["SimilarityBody"];

const SIZE = 320;

async function askFor(result: Result, answer: Answer): Promise<Found> {
  const given = clip.value!;
  const from = answer.from === "audio" || answer.from === "video" ? answer.from : "video";
  const part = { result: { asset_id: result.asset_id, start_seconds: result.start_seconds }, target: answer.target, from };
  const compare = (query: Schemas["SimilarityRequest"]["query"]) => read(foley.POST("/v1/similarity", { body: { ...part, query } }));
  if (!given.file) {
    return compare({ asset_id: given.assetId!, start_seconds: result.query_start_seconds });
  }
  const form = new FormData();
  form.append("modality", from);
  form.append("encoding", "base64");
  form.append("file", given.file, "query");
  const embedded = await read(foley.POST("/v1/embeddings", { body: form as never, bodySerializer: (body) => body }));
  const { segments } = embedded as Schemas["EncodedEmbeddingsBody"]; // as `encoding` asks
  const near = segments.reduce((best, one) =>
    Math.abs(one.start_seconds - result.query_start_seconds) < Math.abs(best.start_seconds - result.query_start_seconds) ? one : best);
  return compare({ track: near[from]?.track ?? null });
}

function draw(canvas: HTMLCanvasElement, matrix: number[][]): void {
  const context = canvas.getContext("2d")!;
  const all = matrix.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const [height, width] = [SIZE / matrix.length, SIZE / matrix[0]!.length];
  matrix.forEach((row, y) => row.forEach((value, x) => {
    const part = high > low ? clamp((value - low) / (high - low), 0, 1) : 0.5;
    context.fillStyle = `hsl(${200 - 150 * part} 65% ${12 + 58 * part}%)`;
    context.fillRect(x * width, y * height, width + 0.5, height + 0.5);
  }));
}

function describe({ matrix, query_times, result_times }: Found): string {
  let [y, x] = [0, 0];
  matrix.forEach((row, at) => row.forEach((value, to) => { if (value > matrix[y]![x]!) [y, x] = [at, to]; }));
  const own = matrix.map((row, at) => row[at] ?? 0);
  const mean = own.reduce((sum, value) => sum + value, 0) / own.length;
  return `Most alike: your clip at ${formatTime(query_times[y] ?? 0)} and the result at ${formatTime(result_times[x] ?? 0)}, ` +
    `similarity ${matrix[y]![x]!.toFixed(3)}. Mean of the diagonal, the score of this segment: ${mean.toFixed(3)}.`;
}

export function Matrix({ result, answer }: { result: Result; answer: Answer }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [found, setFound] = useState<Found | null>(null);
  const [said, setSaid] = useState("Comparing every moment…");
  useEffect(() => {
    askFor(result, answer).then((made) => { setFound(made); setSaid(describe(made)); }, (error) => setSaid(lineOf(error)));
  }, []);
  useEffect(() => {
    if (found && canvas.current) draw(canvas.current, found.matrix);
  }, [found]);
  return (
    <figure class="matrix">
      {found && <canvas ref={canvas} width={SIZE} height={SIZE} role="img" aria-label="Similarity of every moment of your clip, downwards, and of the result, to the right" />}
      <figcaption class="quiet" aria-live="polite">{found && "Down: your clip. Right: the result. Bright: alike. "}{said}</figcaption>
    </figure>
  );
}
