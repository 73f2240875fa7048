// One file of the library: a player, its facts, its metadata to edit, suggested tags, and where to go on from it.

import { useEffect, useRef, useState } from "preact/hooks";
import { assetAddress, foley, lineOf, ofAsset, read } from "../api";
import { readValue } from "../filters";
import { formatBytes, formatDate, formatCut, formatTime, NAMES, nameOf } from "../format";
import { lazy } from "../lazy";
import { playFrom } from "../players";
import { follow } from "../search/follow";
import { goTo, say, showLibrary } from "../state";
import type { Asset, Metadata, Modality, Value } from "../types";
import { saveSegment } from "../segments";
import type { Span } from "../strip";
import { Filmstrip, Waveform } from "../waveform";
import { addToBasket } from "../work/collections";
import { SuggestedTags } from "./tags";

const AssetStrip = lazy(() => import("../asset_strip").then((module) => module.AssetStrip));

export function Detail({ assetId, onChange }: { assetId: string; onChange: (asset: Asset) => void }) {
  const [asset, setAsset] = useState<Asset | null>(null);
  const [fault, setFault] = useState("");
  const [cut, setCut] = useState<Span | null>(null);
  const title = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    read(foley.GET("/v1/assets/{asset_id}", { params: ofAsset(assetId) })).then(setAsset, (error) => setFault(lineOf(error)));
  }, [assetId]);
  useEffect(() => title.current?.focus(), [asset !== null]);
  const change = (changed: Asset) => {
    setAsset(changed);
    onChange(changed);
  };
  if (!asset) return <aside class="panel detail"><p class="quiet" role="status">{fault || "Loading…"}</p></aside>;
  const name = nameOf(asset.path);
  return (
    <aside class="panel detail" aria-labelledby="asset-title" onKeyDown={(event) => event.key === "Escape" && goTo("library")}>
      <div class="bar">
        <h2 id="asset-title" ref={title} tabIndex={-1} class="name">{name}</h2>
        <button type="button" class="small" onClick={() => goTo("library")}>Close</button>
      </div>
      <Media asset={asset} cut={cut} onCut={setCut} />
      <Onwards asset={asset} cut={cut} />
      <Facts asset={asset} />
      <MetadataForm asset={asset} onChange={change} />
      <SuggestedTags assetId={assetId} onChange={change} />
    </aside>
  );
}

function Media({ asset, cut, onCut }: { asset: Asset; cut: Span | null; onCut: (cut: Span | null) => void }) {
  const player = useRef<HTMLVideoElement>(null);
  const kind: Modality = asset.modalities.includes("video") ? "video" : "audio";
  const Player = kind as "video";
  const seconds = asset.media.duration_seconds;
  const seek = (to: number) => player.current && playFrom(player.current, to);
  const pictures = (
    <>
      {kind === "video" && <Filmstrip assetId={asset.asset_id} />}
      {asset.modalities.includes("audio") && <Waveform assetId={asset.asset_id} onSeek={seek} />}
    </>
  );
  return (
    <>
      <Player ref={player} src={assetAddress(asset.asset_id, "/media")} controls preload="metadata" playsInline aria-label={nameOf(asset.path)} />
      {!seconds ? pictures
        : <AssetStrip assetId={asset.asset_id} shows={asset.modalities} span={[0, seconds]} player={player} cut={cut} onCut={onCut} onSeek={seek} placeholder={pictures} />}
    </>
  );
}

function Onwards({ asset, cut }: { asset: Asset; cut: Span | null }) {
  const kind: Modality = asset.modalities.includes("video") ? "video" : "audio";
  const item = { asset_id: asset.asset_id, start_seconds: cut?.[0] ?? null, end_seconds: cut?.[1] ?? null };
  const remove = async () => {
    if (!confirm(`Remove ${nameOf(asset.path)} from the index? The file stays where it is.`)) return;
    await foley.DELETE("/v1/assets/{asset_id}", { params: ofAsset(asset.asset_id) }).then(async () => {
      say("Removed from the index.");
      goTo("library");
      await showLibrary();
    }, (error) => say(lineOf(error)));
  };
  const savePart = ([start, end]: Span) => void saveSegment(asset.asset_id, { start, end });
  return (
    <div class="tools">
      {cut && <button type="button" onClick={() => savePart(cut)}>Download {formatCut(...cut)}</button>}
      <button type="button" onClick={() => follow(asset, kind, kind)}>More like this</button>
      <button type="button" onClick={() => follow(asset, "video", "audio")} disabled={kind === "audio"}>Find its sound</button>
      <button type="button" onClick={() => follow(asset, "audio", "video")} disabled={!asset.modalities.includes("audio")}>Find its picture</button>
      <button type="button" onClick={() => void addToBasket(item, nameOf(asset.path))}>To the basket</button>
      <button type="button" onClick={() => void navigator.clipboard.writeText(asset.path).then(() => say("Path copied."))}>Copy the path</button>
      <button type="button" class="danger" onClick={() => void remove()}>Remove from the index…</button>
    </div>
  );
}

