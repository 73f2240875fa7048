// Numbers and names as text.

import type { Modality } from "./types";

export const NAMES: Record<Modality, string> = { audio: "sound", video: "picture" };

const two = (number: number): string => String(number).padStart(2, "0");

export function formatTime(seconds: number): string {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:` : ""}${two(minutes)}:${two(whole % 60)}`;
}

export const formatSpan = (start: number, end: number): string => `${formatTime(start)}–${formatTime(end)}`;

/** A part that somebody chose: with tenths, unless it begins and ends with whole seconds. */
export function formatCut(start: number, end: number): string {
  const isWhole = [start, end].every((seconds) => Math.abs(seconds - Math.round(seconds)) < 0.05);
  return isWhole ? formatSpan(Math.round(start), Math.round(end)) : `${start.toFixed(1)}–${end.toFixed(1)} s`;
}

export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

const grouped = new Intl.NumberFormat("en");

/** `1 file`, `100,000 files`. */
export const count = (number: number, noun: string): string => `${grouped.format(number)} ${noun}${number === 1 ? "" : "s"}`;

export const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

export const formatDate = (seconds: number): string =>
  new Date(1000 * seconds).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

export const formatPercent = (part: number): string => `${Math.round(100 * part)} %`;

export const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);
