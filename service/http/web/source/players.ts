// Players: one plays at a time, or two in step with an offset between them.

import { signal } from "@preact/signals";
import { clamp } from "./format";

const DRIFT_SECONDS = 0.08; // two players run on two clocks: more than this is heard
const LOOK_MILLISECONDS = 250;

interface Pair {
  leader: HTMLMediaElement; // the query's
  follower: HTMLMediaElement; // the result's
  muted: HTMLMediaElement;
  wasMuted: boolean;
  shift: number; // follower's time minus leader's, before the offset
  timer: number;
}

let pair: Pair | null = null;

/** The player of the result that plays together with the query, and by how much later it plays, in seconds. */
export const paired = signal<HTMLMediaElement | null>(null);
export const offset = signal(0);

export function playFrom(player: HTMLMediaElement, seconds: number): void {
  const start = () => {
    player.currentTime = seconds;
    player.play().catch(() => {}); // stopped before it began, or not playable: `error` handles that
  };
  if (player.readyState >= HTMLMediaElement.HAVE_METADATA) start();
  else {
    player.addEventListener("loadedmetadata", start, { once: true });
    player.preload = "metadata"; // one with `none` would never load
  }
}

/** Play both, `muted` without its sound: the query from `at`, the result from `start`. */
export function playTogether(
  leader: HTMLMediaElement, follower: HTMLMediaElement, { muted, at, start }: { muted: HTMLMediaElement; at: number; start: number },
): void {
  stopPair();
  offset.value = 0;
  const timer = window.setInterval(keepInStep, LOOK_MILLISECONDS);
  pair = { leader, follower, muted, wasMuted: muted.muted, shift: start - at, timer };
  paired.value = follower;
  muted.muted = true;
  playFrom(leader, at);
  playFrom(follower, start);
}

/** Move the result against the query while both play. */
export function setOffset(seconds: number): void {
  offset.value = seconds;
  keepInStep();
}

function keepInStep(): void {
  if (!pair || pair.leader.seeking || pair.follower.seeking || pair.follower.readyState < 2) return;
  const wanted = pair.leader.currentTime + pair.shift - offset.value;
  const possible = clamp(wanted, 0, Number.isFinite(pair.follower.duration) ? pair.follower.duration : wanted);
  if (Math.abs(pair.follower.currentTime - possible) > DRIFT_SECONDS) pair.follower.currentTime = possible;
}

export function stopPair(): void {
  if (!pair) return;
  const { leader, follower, muted, wasMuted, timer } = pair;
  pair = null;
  paired.value = null;
  clearInterval(timer);
  leader.pause();
  follower.pause();
  muted.muted = wasMuted;
}

/** Release a player's connection and file. */
export function release(player: HTMLMediaElement): void {
  player.pause();
  player.removeAttribute("src");
  player.load();
}

const isOfPair = (target: EventTarget | null): boolean => pair !== null && (target === pair.leader || target === pair.follower);

document.addEventListener("play", ({ target }) => {
  if (pair && !isOfPair(target)) stopPair();
  for (const player of document.querySelectorAll<HTMLMediaElement>("audio, video")) {
    if (player !== target && !isOfPair(player)) player.pause();
  }
}, true);
document.addEventListener("pause", ({ target }) => {
  if (isOfPair(target)) stopPair();
}, true);
