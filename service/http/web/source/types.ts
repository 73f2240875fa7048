// The parts of the service's answers that the page reads; /openapi.json describes all of them.

import type { Modality } from "./format";

export type Value = string | number | boolean;
export type Metadata = Record<string, Value | Value[]>;

export interface BundleFacts {
  tracks: Partial<Record<Modality, [number, number]>>;
  compares: boolean;
  similarity?: "cosine" | "dot";
  text_targets?: Modality[];
  attribution: string[];
}

export interface Ready {
  bundle_id: string;
  num_segments: number;
  bundle?: BundleFacts;
}

export interface Media {
  said?: Record<string, Value | Value[] | null> | null;
  duration_seconds: number | null;
  size_bytes?: number;
  modified_ns?: number;
  container?: string;
  has_audio: boolean;
  has_video: boolean;
  width?: number | null;
  height?: number | null;
  frame_rate?: number | null;
  video_codec?: string | null;
  audio_codec?: string | null;
  sample_rate_hz?: number | null;
  num_channels?: number | null;
}

export interface Asset {
  asset_id: string;
  path: string;
  paths: string[];
  num_segments: number;
  modalities: Modality[];
  media: Media;
  metadata: Metadata;
}

export interface AssetPage {
  assets: Asset[];
  next_cursor: string | null;
  num_assets?: number | null;
}

export interface Result {
  asset_id: string;
  path: string;
  start_seconds: number;
  end_seconds: number;
  score: number | null;
  match_probability: number | null;
  found_by: ("meaning" | "words")[];
  best_moment: { index: number; time_seconds: number; similarity: number } | null;
  moments: number[];
  query_start_seconds: number;
  query_end_seconds: number;
  metadata: Metadata;
}

export interface Answer {
  results: Result[];
  target: Modality;
  from: Modality | "text" | "mixed";
  bundle_id: string;
  release_id: string;
  similarity: "cosine" | "dot";
  query: { num_segments: number; is_partial: boolean };
  next_offset?: number | null;
  reason: string | null;
  probability_reason: string | null;
}

export type JobState = "queued" | "running" | "waiting" | "done" | "failed" | "cancelled" | "interrupted";

export interface JobProgress {
  num_files?: number;
  num_done?: number;
  num_failed?: number;
  num_segments?: number;
  segments_per_second?: number;
  left_seconds?: number | null;
  step?: string;
}

export interface Job {
  job_id: string;
  kind: "index" | "sync" | "release";
  state: JobState;
  request: { paths?: string[]; dry_run?: boolean; bundle?: string } & Record<string, unknown>;
  progress: JobProgress;
  report: { files?: Record<string, number>; segments?: Record<string, number>; seconds?: number } | null;
  error: { code: string; detail: string } | null;
  is_cancelling: boolean;
  created_at: number;
  started_at: number | null;
  ended_at: number | null;
}

export interface JobFile {
  path: string;
  outcome: string;
  code: string | null;
  reason: string | null;
  attempts: number;
}

export interface Gate {
  gate: string;
  value: number;
  active: number | null;
  limit: number | null;
  passed: boolean;
  verdict?: string;
  reason: string;
}

export interface Release {
  release_id: string;
  bundle_id: string;
  state: "active" | "building" | "ready" | "refused";
  created_at: number;
  is_previous: boolean;
  has_calibration: boolean;
  gates: { passed?: boolean; reasons?: string[]; gates?: Gate[] };
  library: { num_segments?: number; num_assets?: number };
  bundle: BundleFacts | null;
}

export interface Finding {
  asset_id: string;
  path: string;
  verdict: "mismatch" | "silent" | "shifted" | "cannot_tell" | "fits";
  match_probability: number | null;
  score: number;
  offset_seconds: number;
  score_at_offset: number;
  mark?: Mark | null;
}

export type Mark = "fixed" | "not_a_fault";

export interface Item {
  asset_id: string;
  start_seconds: number | null;
  end_seconds: number | null;
  modality: Modality | null;
  note: string;
  query: string | null;
}

export interface Collection {
  collection_id: string;
  name: string;
  num_items: number;
  items?: Item[];
}