function Facts({ asset: { paths, media, modalities, num_segments } }: { asset: Asset }) {
  const facts: [string, string][] = [
    ["Length", media.duration_seconds === null ? "unknown" : formatTime(media.duration_seconds)],
    ["Has", modalities.map((one) => NAMES[one]).join(" and ")],
    ["Picture", media.video_codec ? `${media.video_codec} ${media.width}×${media.height} ${media.frame_rate?.toFixed(2) ?? "?"} fps` : ""],
    ["Sound", media.audio_codec ? `${media.audio_codec} ${media.sample_rate_hz} Hz, ${media.num_channels} ch` : ""],
    ["Size", media.size_bytes ? formatBytes(media.size_bytes) : ""],
    ["Changed", media.modified_ns ? formatDate(media.modified_ns / 1e9) : ""],
    ["Segments", String(num_segments)],
    [paths.length > 1 ? "Paths" : "Path", paths.join("\n")],
    ...Object.entries(media.said ?? {}).map(([name, value]): [string, string] => [`It says: ${name.replaceAll("_", " ")}`, value === null ? "" : show(value)]),
  ];
  return (
    <dl class="facts-list">
      {facts.filter(([, value]) => value).map(([label, value]) => <div key={label}><dt>{label}</dt><dd>{value}</dd></div>)}
    </dl>
  );
}

const show = (value: Value | Value[]): string => (Array.isArray(value) ? value.join(", ") : String(value));

function MetadataForm({ asset, onChange }: { asset: Asset; onChange: (asset: Asset) => void }) {
  const [key, setKey] = useState("");
  const [value, setValue] = useState("");
  const [said, setSaid] = useState("");
  const patch = async (metadata: Record<string, Value | Value[] | null>) => {
    try {
      onChange(await read(foley.PATCH("/v1/assets/{asset_id}", { params: ofAsset(asset.asset_id), body: { metadata } })));
      setSaid("Saved.");
    } catch (error) {
      setSaid(lineOf(error));
    }
  };
  const add = (event: Event) => {
    event.preventDefault();
    if (!key.trim() || !value.trim()) return setSaid("Give a name and a value.");
    const values = value.split(",").map(readValue);
    void patch({ [key.trim()]: values.length > 1 ? values : values[0]! }).then(() => { setKey(""); setValue(""); });
  };
  const change = (name: string, given: string, before: Metadata[string]) => {
    const values = Array.isArray(before) ? given.split(",").map(readValue) : typeof before === "string" ? given : readValue(given);
    if (show(values) !== show(before)) void patch({ [name]: values });
  };
  return (
    <section aria-labelledby="metadata-title">
      <h3 id="metadata-title">Metadata</h3>
      {Object.entries(asset.metadata).map(([name, before]) => (
        <div key={name} class="pair-row">
          <span class="name">{name}</span>
          <input aria-label={name} defaultValue={show(before)} onChange={(event) => change(name, event.currentTarget.value, before)} />
          <button type="button" class="small" aria-label={`Remove ${name}`} onClick={() => void patch({ [name]: null })}>×</button>
        </div>
      ))}
      <form class="pair-row" onSubmit={add}>
        <input aria-label="Name of new metadata" placeholder="mood" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        <input aria-label="Value of new metadata" placeholder="calm, cold" value={value} onInput={(event) => setValue(event.currentTarget.value)} />
        <button type="submit" class="small">Add</button>
      </form>
      <p class="quiet" role="status">{said}</p>
    </section>
  );
}
