// Frames of a film as a row of pictures: of a file of the user, or of the service's filmstrip of an asset.

import { foley, ofAsset } from "./api";
import { clamp } from "./format";
import { release } from "./players";

/** Draws what it shows into the canvas as it comes, until `signal` stops it. */
export type Frames = (canvas: HTMLCanvasElement, signal: AbortSignal) => Promise<void>;

const FRAME_PIXELS = 128; // width of one, of a canvas of two pixels a point

const once = (film: HTMLVideoElement, name: string, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    film.addEventListener(name, () => resolve(), { once: true, signal });
    film.addEventListener("error", () => reject(film.error), { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });

/** Draw the middle of a picture, or of the part of it from `left` on that is `width` wide, into place `at` of `number`. */
function place(canvas: HTMLCanvasElement, picture: CanvasImageSource, left: number, width: number, height: number, at: number, number: number): void {
  const across = canvas.width / number;
  const scale = Math.max(across / width, canvas.height / height);
  const [w, h] = [across / scale, canvas.height / scale];
  canvas.getContext("2d")!.drawImage(picture, left + (width - w) / 2, (height - h) / 2, w, h, at * across, 0, across, canvas.height);
}

const places = (canvas: HTMLCanvasElement): number => Math.max(1, Math.round(canvas.width / FRAME_PIXELS));

/** Of a film the browser can play: each frame as it is found. */
export const framesOfFilm = (url: string, length: number): Frames => async (canvas, signal) => {
  const film = Object.assign(document.createElement("video"), { muted: true, preload: "auto", src: url });
  const number = places(canvas);
  try {
    await once(film, "loadeddata", signal);
    for (let at = 0; at < number; at++) {
      const found = once(film, "seeked", signal);
      film.currentTime = ((at + 0.5) / number) * length;
      await found;
      place(canvas, film, 0, film.videoWidth, film.videoHeight, at, number);
    }
  } finally {
    release(film);
  }
};

/** Of an asset, from `start` to `end` if they are given. */
export const framesOfAsset = (assetId: string, start?: number, end?: number): Frames => async (canvas, signal) => {
  const { data, response } = await foley.GET("/v1/assets/{asset_id}/filmstrip", { params: ofAsset(assetId), parseAs: "blob", signal });
  const [tiles, width, seconds] = ["Foley-Frames", "Foley-Frame-Width", "Foley-Duration"].map((name) => Number(response.headers.get(name)));
  const picture = await createImageBitmap(data!);
  if (signal.aborted || !tiles || !width) return;
  const [first, last] = seconds ? [(start ?? 0) / seconds, (end ?? seconds) / seconds] : [0, 1];
  const number = places(canvas);
  for (let at = 0; at < number; at++) {
    const tile = clamp(Math.floor((first + ((at + 0.5) / number) * (last - first)) * tiles), 0, tiles - 1);
    place(canvas, picture, tile * width, width, picture.height, at, number);
  }
  picture.close();
};
