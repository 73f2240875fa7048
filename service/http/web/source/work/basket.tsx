// The basket: collections of hits, in order, with notes; exported for an editor.

import { useEffect, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { assetAddress, foley, lineOf, read, save } from "../api";
import { formatCut, nameOf } from "../format";
import { say } from "../state";
import type { Collection } from "../types";
import { useNear } from "../waveform";
import { collections, current, loadCollections, makeCollection, removeCollection, renameCollection, setItems } from "./collections";

export function Basket() {
  const [fault, setFault] = useState("");
  const attempt = (work: Promise<unknown>) => void work.then(() => setFault(""), (error) => setFault(lineOf(error)));
  useEffect(() => attempt(loadCollections()), []);
  const chosen = current.value;
  const items = chosen?.items ?? [];
  const ask = (question: string, given = "") => prompt(question, given)?.trim();
  return (
    <div class="room">
      <section class="panel" aria-labelledby="basket-title">
        <div class="bar">
          <h2 id="basket-title">Basket</h2>
          {collections.value.length > 0 && (
            <label class="quiet">Collection <select value={chosen?.collection_id} onChange={(event) => attempt(loadCollections(event.currentTarget.value))}>
              {collections.value.map((one) => <option key={one.collection_id} value={one.collection_id}>{one.name} ({one.num_items})</option>)}
            </select></label>
          )}
          <button type="button" onClick={() => { const name = ask("Name of the new collection"); if (name) attempt(makeCollection(name)); }}>New…</button>
          {chosen && <button type="button" onClick={() => { const name = ask("New name", chosen.name); if (name) attempt(renameCollection(chosen.collection_id, name)); }}>Rename…</button>}
          {chosen && <button type="button" class="danger" onClick={() => { if (confirm(`Delete the collection “${chosen.name}”? The files stay.`)) attempt(removeCollection(chosen.collection_id)); }}>Delete…</button>}
        </div>
        <p role="alert" class="fault">{fault}</p>
        {!items.length && !fault && <p class="quiet">Nothing is in it yet. Press <kbd>b</kbd> on a result or a file of the library.</p>}
        <ol class="plain items">
          {items.map((item, at) => <Row key={`${item.asset_id} ${item.start_seconds} ${at}`} item={item} at={at} items={items} attempt={attempt} />)}
        </ol>
        {chosen && items.length > 0 && <Export collectionId={chosen.collection_id} title={chosen.name} />}
      </section>
    </div>
  );
}

interface RowProps {
  item: Collection["items"][number];
  at: number;
  items: Collection["items"];
  attempt: (work: Promise<unknown>) => void;
}

function Row({ item, at, items, attempt }: RowProps) {
  const name = item.path ? nameOf(item.path) : item.path === null ? "not indexed any more" : item.asset_id.slice(0, 12);
  const span = item.start_seconds !== null && item.end_seconds !== null ? formatCut(item.start_seconds, item.end_seconds) : "all of it";
  const hasPicture = item.modality !== "audio" && item.modalities?.includes("video");
  const Player = !hasPicture ? "audio" : ("video" as "audio");
  const move = (to: number) => {
    const next = items.toSpliced(at, 1).toSpliced(to, 0, item);
    attempt(setItems(next));
  };
  const [row, isNear] = useNear<HTMLLIElement>();
  const poster = isNear && hasPicture ? assetAddress(item.asset_id, "/thumbnail") : undefined;
  return (
    <li ref={row} data-card tabIndex={-1} aria-label={name}>
      <div class="grow">
        <span class="name" title={item.path ?? ""}>{name}</span>
        <span class="quiet"> {span}{item.query ? ` · found with ${item.query}` : ""}</span>
        <input aria-label={`Note on ${name}`} placeholder="Note" maxLength={4096} defaultValue={item.note}
          onChange={(event) => attempt(setItems(items.with(at, { ...item, note: event.currentTarget.value })))} />
      </div>
      <Player controls preload="none" {...(poster ? { poster } : {})} aria-label={name} src={`${assetAddress(item.asset_id, "/media")}#t=${item.start_seconds ?? 0}`} />
      <div class="row">
        <button type="button" class="small" aria-label={`Move ${name} up`} disabled={at === 0} onClick={() => move(at - 1)}>↑</button>
        <button type="button" class="small" aria-label={`Move ${name} down`} disabled={at === items.length - 1} onClick={() => move(at + 1)}>↓</button>
        <button type="button" class="small" aria-label={`Take ${name} out`} onClick={() => attempt(setItems(items.toSpliced(at, 1)))}>×</button>
      </div>
    </li>
  );
}

type Format = Schemas["FormatBody"]["format"];
type Rate = NonNullable<Schemas["ExportRequest"]["frame_rate"]>;

const RATES: Rate[] = ["23.976", "24", "25", "29.97df", "29.97", "30", "50", "59.94df", "59.94", "60"];

function Export({ collectionId, title }: { collectionId: string; title: string }) {
  const [formats, setFormats] = useState<[Format, string][]>([["edl", "CMX 3600 EDL"]]);
  const [format, setFormat] = useState<Format>("edl");
  const [rate, setRate] = useState<Rate>("25");
  const [from, setFrom] = useState("");
  const [to, setTo] = useState("");
  useEffect(() => {
    read(foley.GET("/v1/exports/formats")).then(({ formats }) => setFormats(formats.map(({ format, name }) => [format, name])), () => {}); // the one above
  }, []);
  const submit = async (event: Event) => {
    event.preventDefault();
    const body = { collection_id: collectionId, format, frame_rate: rate, title, ...(from ? { path_map: [[from, to]] } : {}) };
    await save(foley.POST("/v1/exports", { body, parseAs: "blob" }), `${title}.${format}`).then((name) => say(`Saved ${name}.`), (error) => say(lineOf(error)));
  };
  return (
    <form class="export" onSubmit={submit}>
      <h3>Export</h3>
      <div class="filter-fields">
        <label class="field">Format <select id="format" value={format} onChange={(event) => setFormat(event.currentTarget.value as Format)}>
          {formats.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
        </select></label>
        <label class="field">Frames a second <select value={rate} onChange={(event) => setRate(event.currentTarget.value as Rate)}>
          {RATES.map((one) => <option key={one} value={one}>{one.replace("df", " drop frame")}</option>)}
        </select></label>
        <label class="field">Paths that begin with <input placeholder="/media" value={from} onInput={(event) => setFrom(event.currentTarget.value)} /></label>
        <label class="field">begin there with <input placeholder="Z:\media" value={to} onInput={(event) => setTo(event.currentTarget.value)} /></label>
      </div>
      <button type="submit">Export</button>
    </form>
  );
}
